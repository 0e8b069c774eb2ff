"""Certified lower bounds of barrier time at trace scale; proofs in ``docs/bounds.md``."""

from brsolver.oracles.bounds.admission import earliest_admission, least_steps
from brsolver.oracles.bounds.fixed import admissions_bound, fcfs_bound
from brsolver.oracles.bounds.free import free_bound
from brsolver.oracles.bounds.phases import PhaseGap, PhaseGaps, phase_gaps
from brsolver.oracles.bounds.result import BoundResult, PhaseSplit, Window

__all__ = [
    "BoundResult",
    "PhaseGap",
    "PhaseGaps",
    "PhaseSplit",
    "Window",
    "admissions_bound",
    "earliest_admission",
    "fcfs_bound",
    "free_bound",
    "least_steps",
    "phase_gaps",
]
