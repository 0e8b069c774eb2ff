"""From batches of rows to a trace: the checks every format shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from brsolver.errors import TraceError
from brsolver.traces.fields import Field, show
from brsolver.traces.selection import Selection
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from brsolver.traces.batches import Batch
    from brsolver.traces.read_options import ReadOptions
    from brsolver.traces.source import Source

NO_ROW = np.iinfo(np.int64).max
_IN_ORDER = "must be no earlier than in the rows before it; --sort sorts the rows by time"
_COUNTED = {"line": "line of the file", "index": "index from 0"}

Columns = dict[str, NDArray[Any]]


class Collector:
    """Checks batches, keeps the good rows, and makes the trace of them.

    Parameters
    ----------
    source : Source
        The file, for messages and the trace's name.
    fields : sequence of Field
        Columns that the batches hold.
    options : ReadOptions
        What is taken of the rows, and the treatment of bad ones.
    ticks_per_s : float
        Units of the arrival column in one second.
    """

    def __init__(
        self,
        source: Source,
        fields: Sequence[Field],
        options: ReadOptions,
        *,
        ticks_per_s: float = 1.0,
    ) -> None:
        self._source = source
        self._fields = fields
        self._options = options
        self._ticks_per_s = ticks_per_s
        self._chunks: dict[str, list[Any]] = {field.target: [] for field in fields}
        self._rows: list[NDArray[np.int64]] = []
        self._counted = "line"
        self._selection = Selection(options, ticks_per_s=ticks_per_s, label=source.label)
        self._notes: dict[str, None] = {}
        self._size = 0
        self._skipped = 0
        self._latest: float | None = None

    def add(self, batch: Batch) -> bool:
        """Take a batch in; return True once no later row can be taken.

        Raises
        ------
        TraceError
            For the first bad row that precedes the last one taken, unless bad rows are skipped;
            and for a row that is late, unless the rows are to be sorted.
        """
        parsed = {f.target: f.parser.parse(batch.columns[f.source]) for f in self._fields}
        sound = np.ones(batch.rows.size, dtype=np.bool_)
        for _, good in parsed.values():
            sound &= good
        sound = self._fits(parsed, sound)
        late = np.zeros(sound.size, dtype=np.bool_)
        if "arrival" in parsed and not self._options.sort:
            late = self._out_of_order(parsed["arrival"][0], sound)
        keep, end = self._select(batch, parsed, np.flatnonzero(sound & ~late))
        self._account(batch, parsed, sound, late, end)
        self._notes.update(dict.fromkeys(batch.notes))
        self._keep(batch, parsed, keep)
        return self._selection.full

    def _select(
        self,
        batch: Batch,
        parsed: Mapping[str, tuple[Any, NDArray[np.bool_]]],
        good: NDArray[np.intp],
    ) -> tuple[NDArray[np.intp], int]:
        """Return which of the good rows are taken, and the number of the row that ends it."""
        if self._options.sort or not good.size:
            # What comes first is known only when all rows are there.
            return good, NO_ROW
        arrival = parsed["arrival"][0] if "arrival" in parsed else None
        if arrival is not None:
            self._latest = arrival[good[-1]]
            arrival = arrival[good]
        prompt, output = (parsed[name][0][good] for name in ("prompt_tokens", "output_tokens"))
        taken, looked = self._selection.choose(arrival, prompt, output)
        end = int(batch.rows[good[looked - 1]]) if looked else -1
        return good[taken], end if self._selection.full else NO_ROW

    def trace(
        self,
        *,
        source_format: str,
        derive: Callable[[Columns], Columns] | None = None,
        notes: Sequence[str] = (),
    ) -> Trace:
        """Return what was collected.

        Parameters
        ----------
        source_format : str
            Name of the reader.
        derive : callable, optional
            Turns the optional columns as read into those of the trace.
        notes : sequence of str
            What the user is to be told of how the file was read.
        """
        if not self._size:
            raise TraceError(f"{self._source.label}: {self._why_empty()}")
        if self._options.sort:
            self._sort()
        timed = "arrival" in self._chunks
        origin = float(self._chunks["arrival"][0][0]) / self._ticks_per_s if timed else 0.0
        arrival = self._seconds() if timed else None
        prompt, output = self._take("prompt_tokens"), self._take("output_tokens")
        columns: Columns = {}
        for target in list(self._chunks):
            columns.update(self._optional(target))
        surrogate = columns.pop("surrogate", None)
        return Trace(
            prompt_tokens=prompt,
            output_tokens=output,
            arrival_s=arrival,
            name=self._source.path.name,
            source_format=source_format,
            surrogate=surrogate is not None and bool(surrogate.any()),
            columns=derive(columns) if derive else columns,
            skipped_rows=self._skipped,
            origin_s=origin,
            rows=np.concatenate(self._rows),
            counted=_COUNTED[self._counted],
            notes=(*notes, *self._told()),
        )

    def _fits(
        self, parsed: Mapping[str, tuple[Any, NDArray[np.bool_]]], sound: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Tell which of the sound rows go with those before them."""
        del parsed
        return sound

    def _told(self) -> list[str]:
        told = self._selection.notes()
        return [f"{self._source.path.name}: {note}" for note in (*self._notes, *told)]

    def _sort(self) -> None:
        """Order all rows by time, rows of the same time as they stood, and choose among them."""
        prompt, output = (
            np.concatenate(self._chunks[n]) for n in ("prompt_tokens", "output_tokens")
        )
        order, ticks = np.arange(prompt.size), None
        if "arrival" in self._chunks:
            ticks = np.concatenate(self._chunks["arrival"])
            order = self._in_order(ticks)
            ticks = ticks[order]
        keep, _ = self._selection.choose(ticks, prompt[order], output[order])
        order = order[keep]
        if not order.size:
            raise TraceError(f"{self._source.label}: {self._selection.why_empty()}")
        for target, chunks in self._chunks.items():
            self._chunks[target] = [_at(chunks, order)]
        self._rows = [np.concatenate(self._rows)[order]]

    def _in_order(self, ticks: NDArray[Any]) -> NDArray[np.intp]:
        """Return the rows by time, rows of the same time as they stood."""
        return np.argsort(ticks, kind="stable")

    def _out_of_order(self, ticks: NDArray[Any], sound: NDArray[np.bool_]) -> NDArray[np.bool_]:
        late = np.zeros(sound.size, dtype=np.bool_)
        times = ticks[sound]
        if times.size:
            start = times[:1] if self._latest is None else np.array([self._latest], times.dtype)
            # Skipping a late row leaves the running maximum as it was.
            before = np.maximum.accumulate(np.concatenate((start, times)))[:-1]
            late[sound] = times < before
        return late

    def _account(
        self,
        batch: Batch,
        parsed: Mapping[str, tuple[Any, NDArray[np.bool_]]],
        sound: NDArray[np.bool_],
        late: NDArray[np.bool_],
        end: int,
    ) -> None:
        """Count or report the bad rows that come before row number `end`; late ones never count.

        A file that runs backwards would otherwise lose nearly all of its rows in silence.
        """
        refused = late if self._options.skip_bad_rows else ~sound | late
        bad = np.flatnonzero(refused & (batch.rows < end))
        broken = [item for item in batch.broken if item.row < end]
        all_broken = not self._options.skip_bad_rows
        found = [(item.row, item.problem) for item in broken if all_broken or item.fatal]
        if bad.size or found:
            if bad.size:
                found.append((int(batch.rows[bad[0]]), self._problem(batch, parsed, int(bad[0]))))
            row, problem = min(found)
            counted = _COUNTED[batch.counted]
            raise TraceError(f"{self._source.label}: row {row} ({counted}): {problem}")
        self._skipped += int((~sound & (batch.rows < end)).sum()) + len(broken)

    def _problem(
        self, batch: Batch, parsed: Mapping[str, tuple[Any, NDArray[np.bool_]]], place: int
    ) -> str:
        for field in self._fields:
            if not parsed[field.target][1][place]:
                return _value_problem(batch, field, place)
        field = next(field for field in self._fields if field.target == "arrival")
        value = _value(batch, field, place)
        return f"{field.source} is {show(value)}, {_IN_ORDER}"

    def _keep(
        self, batch: Batch, parsed: Mapping[str, tuple[Any, Any]], keep: NDArray[np.intp]
    ) -> None:
        if not keep.size:
            return
        self._rows.append(batch.rows[keep])
        self._counted = batch.counted
        for target, (values, _) in parsed.items():
            whole = keep.size == len(values)
            self._chunks[target].append(
                values if whole else values.take(pa.array(keep) if _is_list(values) else keep)
            )
        self._size += keep.size

    def _take(self, target: str) -> NDArray[Any]:
        return np.concatenate(self._chunks.pop(target))

    def _seconds(self) -> NDArray[np.float64]:
        """Return times since the first request; traces may be large, so nearly in place."""
        ticks = self._take("arrival")
        ticks -= ticks[0].copy()
        seconds: NDArray[np.float64] = ticks.astype(np.float64, copy=False)
        seconds /= self._ticks_per_s
        return seconds

    def _optional(self, target: str) -> Columns:
        if _is_list(self._chunks[target][0]):
            return _ragged(self._chunks.pop(target))
        if any(chunk.dtype.kind == "U" for chunk in self._chunks[target]):
            self._chunks[target] = [chunk.astype(np.str_) for chunk in self._chunks[target]]
        column = self._take(target)
        return {target: _as_numbers(column) if self._source.container == "csv" else column}

    def _why_empty(self) -> str:
        if self._selection.seen or self._selection.full:
            return self._selection.why_empty()
        if self._skipped:
            return f"no good rows: all {self._skipped} rows are bad"
        return "the file holds no requests, only a header or nothing"


def _is_list(values: object) -> bool:
    return isinstance(values, pa.Array)


def _at(chunks: Sequence[Any], places: NDArray[np.intp]) -> Any:
    """Return the entries at `places` of a column in chunks."""
    if _is_list(chunks[0]):
        return pa.concat_arrays(chunks).take(pa.array(places))
    return np.concatenate(chunks)[places]


def _value(batch: Batch, field: Field, place: int) -> object:
    value = batch.columns[field.source][place]
    return value.as_py() if isinstance(value, pa.Scalar) else value


def _value_problem(batch: Batch, field: Field, place: int) -> str:
    value = _value(batch, field, place)
    state = "missing" if value is None or value == "" else show(value)
    return f"{field.source} is {state}, must be {field.parser.wanted(value)}"


def _as_numbers(column: NDArray[Any]) -> NDArray[Any]:
    """Read a text column as numbers if that loses nothing: CSV does not tell them apart."""
    if column.dtype.kind != "U":
        return column
    try:
        numbers = column.astype(np.int64)
    except (ValueError, OverflowError):
        return column
    return numbers if np.array_equal(numbers.astype(np.str_), column) else column


def _ragged(chunks: Sequence[pa.ListArray]) -> Columns:
    lengths = [np.diff(chunk.offsets.to_numpy(zero_copy_only=False)) for chunk in chunks]
    offsets = np.concatenate(([0], np.cumsum(np.concatenate(lengths)))).astype(np.int64)
    values = np.concatenate(
        [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    ).astype(np.int64)
    return {"hash_offsets": offsets, "hash_values": values}
