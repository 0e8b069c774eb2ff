"""The figures that decide between policies, and when two policies differ in one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from brsolver.results.comparison import Comparison, Estimate

Direction = Literal["higher", "lower", ""]
Change = Literal["better", "worse", ""]

NOTICEABLE = 0.005
"""Relative change below which two figures are called equal."""
WITHOUT_INTERVALS = 0.02
"""The same where there is one seed, and sentences must do without an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure as sentences write it.

    Attributes
    ----------
    name : str
        Field of `brsolver.results.metrics.Metrics`.
    words : str
        What sentences call it.
    unit : str
        After scaling.
    scale : float
        Factor from the field's unit to `unit`.
    better : {"higher", "lower"}
    """

    name: str
    words: str
    unit: str
    scale: float = 1.0
    better: Direction = "lower"

    def write(self, value: float) -> str:
        """Write a value of the field with its unit."""
        return f"{short(value * self.scale)} {self.unit}"


THROUGHPUT = Figure(name="throughput_tok_s", words="throughput", unit="tok/s", better="higher")
GOODPUT = Figure(name="goodput_tok_s", words="goodput", unit="tok/s", better="higher")
TPOT = Figure(name="tpot_p95_s", words="TPOT P95", unit="ms", scale=1e3)
TTFT = Figure(name="ttft_p99_s", words="TTFT P99", unit="s")
END_TO_END = Figure(name="e2e_p95_s", words="end-to-end P95", unit="s")
LONGEST_WAIT = Figure(name="max_wait_s", words="longest wait", unit="s")
LOST = Figure(name="time_lost_share", words="time lost at the barrier", unit="%", scale=100.0)

DECIDING = (THROUGHPUT, GOODPUT, TPOT, TTFT, END_TO_END, LONGEST_WAIT, LOST)


def short(value: float) -> str:
    """Write a number with three significant digits and thousands separators; – for NaN."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.2e}" if digits > 8 else f"{value:,.{digits}f}"


def times(ratio: float) -> str:
    """Write a ratio as ×1.48, ×23 from ten on."""
    return f"×{ratio:,.0f}" if ratio >= 10 else f"×{ratio:.2f}"


def change(estimate: Estimate, better: Direction) -> Change:
    """Tell whether a figure is better or worse than what its ratio refers to, beyond noise.

    It is neither where the ratio's interval holds 1, where it is within half a per cent of 1,
    and where nothing is known of noise: with one seed, or if all seeds gave the same.
    """
    doubt, apart = estimate.ratio_half_width, estimate.ratio - 1
    if not better or not doubt > 0 or not abs(apart) >= max(NOTICEABLE, doubt):
        return ""
    return "better" if (apart > 0) == (better == "higher") else "worse"


def differs(estimate: Estimate) -> bool:
    """Tell whether a ratio is away from 1 beyond noise; by 2 per cent where that is not known."""
    doubt, apart = estimate.ratio_half_width, abs(estimate.ratio - 1)
    if math.isnan(apart):
        return False
    return apart >= (max(NOTICEABLE, doubt) if doubt > 0 else WITHOUT_INTERVALS)


def level_with_best(
    comparison: Comparison, workers: int, figure: Figure, policies: tuple[str, ...]
) -> tuple[str, ...]:
    """Return which of `policies` have the best value of a figure, or one not different from it.

    None where the figure was not measured.
    """
    means = {p: comparison.estimate(p, workers, figure.name).mean for p in policies}
    known = {p: mean for p, mean in means.items() if math.isfinite(mean)}
    if not known:
        return ()
    best = (max if figure.better == "higher" else min)(known, key=known.__getitem__)
    return tuple(p for p in known if p == best or _level(comparison, workers, figure, p, best))


def _level(comparison: Comparison, workers: int, figure: Figure, policy: str, best: str) -> bool:
    estimate = comparison.estimate(policy, workers, figure.name, base=best)
    if math.isnan(estimate.ratio):
        # The best is 0 with every seed: level is what is 0, too.
        return estimate.mean == 0
    return not differs(estimate)
