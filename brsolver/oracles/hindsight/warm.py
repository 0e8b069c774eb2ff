"""Compile before the clock starts."""

from __future__ import annotations

import contextlib

import numpy as np

from brsolver.errors import MissingExtraError
from brsolver.oracles.bounds import fcfs_bound, free_bound
from brsolver.oracles.hindsight.anytime import hindsight_anytime
from brsolver.oracles.hindsight.cp_sat import hindsight_cp_sat
from brsolver.oracles.hindsight.dp import hindsight_dp
from brsolver.oracles.hindsight.follow import replay
from brsolver.oracles.hindsight.local_search import SwapSearch, smoothest
from brsolver.oracles.schedule import fcfs_schedule, least_loaded
from brsolver.traces.trace import Trace

SHORT_S = 0.3
"""For a search that knows no other end."""

PLENTY_S = 60.0
"""For what is solved in milliseconds once it is compiled and its solver is loaded."""


def warm_up(search: bool = True) -> None:
    """Run everything once on a tiny trace, so that a budget buys search and not compilation.

    Compiled kernels are kept on disk, so this takes seconds once and a fraction of one later;
    loading CP-SAT takes a second in every process.

    Parameters
    ----------
    search : bool
        Whether to warm the dynamic programme and the anytime search too, not the bounds alone.
    """
    lengths = 1 + np.arange(12) % 5
    trace = Trace(prompt_tokens=9 * lengths, output_tokens=lengths, name="warm-up")
    known = fcfs_bound(trace, workers=2, slots=2)
    free_bound(trace, workers=2, slots=2)
    if not search:
        return
    schedule = fcfs_schedule(trace, 2, 2)
    start = least_loaded(schedule)
    hindsight_dp(schedule)
    replay(trace, start, schedule.start, workers=2, slots=2, pool=schedule.pool)
    SwapSearch(schedule, start).run(1, 1.0)
    # A run within the reach of dynamic programming needs no solver; one that does will say so.
    with contextlib.suppress(MissingExtraError):
        # By itself: compiling would eat the time in which the search comes by its solver.
        hindsight_cp_sat(schedule, budget_s=PLENTY_S, warm_start=start)
        hindsight_anytime(schedule, budget_s=SHORT_S, warm_start=smoothest(schedule), known=known)
