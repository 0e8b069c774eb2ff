"""The part of a trace that is searched on, and the later one that says what it was worth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.simulator.components import Arrivals

if TYPE_CHECKING:
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

FILLINGS = 2
"""Times that a part's requests fill all slots at least, where requests come as slots free."""
FEWEST = 50
"""Requests of a part at least."""
RUNG = 3
"""Factor between a prefix and the next longer one."""
MOST_RUNGS = 3
RUNG_FILLINGS = 4
"""Times that the shortest prefix fills all slots: while they fill, nothing is told."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """The two parts of a trace.

    Attributes
    ----------
    tuning, validation : Trace
        The earlier and the later part.
    rungs : tuple of int
        Requests of the prefixes of `tuning` that trials are judged on, the last being all of it.
    blocks : tuple of (int, int)
        Where each start of the validation begins and ends, in rows of `validation`.
    """

    tuning: Trace
    validation: Trace
    rungs: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]

    @property
    def most_slots(self) -> int:
        """Slots, of all workers together, beyond which a part would not fill them often enough."""
        shortest = min(len(self.tuning), *(end - first for first, end in self.blocks))
        return shortest // FILLINGS


def split(trace: Trace, params: SimulationParams, *, validate_from: float, starts: int) -> Split:
    """Split a trace.

    Parameters
    ----------
    trace : Trace
    params : SimulationParams
        Of the published default, whose slots say how many requests are few.
    validate_from : float
        Share of the requests, in order of arrival, from which on they validate.
    starts : int
        Into how many pieces the later part is cut, each a start of its own; fewer if it is short,
        and two at least.

    Raises
    ------
    ParameterError
        A part is too short.
    """
    slots = sum(params.slots_each())
    least = max(FEWEST, FILLINGS * slots) if params.arrivals.by_events else FEWEST
    cut = round(len(trace) * validate_from)
    left = len(trace) - cut
    if cut < least or left < 2 * least:
        needed = max(least / validate_from, 2 * least / (1 - validate_from))
        raise ParameterError(
            f"{trace.name} has {len(trace):,} requests, must have at least {math.ceil(needed):,} "
            f"to be split at {validate_from:g}: {least:,} to search on and twice as many to "
            f"validate with, for {slots:,} slots"
        )
    rows = np.arange(len(trace))
    return Split(
        tuning=trace.take(rows[:cut]),
        validation=trace.take(rows[cut:]),
        rungs=_rungs(cut, slots if params.arrivals.by_events else 0),
        blocks=_blocks(left, min(starts, left // least)),
    )


def _rungs(size: int, slots: int) -> tuple[int, ...]:
    shortest = max(FEWEST, RUNG_FILLINGS * slots)
    sizes = (size // RUNG**power for power in range(MOST_RUNGS))
    return tuple(sorted(each for each in sizes if each == size or each >= shortest))


def _blocks(size: int, count: int) -> tuple[tuple[int, int], ...]:
    edges = [round(size * at / count) for at in range(count + 1)]
    return tuple(pairwise(edges))


def settled(trace: Trace, params: SimulationParams) -> tuple[Trace, SimulationParams]:
    """Fix when requests come, so that all trials and all parts of the trace meet the same traffic.

    A rate, or a utilisation of the slots as they are given, becomes times of arrival; a pool as
    many requests as the given workers would have waiting.
    """
    from brsolver.simulator.arrivals import arrival_times

    params = replace(params, arrivals=for_any(trace, params))
    if params.arrivals.mode != "rate":
        return trace, params
    timed = replace(trace, arrival_s=arrival_times(trace, params))
    return timed, replace(params, arrivals=Arrivals(mode="timestamps"))


def for_any(trace: Trace, params: SimulationParams) -> Arrivals:
    """Say when requests come so that it means the same for any server.

    As many slots as another setting has would make another rate of a utilisation.
    """
    from brsolver.simulator.arrivals import utilization_rate

    arrivals = params.arrivals
    if arrivals.mode == "pool":
        return replace(arrivals, pool=arrivals.pool or 4 * params.workers)
    if arrivals.utilization is not None:
        rate = utilization_rate(trace, params, arrivals.utilization)
        return Arrivals(mode="rate", rate=float(rate))
    return arrivals
