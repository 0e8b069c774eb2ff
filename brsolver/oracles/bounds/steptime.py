"""What bounds of barrier time say in seconds, beside what they say in KV tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.oracles.bounds.as_loads import ROUNDING
from brsolver.oracles.bounds.seconds import fixed_proofs, free_proofs
from brsolver.oracles.bounds.time_case import decoding_case

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime
    from brsolver.oracles.bounds.seconds import BarrierAt
    from brsolver.traces.trace import Trace


def makespan(
    trace: Trace,
    step_time: StepTime | None,
    at: BarrierAt,
    *,
    steps: int,
    workers: int,
    slots: int,
    fixed: bool,
) -> float:
    """Return the seconds that no run takes less than, prefill being done elsewhere.

    Parameters
    ----------
    trace : Trace
    step_time : StepTime or None
        None is the simulator's default.
    at : callable
        Bounds of barrier time where every prompt is longer by so many tokens.
    steps, workers, slots : int
        K or a lower bound of it, G and B.
    fixed : bool
        Whether admission steps are given, so that what is active at every step is known.
    """
    case = decoding_case(trace, steps, workers, slots, step_time)
    proofs = fixed_proofs(case, at) if fixed else free_proofs(case, at)
    return max(proofs.values()) * (1 - ROUNDING)
