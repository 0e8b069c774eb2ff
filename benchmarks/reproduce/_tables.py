"""Intervals over draws of the workload, and Markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.results.comparison import mean_and_half_width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.reproduce._cells import Row


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over draws, and half its 95 % interval (Student); NaN for a single draw."""

    mean: float
    half: float = math.nan

    def text(self, form: str = ",.0f", scale: float = 1.0) -> str:
        """Write ``mean ± half``, or the mean alone where there is no spread."""
        if not math.isfinite(self.half) or self.half == 0:
            return format(self.mean * scale, form)
        return f"{self.mean * scale:{form}} ± {self.half * scale:{form.removeprefix('+')}}"

    def gain(self) -> str:
        """Write a ratio as what it is beyond 1, in per cent."""
        return f"{Interval(self.mean - 1, self.half).text('+.1f', 100)} %"


def pick(rows: Iterable[Row], **key: Any) -> list[Row]:
    """Return the rows of that key, by seed."""
    found = [row for row in rows if all(row[name] == value for name, value in key.items())]
    return sorted(found, key=lambda row: int(row["seed"]))


def over(rows: Sequence[Row], of: str | Callable[[Row], float]) -> Interval:
    """Return the mean of a figure over draws."""
    mean, half, _ = mean_and_half_width([_value(row, of) for row in rows])
    return Interval(mean, half)


def ratio(
    rows: Sequence[Row],
    base: Sequence[Row],
    of: str | Callable[[Row], float],
) -> Interval:
    """Return the mean of a figure over that of `base`, draw by draw."""
    values = [_value(row, of) / _value(b, of) for row, b in zip(rows, base, strict=True)]
    mean, half, _ = mean_and_half_width(values)
    return Interval(mean, half)


def _value(row: Row, of: str | Callable[[Row], float]) -> float:
    return float(row[of]) if isinstance(of, str) else of(row)


def best(groups: Iterable[Sequence[Row]], of: str | Callable[[Row], float]) -> Sequence[Row]:
    """Return the group whose figure is largest in the mean over draws."""
    return max(groups, key=lambda rows: over(rows, of).mean)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def published(value: float | None, form: str = ",.0f") -> str:
    """Write a published figure, or a dash where none is."""
    return "–" if value is None else format(value, form)
