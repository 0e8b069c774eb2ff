"""Rows of files in which turns follow others: what each must have, and what it may not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brsolver.traces.collector import NO_ROW, Collector
from brsolver.traces.fields import Parser, show
from brsolver.traces.selection import carried, select

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from brsolver.traces.batches import Batch
    from brsolver.traces.collector import Columns
    from brsolver.traces.fields import Field, Flags
    from brsolver.traces.read_options import ReadOptions
    from brsolver.traces.source import Source
    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberOrNothing(Parser):
    """Finite numbers of at least `minimum`, as float64; NaN where there is none."""

    minimum: float = -math.inf
    arrow_type = pa.float64()

    @property
    def must_be(self) -> str:  # type: ignore[override] # computed here, a constant elsewhere
        """What a value must be, in words."""
        least = "" if self.minimum == -math.inf else f" of at least {self.minimum:g}"
        return f"a finite number{least}, or left out"

    def _at_once(self, values: pa.Array) -> tuple[Any, Flags]:
        if pa.types.is_string(values.type):
            values = pc.if_else(pc.equal(values, ""), None, values)
        numbers = values.cast(pa.float64()).fill_null(math.nan).to_numpy(zero_copy_only=False)
        return numbers, self._good(numbers)

    def _one_by_one(self, values: Sequence[object]) -> tuple[Any, Flags]:
        # What is no number is as bad as infinity.
        numbers = np.array([_number(value) for value in values], np.float64)
        return numbers, self._good(numbers)

    def _good(self, numbers: NDArray[np.float64]) -> Flags:
        return np.isnan(numbers) | (np.isfinite(numbers) & (numbers >= self.minimum))


def _number(value: object) -> float:
    if value is None or value == "":
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return math.inf
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.inf


class TurnCollector(Collector):
    """A `Collector` of rows that have an arrival time, or a delay after their session's last row.

    The first row says whether the file has arrival times at all. All rows are read, and what is
    asked for is taken of the trace: a turn that is left out changes what others follow.
    """

    _timed: bool | None = None

    def __init__(
        self,
        source: Source,
        fields: Sequence[Field],
        options: ReadOptions,
        *,
        ticks_per_s: float = 1.0,
        delay_ticks_per_s: float = 1.0,
    ) -> None:
        everything = replace(options, limit=None, skip=0, since=None, until=None, drop_above=None)
        super().__init__(source, fields, everything, ticks_per_s=ticks_per_s)
        self._asked = options
        self._delay_ticks_per_s = delay_ticks_per_s
        self._sessions: set[str] = set()
        self._problems: dict[int, str] = {}
        self._names = {"session": "session", "arrival": "arrival time"}
        self._names |= {field.target: field.source for field in self._fields}

    def trace(
        self,
        *,
        source_format: str,
        derive: Callable[[Columns], Columns] | None = None,
        notes: Sequence[str] = (),
    ) -> Trace:
        """Return what was collected; see `Collector.trace`."""
        if not self._timed:
            self._chunks.pop("arrival", None)
        self._chunks["delay_s"] = [d / self._delay_ticks_per_s for d in self._chunks["delay_s"]]
        made = super().trace(source_format=source_format, derive=derive, notes=notes)
        return select(made, self._asked)

    def _select(
        self,
        batch: Batch,
        parsed: Mapping[str, tuple[Any, NDArray[np.bool_]]],
        good: NDArray[np.intp],
    ) -> tuple[NDArray[np.intp], int]:
        """Take all, and remember the last time that was given."""
        del batch
        if "arrival" in parsed:
            times = parsed["arrival"][0][good]
            times = times[~np.isnan(times)]
            self._latest = times[-1] if times.size else self._latest
        return good, NO_ROW

    def _in_order(self, ticks: NDArray[Any]) -> NDArray[np.intp]:
        return super()._in_order(carried(ticks))

    def _fits(
        self, parsed: Mapping[str, tuple[Any, NDArray[np.bool_]]], sound: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Tell which sound rows have what a first or a later turn must have."""
        delay = parsed["delay_s"][0]
        arrival = parsed["arrival"][0] if "arrival" in parsed else np.full(delay.size, math.nan)
        labels = [""] * sound.size
        if "session" in parsed:
            labels = [str(label) for label in parsed["session"][0].tolist()]
        fits, self._problems = sound.copy(), {}
        late = np.zeros_like(sound)
        if not self._options.sort:
            late = self._out_of_order(arrival, sound)
        for place in np.flatnonzero(sound & ~late).tolist():
            problem = self._turn_problem(labels[place], arrival[place], delay[place])
            if problem:
                fits[place], self._problems[place] = False, problem
            else:
                self._sessions.add(labels[place])
        return fits

    def _turn_problem(self, session: str, arrival: float, delay: float) -> str:
        """Say what is wrong with a row by what came before it; empty if nothing is."""
        later = session != "" and session in self._sessions
        if math.isnan(delay):
            return self._time_problem(session, arrival, later=later)
        label, time = self._names["delay_s"], self._names["arrival"]
        if not math.isnan(arrival):
            return f"{label} is {delay:g} and {time} is {arrival:g}, must be one of them"
        if later:
            return ""
        where = "without a" if session == "" else "in the first row of a"
        return f"{label} is {delay:g}, must be left out {where} {self._names['session']}"

    def _time_problem(self, session: str, arrival: float, *, later: bool) -> str:
        """Say what is wrong with a row that has no delay."""
        label, time = self._names["delay_s"], self._names["arrival"]
        timed = not math.isnan(arrival)
        if self._timed is None:
            self._timed = timed
        if timed and not self._timed:
            return f"{time} is {arrival:g}, must be left out: the first row has none"
        if not timed and self._timed:
            return f"{time} is missing, must be a finite number, or there must be a {label}"
        if not timed and later:
            return f"{label} is missing, must be at least 0 in a later row of {show(session)}"
        return ""

    def _problem(
        self, batch: Batch, parsed: Mapping[str, tuple[Any, NDArray[np.bool_]]], place: int
    ) -> str:
        return self._problems.get(place) or super()._problem(batch, parsed, place)

    def _out_of_order(self, ticks: NDArray[Any], sound: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return super()._out_of_order(ticks, sound & ~np.isnan(ticks))
