"""Turns that follow others: when one ends, the next of its session comes after a delay.

Such a turn has no arrival time of its own. Which one it follows is not written down: it is the
last row before it of the same session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Columns = Mapping[str, NDArray[np.generic]]

DELAY = "delay_s"
"""Column of `Trace`: seconds from the end of the turn before, NaN where a request follows none."""

DETACHED = "detached"
"""Column of `Trace`: which turns follow nobody any more, since all before them were cut away."""

NOBODY = -1


def delays_of(columns: Columns) -> NDArray[np.float64] | None:
    """Return every request's delay in seconds, shape (n,); None if no request follows another."""
    delay = columns.get(DELAY)
    return None if delay is None else delay.astype(np.float64, copy=False)


def previous_turns(columns: Columns, size: int) -> NDArray[np.int64]:
    """Return the row of the turn that each request follows, shape (n,), else `NOBODY`.

    Parameters
    ----------
    columns : mapping of str to ndarray
        As in `brsolver.traces.Trace`.
    size : int
        Requests n.
    """
    delay = delays_of(columns)
    if delay is None:
        return np.full(size, NOBODY, np.int64)
    return np.where(np.isnan(delay), NOBODY, rows_before(columns["session"]))


def rows_before(session: NDArray[Any]) -> NDArray[np.int64]:
    """Return the last earlier row with the same label for every row, shape (n,), else `NOBODY`.

    Rows without a session, whose label is the empty text, have none.
    """
    order = np.argsort(session, kind="stable")
    same = session[order][1:] == session[order][:-1]
    before = np.full(session.size, NOBODY, np.int64)
    before[order[1:][same]] = order[:-1][same]
    if session.dtype.kind == "U":
        before[session == ""] = NOBODY
    return before


def check_turns(name: str, columns: Columns, arrival_s: NDArray[np.float64] | None) -> None:
    """Raise `TraceError` unless every delay is one, and has a turn before it to count from."""
    delay = delays_of(columns)
    if delay is None:
        return
    follows = ~np.isnan(delay)
    _refuse(name, delay, follows & ~((delay >= 0) & np.isfinite(delay)), "at least 0 s and finite")
    if "session" not in columns:
        _refuse(name, delay, follows, "of a request with a session: it counts from its last turn")
    before = rows_before(columns["session"])
    wanted = "left out: the request has no session, or is the first of it"
    _refuse(name, delay, follows & (before == NOBODY), wanted)
    if arrival_s is not None:
        wanted = "left out: the request has an arrival time, and may have one of both"
        _refuse(name, delay, follows & ~np.isnan(arrival_s), wanted)


def _refuse(name: str, delay: NDArray[np.float64], bad: NDArray[np.bool_], must_be: str) -> None:
    rows = np.flatnonzero(bad)
    if rows.size:
        row = int(rows[0])
        raise TraceError(f"{name}: row {row}: {DELAY} is {delay[row]:g}, must be {must_be}")


def nominal_arrivals(
    columns: Columns, arrival_s: NDArray[np.float64], service_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return when requests would arrive if each took so long, in seconds, shape (n,).

    Parameters
    ----------
    columns : mapping of str to ndarray
        As in `brsolver.traces.Trace`.
    arrival_s : ndarray of float64, shape (n,)
        Arrival times, NaN for turns that follow others.
    service_s : ndarray of float64, shape (n,)
        Seconds from a request's arrival to its end.
    """
    previous, delay = previous_turns(columns, arrival_s.size), delays_of(columns)
    if delay is None:
        return arrival_s
    nominal = arrival_s.copy()
    for row in np.flatnonzero(previous != NOBODY).tolist():
        before = previous[row]
        nominal[row] = nominal[before] + service_s[before] + delay[row]
    return nominal


def detach(
    taken: dict[str, NDArray[np.generic]],
    arrival_s: NDArray[np.float64] | None,
    nominal_s: NDArray[np.float64] | None,
) -> NDArray[np.float64] | None:
    """Let turns that follow nobody among those taken have times of their own.

    A turn whose previous one was left out follows the one before that. One without any comes at
    its nominal time, though neither before the request before it nor after the next: rows are in
    order of arrival.

    Parameters
    ----------
    taken : dict of str to ndarray
        Columns of the requests taken, which is written: the delays, and who is detached.
    arrival_s, nominal_s : ndarray of float64, shape (k,), or None
        Arrival times of the requests taken, and nominal ones.

    Returns
    -------
    ndarray of float64, shape (k,), or None
        Arrival times, with those of detached turns.
    """
    delay = delays_of(taken)
    if delay is None:
        return arrival_s
    alone = ~np.isnan(delay) & (rows_before(taken["session"]) == NOBODY)
    if not alone.any():
        return arrival_s
    taken[DELAY] = np.where(alone, np.nan, delay)
    taken[DETACHED] = alone | taken.get(DETACHED, np.zeros(alone.size, np.bool_)).astype(np.bool_)
    if arrival_s is None or nominal_s is None:
        return arrival_s
    return _settled(arrival_s, nominal_s, alone)


def _settled(
    arrival_s: NDArray[np.float64], nominal_s: NDArray[np.float64], alone: NDArray[np.bool_]
) -> NDArray[np.float64]:
    known = ~np.isnan(arrival_s)
    low = np.maximum.accumulate(np.where(known, arrival_s, -np.inf))
    high = np.minimum.accumulate(np.where(known, arrival_s, np.inf)[::-1])[::-1]
    guess = np.where(alone, np.clip(nominal_s, low, high), low)
    return np.where(alone, np.maximum.accumulate(guess), arrival_s)
