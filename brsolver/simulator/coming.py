"""Which requests come, in which order, and after which others: the books before a run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.simulator import _layout as lay
from brsolver.simulator.arrivals import arrival_times, prefill_times, ready_times

if TYPE_CHECKING:
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def empty_books(trace: Trace) -> tuple[IntArray, FloatArray]:
    """Return book and times of requests of which nothing is known but lengths.

    Where turns follow others both have the rows for that.

    Returns
    -------
    book : ndarray of int64, shape (BOOK_ROWS or BOOK_ROWS_WITH_TURNS, n)
    times : ndarray of float64, shape (TIME_ROWS or TIME_ROWS_WITH_TURNS, n)
    """
    book_rows, time_rows = lay.BOOK_ROWS, lay.TIME_ROWS
    if trace.delay_s is not None:
        book_rows, time_rows = lay.BOOK_ROWS_WITH_TURNS, lay.TIME_ROWS_WITH_TURNS
    book: IntArray = np.full((book_rows, len(trace)), -1, np.int64)
    book[lay.B_PROMPT] = trace.prompt_tokens
    book[lay.B_OUTPUT] = trace.output_tokens
    book[[lay.B_PREEMPTIONS, lay.B_STATUS, lay.B_GENERATED, lay.B_MOVES]] = 0
    book[[lay.B_CACHED, lay.B_COMPUTED]] = 0
    return book, np.full((time_rows, len(trace)), np.nan)


def expect_requests(
    trace: Trace, params: SimulationParams, book: IntArray, times: FloatArray
) -> None:
    """Write when requests come, in which order, and who follows whom.

    Raises
    ------
    ParameterError
        The trace lacks the timestamps that the regime asks for, or turns follow others through
        a tier of prefill workers.
    """
    if trace.delay_s is not None:
        _expect_turns(trace, params, book, times)
    if not params.arrivals.by_events:
        arrival = arrival_times(trace, params)
        times[lay.T_ARRIVAL] = arrival
        times[lay.T_READY] = ready_times(trace, arrival, params.prefill)
        # What follows another has no time yet, and comes last.
        book[lay.B_ORDER] = np.argsort(times[lay.T_READY], kind="stable")
    else:
        book[lay.B_ORDER] = np.argsort(trace.follows, kind="stable")


def _expect_turns(
    trace: Trace, params: SimulationParams, book: IntArray, times: FloatArray
) -> None:
    if params.prefill.mode == "tier":
        raise ParameterError(
            f"prefill is 'tier', and turns of {trace.name} follow others, must be none, delay or "
            "colocated: when a tier is free is known only with all arrivals"
        )
    followers = np.flatnonzero(trace.follows)
    book[lay.B_NEXT_TURN, trace.previous[followers]] = followers
    times[lay.T_DELAY] = trace.delay_s
    times[lay.T_PREFILL] = prefill_times(trace, params.prefill)


def count_expected(trace: Trace, cursor: lay.Cursor) -> None:
    """Tell the cursor how many requests are known to come from the beginning."""
    cursor["turns"] = trace.delay_s is not None
    cursor["known"] = cursor["firsts"] = len(trace) - int(trace.follows.sum())
