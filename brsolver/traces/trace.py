"""The trace: what arrives, when, and how long it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError, TraceError
from brsolver.traces.turns import (
    DELAY,
    check_turns,
    delays_of,
    detach,
    nominal_arrivals,
    previous_turns,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


MAX_LENGTH = 2**24
"""Longest prompt and longest output in tokens: simulators size their calendars by it."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Trace:
    """Requests in order of arrival, as struct of arrays.

    Attributes
    ----------
    prompt_tokens : ndarray of int64, shape (n,)
        Prompt length ``s_i`` of each request, in tokens, 1 to `MAX_LENGTH`.
    output_tokens : ndarray of int64, shape (n,)
        Output length ``o_i`` of each request, in tokens, 1 to `MAX_LENGTH`.
    arrival_s : ndarray of float64, shape (n,), or None
        Arrival times in seconds since the first request, non-decreasing; None if the source
        has lengths only. NaN for a turn that follows another: it comes `delay_s` after that ends.
    name : str
        What reports call the trace: the file's name or ``preset:NAME``.
    source_format : str
        Name of the reader or ``"preset"``.
    surrogate : bool
        True for synthetic traces that imitate a published one; printed wherever results are.
    columns : mapping of str to ndarray
        Optional columns, each of length n: ``max_tokens``, ``cached_tokens`` (of the prompt, in a
        prefix cache), ``session``, ``model``, ``tenant``, ``prompt_hash``, ``delay_s`` (seconds
        from the end of the session's previous turn, which this one follows, to its arrival; NaN
        for requests that follow none), ``detached`` (true for turns that followed one that was
        cut away), and for prefix-hash chains the ragged pair ``hash_offsets`` (length n + 1) and
        ``hash_values``.
    skipped_rows : int
        Bad rows that were left out on request.
    origin_s : float
        Where time 0 lies on the source's own clock, in seconds: since 1970 for dates.
    rows : ndarray of int64, shape (n,), or None
        Where each request stands in its file, for messages; None if it comes from none.
    counted : str
        How rows are counted: ``"line of the file"`` or ``"index from 0"``.
    notes : tuple of str
        What whoever reads the file must know: which column was taken for what, what was left
        out. Commands print each once.
    """

    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    arrival_s: NDArray[np.float64] | None = None
    name: str = "trace"
    source_format: str = "memory"
    surrogate: bool = False
    columns: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    skipped_rows: int = 0
    origin_s: float = 0.0
    rows: NDArray[np.int64] | None = None
    counted: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        prompt = _length_column(self.name, "prompt_tokens", self.prompt_tokens)
        output = _length_column(self.name, "output_tokens", self.output_tokens)
        object.__setattr__(self, "prompt_tokens", prompt)
        object.__setattr__(self, "output_tokens", output)
        if prompt.size != output.size:
            raise TraceError(
                f"{self.name}: {prompt.size} prompt lengths but {output.size} output lengths"
            )
        if prompt.size == 0:
            raise TraceError(f"{self.name}: the trace holds no requests")
        self._settle_turns(prompt.size)
        if self.arrival_s is not None:
            object.__setattr__(
                self,
                "arrival_s",
                _arrival_column(self.name, self.arrival_s, prompt.size, self.delay_s),
            )
        check_turns(self.name, self.columns, self.arrival_s)

    def _settle_turns(self, size: int) -> None:
        """Leave out a column of delays that has none: requests then are as if it were not there."""
        delay = delays_of(self.columns)
        if delay is not None and delay.shape != (size,):
            raise TraceError(f"{self.name}: {delay.size} delays for {size} requests")
        if delay is not None and np.isnan(delay).all():
            rest = {key: column for key, column in self.columns.items() if key != DELAY}
            object.__setattr__(self, "columns", rest)

    def __len__(self) -> int:
        return int(self.prompt_tokens.size)

    @property
    def delay_s(self) -> NDArray[np.float64] | None:
        """Every request's delay after its previous turn, in seconds; None if none follows one."""
        return delays_of(self.columns)

    @property
    def follows(self) -> NDArray[np.bool_]:
        """Which requests come after another of their session has ended, shape (n,)."""
        delay = self.delay_s
        return np.zeros(len(self), np.bool_) if delay is None else ~np.isnan(delay)

    @property
    def previous(self) -> NDArray[np.int64]:
        """The row of the turn that each request follows, shape (n,), -1 where it follows none."""
        return previous_turns(self.columns, len(self))

    @property
    def span_s(self) -> float | None:
        """Seconds from the first to the last of the given arrival times; None if there are none."""
        return None if self.arrival_s is None else float(np.nanmax(self.arrival_s))

    def head(self, limit: int | None) -> Trace:
        """Return the first `limit` requests (all of them if None)."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise ParameterError(f"limit must be at least 1 request, got {limit}")
        return self.take(np.arange(limit))

    def take(self, rows: NDArray[np.integer]) -> Trace:
        """Return the requests at `rows`, in that order, arrival times re-based to the first.

        A turn whose previous one is left out follows the one before that; if none is left, it is
        detached: it arrives at a time of its own, at which it would have come if nothing took
        time, or as near to it as the order of rows allows.
        """
        columns = {
            key: values[rows]
            for key, values in self.columns.items()
            if key not in ("hash_offsets", "hash_values")
        }
        columns.update(take_chains(self.columns, rows))
        arrival, origin = self._detached(columns, rows), self.origin_s
        if arrival is not None:
            origin += float(arrival[0])
            arrival = arrival - arrival[0]
        return replace(
            self,
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            arrival_s=arrival,
            columns=columns,
            origin_s=origin,
            rows=None if self.rows is None else self.rows[rows],
        )

    def place(self, request: int) -> str:
        """Say where a request stands: in its file, or in the trace."""
        if self.rows is None:
            return f"request {request}"
        return f"row {self.rows[request]} ({self.counted})"

    def _detached(
        self, taken: dict[str, NDArray[np.generic]], rows: NDArray[np.integer]
    ) -> NDArray[np.float64] | None:
        """Return the arrival times at `rows`, and let turns go that follow nobody of these."""
        if self.arrival_s is None:
            return detach(taken, None, None)
        if DELAY not in taken:
            given: NDArray[np.float64] = self.arrival_s[rows]
            return given
        nominal = nominal_arrivals(self.columns, self.arrival_s, np.zeros(len(self)))
        return detach(taken, self.arrival_s[rows], nominal[rows])

    def after(self, rows: int) -> Trace:
        """Return the requests from row `rows` on, arrival times re-based to the first of them."""
        if not 0 <= rows < len(self):
            raise ParameterError(
                f"{self.name}: nothing is left after {rows} of its {len(self)} requests"
            )
        return self.take(np.arange(rows, len(self))) if rows else self

    def fingerprint(self) -> str:
        """Return a short digest of lengths, arrival times and turns, stable across machines."""
        digest = hashlib.sha256()
        for column in (self.prompt_tokens, self.output_tokens, self.arrival_s):
            digest.update(b"-" if column is None else np.ascontiguousarray(column).tobytes())
        if self.delay_s is not None:
            digest.update(np.ascontiguousarray(self.delay_s).tobytes() + self.previous.tobytes())
        return digest.hexdigest()[:16]


def _length_column(name: str, label: str, values: NDArray[np.int64]) -> NDArray[np.int64]:
    column = np.asarray(values)
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise TraceError(
            f"{name}: {label} must be a one-dimensional array of integers, "
            f"got {column.dtype} of shape {column.shape}"
        )
    bad = np.flatnonzero((column < 1) | (column > MAX_LENGTH))
    if bad.size:
        value = column[bad[0]]
        limit = "at least 1 token" if value < 1 else f"at most {MAX_LENGTH:,} tokens"
        raise TraceError(f"{name}: row {bad[0]}: {label} is {value}, must be {limit}")
    return np.ascontiguousarray(column, dtype=np.int64)


def _arrival_column(
    name: str,
    values: NDArray[np.float64],
    size: int,
    delay_s: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    column = np.ascontiguousarray(values, dtype=np.float64)
    if column.shape != (size,):
        raise TraceError(f"{name}: {column.size} arrival times for {size} requests")
    follows = np.zeros(size, np.bool_) if delay_s is None else np.isnan(column) & ~np.isnan(delay_s)
    bad = np.flatnonzero(~np.isfinite(column) & ~follows)
    if bad.size:
        raise TraceError(f"{name}: row {bad[0]}: arrival time is {column[bad[0]]}, must be finite")
    timed = np.flatnonzero(~follows)
    late = np.flatnonzero(np.diff(column[timed]) < 0)
    if late.size:
        before, row = int(timed[late[0]]), int(timed[late[0] + 1])
        raise TraceError(
            f"{name}: row {row}: arrival time {column[row]:.6f} s is before the previous row's "
            f"{column[before]:.6f} s; sort the trace by time"
        )
    return column


def take_chains(
    columns: Mapping[str, NDArray[np.generic]], rows: NDArray[np.integer]
) -> dict[str, NDArray[np.generic]]:
    """Return the prefix-hash chains at `rows` as a ragged pair of their own; {} if there are none.

    Parameters
    ----------
    columns : mapping of str to ndarray
        As in `Trace`.
    rows : ndarray of int, shape (k,)
        Which requests.
    """
    if "hash_offsets" not in columns:
        return {}
    offsets = columns["hash_offsets"].astype(np.int64, copy=False)
    values = columns["hash_values"]
    lengths = (offsets[1:] - offsets[:-1])[rows]
    new_offsets = np.concatenate(([0], np.cumsum(lengths)))
    starts = np.repeat(offsets[:-1][rows] - new_offsets[:-1], lengths)
    return {"hash_offsets": new_offsets, "hash_values": values[starts + np.arange(starts.size)]}
