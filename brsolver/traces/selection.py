"""Which requests of a source are taken: a part by count, by time and by size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import TraceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.traces.read_options import Moment, ReadOptions
    from brsolver.traces.trace import Trace

_DATED_S = 1e8
"""Later than that after 1970, in seconds, a clock shows dates; a machine's up-time does not."""


class Selection:
    """Chooses among requests that come in order of time, some at a time.

    Parameters
    ----------
    options : ReadOptions
    ticks_per_s : float
        Units of the times in one second.
    label : str
        What messages call the source.
    """

    def __init__(self, options: ReadOptions, *, ticks_per_s: float, label: str) -> None:
        self._options = options
        self._ticks_per_s = ticks_per_s
        self._label = label
        self._since, self._until = options.window
        self._first: Any = None
        self.seen = 0
        self._taken = 0
        self._oversized = 0
        self.full = False

    def choose(
        self, ticks: NDArray[Any] | None, prompt: NDArray[np.int64], output: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], int]:
        """Choose among the next requests.

        Parameters
        ----------
        ticks : ndarray or None
            Their times in the source's units; None if it has none.
        prompt, output : ndarray of int64, shape (n,)
            Their lengths.

        Returns
        -------
        keep : ndarray of bool, shape (n,)
        looked : int
            How many had to be looked at; `full` says whether that was all.

        Raises
        ------
        TraceError
            A time window is asked for, and the source has no times, or no dates.
        """
        keep = np.arange(self.seen, self.seen + prompt.size) >= self._options.skip
        looked = self._cut_by_time(ticks, keep)
        large = self._cut_by_size(prompt, output, keep)
        if self._options.limit is not None:
            looked = self._cut_by_count(keep, looked)
        self._oversized += int(large[:looked].sum())
        self.seen += looked
        self._taken += int(keep.sum())
        return keep, looked

    def notes(self) -> list[str]:
        """Say what was left out for its size."""
        if not self._oversized:
            return []
        return [
            f"{self._oversized:,} of {self.seen:,} requests left out, which grow beyond "
            f"{self._options.drop_above:,} KV tokens"
        ]

    def why_empty(self) -> str:
        """Say why none of the requests was taken."""
        asked = {
            "skip": self._options.skip or None,
            "from": self._options.since,
            "until": self._options.until,
            "drop-oversized": self._options.drop_above,
        }
        given = ", ".join(f"--{name} {value}" for name, value in asked.items() if value is not None)
        # Who stops at a time has not seen what follows.
        of = "" if self._until is not None else f" of {self.seen:,}"
        return f"no request is left{of} with {given}"

    def _cut_by_time(self, ticks: NDArray[Any] | None, keep: NDArray[np.bool_]) -> int:
        """Leave out what is outside the window; return how many come before its end."""
        if self._since is None and self._until is None:
            return keep.size
        if ticks is None:
            raise TraceError(
                f"{self._label}: has no arrival times, must have them for --from, --until"
            )
        if not ticks.size:
            return 0
        if self._first is None:
            self._first = ticks[0]
        seconds = carried((ticks - self._first) / self._ticks_per_s)
        if self._since is not None:
            keep &= seconds >= self._bound(self._since)
        if self._until is None:
            return keep.size
        before = int(np.searchsorted(seconds, self._bound(self._until), side="left"))
        keep[before:] = False
        self.full = before < keep.size
        return before

    def _bound(self, moment: Moment) -> float:
        """Return a moment in seconds since the source's first request."""
        if moment.unix_ns is None:
            return moment.seconds or 0.0
        if self._first / self._ticks_per_s < _DATED_S:
            raise TraceError(
                f"{self._label}: its times are no dates, must have --from and --until in seconds "
                "since the first request"
            )
        # In the column's own type, as the rows' times are: then equal times compare as equal.
        ticks = type(self._first)(moment.unix_ns * int(self._ticks_per_s) // 10**9)
        if isinstance(self._first, np.floating):
            ticks = type(self._first)(moment.unix_ns / 1e9 * self._ticks_per_s)
        return float((ticks - self._first) / self._ticks_per_s)

    def _cut_by_size(
        self, prompt: NDArray[np.int64], output: NDArray[np.int64], keep: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Leave out what grows too large; return which those are."""
        if self._options.drop_above is None:
            return np.zeros(keep.size, dtype=np.bool_)
        large: NDArray[np.bool_] = keep & (prompt + output - 1 > self._options.drop_above)
        keep &= ~large
        return large

    def _cut_by_count(self, keep: NDArray[np.bool_], looked: int) -> int:
        """Leave out what is beyond the limit; return how many come before its end."""
        room = (self._options.limit or 0) - self._taken
        places = np.flatnonzero(keep)
        if places.size < room:
            return looked
        self.full = True
        end = int(places[room - 1]) + 1 if room else 0
        keep[end:] = False
        return end


def carried(times: NDArray[Any]) -> NDArray[Any]:
    """Return times in which turns that have none have that of the last row before them that has."""
    if times.dtype.kind != "f" or not np.isnan(times).any():
        return times
    rows = np.where(np.isnan(times), 0, np.arange(times.size))
    filled: NDArray[Any] = times[np.maximum.accumulate(rows)]
    return filled


def select(trace: Trace, options: ReadOptions) -> Trace:
    """Return what is asked for of a trace that was made, not read.

    Raises
    ------
    TraceError
        Nothing is left, or a time window is asked for where it cannot be.
    """
    selection = Selection(options, ticks_per_s=1.0, label=trace.name)
    keep, _ = selection.choose(trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    if not keep.any():
        raise TraceError(f"{trace.name}: {selection.why_empty()}")
    chosen = trace if keep.all() else trace.take(np.flatnonzero(keep))
    notes = (f"{trace.name}: {note}" for note in selection.notes())
    return replace(chosen, notes=(*trace.notes, *notes))
