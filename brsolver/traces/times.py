"""Which field holds arrival times, and in which unit they are."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import TraceError
from brsolver.traces.clock import Clock
from brsolver.traces.fields import Field, Number, Parser, Ticks, show
from brsolver.traces.paths import Path, dotted
from brsolver.traces.vocabulary import arrival_rank, looks_like_time, unit_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.traces.sample import Sample
    from brsolver.traces.trace import Trace

TICKS_PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_EPOCHS = (("s", 1e8, 1e11), ("ms", 1e11, 1e14), ("us", 1e14, 1e17), ("ns", 1e17, 1e20))
_DATE = re.compile(r"\s*\d{4}[-/]\d")
_ABSURD_RATE = 1000.0
_ABSURD_RATE_ASSUMED = 100.0
"""Requests per second beyond which a unit is doubted: one that is told, and the format's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How a field of arrival times is read.

    Attributes
    ----------
    path : Path
        The field.
    unit : str or None
        ``s``, ``ms``, ``us`` or ``ns``; None for dates.
    parser : Parser
    since_1970 : bool
        Whether they count from 1970, as far as their size tells.
    assumed : bool
        Whether the unit is the format's, and neither asked for nor in the name.
    fractions : bool
        Whether some of them are not whole.
    """

    path: Path
    unit: str | None
    parser: Parser
    since_1970: bool = False
    assumed: bool = False
    fractions: bool = False

    @property
    def field(self) -> Field:
        """The column of arrival times."""
        return Field(source=dotted(self.path), target="arrival", parser=self.parser, path=self.path)

    @property
    def ticks_per_s(self) -> float:
        """Units of what the parser returns in one second."""
        return 1e9 if self.unit is None else TICKS_PER_S[self.unit]

    @property
    def words(self) -> str:
        """Say what was taken for the arrival times, and as what."""
        kind = "dates" if self.unit is None else _WORDS[self.unit]
        origin = " since 1970" if self.since_1970 and self.unit is not None else ""
        return f"times taken as {kind}{origin} from {dotted(self.path)}"


def times_at(
    sample: Sample, path: Path, *, time_unit: str | None = None, default: str | None = None
) -> Times:
    """Find out how times at `path` are read.

    The unit is the one asked for, else the one in the field's name, else the format's, else the
    one in which the first value is a date of our days, else seconds. Dates need none.

    Parameters
    ----------
    sample : Sample
        The start of the file.
    path : Path
        The field.
    time_unit : str, optional
        The unit that the user asks for.
    default : str, optional
        The format's unit.

    Raises
    ------
    TraceError
        If a unit is asked for, and the values are dates.
    """
    values = sample.columns.get(path, [])
    first = _first_time(values)
    if isinstance(first, str):
        if time_unit is not None:
            raise TraceError(
                f"{sample.label}: time_unit is {time_unit}, must be left out: {dotted(path)} holds "
                f"dates such as {show(first)}"
            )
        return Times(path=path, unit=None, parser=Clock())
    epoch = None if first is None else _epoch(first)
    unit = time_unit or unit_of(path) or default or epoch or "s"
    parser = Number() if unit in ("s", "ms") else Ticks()
    return Times(
        path=path,
        unit=unit,
        parser=parser,
        since_1970=epoch == unit,
        assumed=default is not None and time_unit is None and unit_of(path) is None,
        fractions=any(isinstance(value, float) and not value.is_integer() for value in values),
    )


def find_times(sample: Sample, *, time_unit: str | None = None) -> Times | None:
    """Return the field with the best name for arrival times that holds times; None if none does."""
    ranked = [(arrival_rank(path), path) for path in sample.columns]
    for _, path in sorted((rank, path) for rank, path in ranked if rank is not None):
        if _first_time(sample.columns[path]) is not None:
            return times_at(sample, path, time_unit=time_unit)
    return None


def has_times(sample: Sample, path: Path) -> bool:
    """Tell whether one of the first values is a number or a date."""
    return _first_time(sample.columns.get(path, [])) is not None


def unused_times(sample: Sample, used: Path | None) -> list[str]:
    """Return the names of the other fields that look like times, by name or by content."""
    return [
        dotted(path)
        for path, values in sample.columns.items()
        if path != used and _is_time(path, values)
    ]


def unused_warning(name: str, unused: Sequence[str]) -> list[str]:
    """Say that a file was read without times although it seems to have some."""
    if not unused:
        return []
    return [
        f"{name}: warning: read without arrival times; {', '.join(unused)} looks like a time: "
        f"--columns arrival={unused[0]} takes it"
    ]


def warnings(trace: Trace, times: Times) -> list[str]:
    """Say what makes the unit of a trace's times doubtful."""
    doubt = _doubt(trace, times)
    return [f"{trace.name}: warning: {dotted(times.path)} {doubt}"] if doubt else []


def _doubt(trace: Trace, times: Times) -> str | None:
    if trace.arrival_s is None or times.unit is None:
        return None
    # Turns that follow others have no times.
    arrival, unit = trace.arrival_s[~np.isnan(trace.arrival_s)], times.unit
    larger = _epoch((trace.origin_s + float(arrival[-1])) * times.ticks_per_s)
    if larger is not None and TICKS_PER_S[larger] > TICKS_PER_S[unit]:
        return (
            f"in {_WORDS[unit]} is later than the year 5000; --time-unit {larger} is likely meant"
        )
    if unit == "s" or arrival.size < 2:
        return None
    rate = (arrival.size - 1) / float(arrival[-1]) if arrival[-1] > 0 else math.inf
    if rate > (_ABSURD_RATE_ASSUMED if times.assumed else _ABSURD_RATE):
        return (
            f"in {_WORDS[unit]} means {rate:,.0f} requests per second; if it holds seconds, give "
            "--time-unit s"
        )
    if times.assumed and times.fractions:
        return f"has fractions of {_WORDS[unit]}; if it holds seconds, give --time-unit s"
    return None


def _is_time(path: Path, values: Sequence[Any]) -> bool:
    first = _first_time(values)
    if first is None or isinstance(first, str):
        return first is not None
    return looks_like_time(path) and _in_order(values)


def _in_order(values: Sequence[Any]) -> bool:
    """Tell whether numbers rise or fall throughout: times of rows do, what lasts does not."""
    found = (_first_time([value]) for value in values)
    numbers = [number for number in found if isinstance(number, float)]
    return numbers == sorted(numbers) or numbers == sorted(numbers, reverse=True)


def _first_time(values: Sequence[Any]) -> float | str | None:
    """Return the first value that is a number or a date, dates as text."""
    for value in values:
        if isinstance(value, bool):
            continue
        if isinstance(value, (int, float)):
            return float(value) if math.isfinite(value) else None
        if isinstance(value, str) and value.strip():
            found = _number_or_date(value)
            if found is not None:
                return found
    return None


def _number_or_date(text: str) -> float | str | None:
    try:
        number = float(text)
    except ValueError:
        return text if _DATE.match(text) and Clock().parse([text])[1][0] else None
    return number if math.isfinite(number) else None


def _epoch(value: float) -> str | None:
    return next((unit for unit, low, high in _EPOCHS if low <= value < high), None)
