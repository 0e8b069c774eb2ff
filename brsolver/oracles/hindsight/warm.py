"""Compile before the clock starts."""

from __future__ import annotations

import numpy as np

from brsolver.oracles.bounds import fcfs_bound, free_bound
from brsolver.oracles.hindsight.anytime import hindsight_anytime
from brsolver.oracles.hindsight.dp import hindsight_dp
from brsolver.oracles.hindsight.entry import least_loaded
from brsolver.oracles.hindsight.local_search import smoothest
from brsolver.oracles.hindsight.schedule import fcfs_schedule
from brsolver.traces.model import Trace

SHORT_S = 0.3
"""Long enough for the search to come by all its parts."""


def warm_up(search: bool = True) -> None:
    """Run everything once on a tiny trace, so that a budget buys search and not compilation.

    Compiled kernels are kept on disk, so this takes seconds once and a fraction of one later.

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
    least_loaded(schedule)
    hindsight_dp(schedule)
    hindsight_anytime(schedule, budget_s=SHORT_S, warm_start=smoothest(schedule), known=known)
