"""Means over rounds and differences between policies, with confidence intervals.

Rounds are few, so the intervals are Student's t, which the handful of values is enough for; a
bootstrap over five rounds would be too narrow. Policies are compared round by round, since all
of a round's runs have the same requests and about the same state of the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95

Verdict = Literal["higher", "lower", "no difference shown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its confidence interval; the bounds are NaN for fewer than two values."""

    mean: float
    low: float
    high: float

    def verdict(self) -> Verdict:
        """Whether a difference with this interval lies above 0, below it, or neither."""
        if self.low > 0:
            return "higher"
        if self.high < 0:
            return "lower"
        return "no difference shown"


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean and its Student interval; values that are NaN are left out.

    Raises
    ------
    ParameterError
        If the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence is {confidence}, must be between 0 and 1")
    known = np.array([value for value in values if not math.isnan(value)])
    if known.size == 0:
        return Interval(mean=math.nan, low=math.nan, high=math.nan)
    mean = float(known.mean())
    if known.size == 1:
        return Interval(mean=mean, low=math.nan, high=math.nan)
    error = float(known.std(ddof=1)) / math.sqrt(known.size)
    reach = error * float(stats.t.ppf((1 + confidence) / 2, known.size - 1))
    return Interval(mean=mean, low=mean - reach, high=mean + reach)


def relative_difference(
    values: Sequence[float], reference: Sequence[float], confidence: float = CONFIDENCE
) -> Interval:
    """Return the mean over rounds of ``value/reference - 1``, paired by round.

    Raises
    ------
    ParameterError
        If the two have different numbers of rounds.
    """
    if len(values) != len(reference):
        raise ParameterError(f"values are {len(values)}, must be {len(reference)} to be paired")
    ratios = [a / b - 1 if b else math.nan for a, b in zip(values, reference, strict=True)]
    return interval(ratios, confidence)
