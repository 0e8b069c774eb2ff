"""What to say of turns that follow others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.traces.turns import DETACHED

if TYPE_CHECKING:
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace


def turn_notes(trace: Trace, params: SimulationParams) -> list[str]:
    """Say when turns come that follow others, where it is not as the trace has it."""
    notes = []
    count = int(trace.follows.sum())
    if count and params.arrivals.by_events:
        notes.append(
            f"{count:,} turns of {trace.name} come once the one before has ended, without their "
            "delays: times do not count in a pool, nor with a number of clients"
        )
    detached = int(trace.columns[DETACHED].sum()) if DETACHED in trace.columns else 0
    if detached:
        notes.append(
            f"{detached:,} turns of {trace.name} follow one that is not part of the run, and come "
            "at times of their own"
        )
    return notes
