"""Step time identified while serving: recursive least squares over observed steps.

A step lasts ``C + max_g (a·n_g + b·L_g + p·P_g)``: what the rank with the largest sum carries
explains it. Of every step that rank's loads and the duration are taken in, around their running
means, so that the slopes a, b and p come from what varies, and from nothing else.

- Information is forgotten in the direction of what a step tells, and no more than it tells
  (directional forgetting, Cao and Schwartz 2000, with a bound): loads that stay the same for hours
  leave every slope as it is, while C follows the level.
- Errors are relative to the step, and bounded by what is typical of them (Huber 1964), the wider
  the less is known of a direction.
- The first steps, and those after a run of errors of one sign (another batch of experts, a clock
  that was lowered), are fitted as one, robustly; what they do not tell is kept as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from brsolver.hardware._online_kernels import (
    ERROR,
    HUBER,
    KEEP,
    KEEP_LEVEL,
    LEAST_ERROR,
    LEVELS,
    NOBODY,
    NORMAL,
    PACE,
    SECONDS,
    STREAK,
    critical,
    learn,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

LOADS = ("sequences", "kv_tokens", "prefill_tokens")
"""Of a rank, in the order in which `OnlineStepTime.observe` takes them."""
UNITS = np.array([16.0, 1e4, 500.0])
"""What loads are counted in, inside: of similar cost on hardware as it is sold."""
TYPICAL = np.array([64e-6, 42e-9, 65e-6])
"""Seconds per load of an H200, which tell ranks apart before anything else is known."""
FAINT = 0.01

COLLECTED = 64
"""Steps that are fitted as one."""
RUN = 16
"""Outliers of one sign in a row that mean a change."""
RIDGE = 0.001
"""Weight of what is known before, in steps of one unit."""
CLEAR = 6.0
"""Standard errors that a slope must lie above 0 to be told."""
MOVING, STILL = 0.1, 1e-3
"""Of the largest deviation of a load that was seen, and of its mean: below it does not vary now."""
ROUNDS = 20
"""Of reweighting."""
_TUNING = {KEEP: 0.999, KEEP_LEVEL: 0.995, HUBER: 1.345, PACE: 0.03, LEAST_ERROR: 5e-3}
TUNING = np.array([_TUNING[index] for index in range(len(_TUNING))])
"""Kept of the information in a direction at each step that tells of it; kept of the running means;
errors beyond so many standard deviations are bounded; pace of the typical error; its least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineEstimate:
    """What the steps seen so far tell.

    Attributes
    ----------
    base : float
        Seconds of a step at zero load.
    per_sequence, per_token, per_prefill_token : float
        Seconds per decoding sequence, per KV token that these read, and per prefill token, of
        the rank that the others wait for; never negative.
    identified : tuple of bool
        Of each of them, whether it lies clearly above its own error.
    moving : tuple of bool
        Of each load, whether it varies now; while it does not, its coefficient is frozen.
    steps : int
        Steps taken in.
    error : float
        Typical (median) relative error of a step's prediction; NaN before there is one.
    changes : int
        How often the hardware was found to have changed.
    """

    base: float
    per_sequence: float
    per_token: float
    per_prefill_token: float
    identified: tuple[bool, bool, bool]
    moving: tuple[bool, bool, bool]
    steps: int
    error: float
    changes: int

    @property
    def request_tokens(self) -> int | None:
        """KV tokens that cost what a sequence costs; None until both are identified."""
        if not (self.identified[0] and self.identified[1]):
            return None
        return round(self.per_sequence / self.per_token)


class OnlineStepTime:
    """Identifies the step time from steps as they come; microseconds per step.

    Examples
    --------
    >>> import numpy as np
    >>> fit = OnlineStepTime()
    >>> rng = np.random.default_rng(0)
    >>> for _ in range(500):
    ...     loads = np.stack([rng.integers(1, 65, 4), rng.integers(1, 90_000, 4), np.zeros(4)], 1)
    ...     fit.observe(loads, 0.02 + (loads @ [1e-4, 1e-7, 0]).max())
    >>> round(fit.estimate().request_tokens, -1)
    1000
    """

    def __init__(self) -> None:
        self._collected: list[tuple[FloatArray, float]] = []
        self._collecting = True
        self._slopes = np.zeros(len(LOADS))
        self._information = np.eye(len(LOADS))
        self._mean = np.zeros(len(LOADS))
        self._spread = np.zeros(len(LOADS))
        self._widest = np.zeros(len(LOADS))
        self._level = np.zeros(LEVELS)
        self._weights = FAINT * TYPICAL
        self._known = False
        self._steps = self._changes = 0

    def observe(self, loads: FloatArray, seconds: float) -> None:
        """Take in one step.

        Parameters
        ----------
        loads : ndarray of float64, shape (G, 3)
            Per rank: decoding sequences, KV tokens that these read, prefill tokens computed. A
            step of which a load of any rank or the duration is no number, infinite or negative is
            passed over.
        seconds : float
            How long it lasted.
        """
        rank = critical(loads, self._weights)
        if rank == NOBODY or not 0.0 < seconds < np.inf:
            return
        x = loads[rank] / UNITS
        self._steps += 1
        if self._collecting:
            self._collect(x, seconds)
            return
        learn(
            x,
            seconds,
            self._slopes,
            self._information,
            self._mean,
            self._spread,
            self._level,
            TUNING,
        )
        self._take_in()
        if abs(self._level[STREAK]) >= RUN:
            self._changes += 1
            self._collecting = True

    def _collect(self, x: FloatArray, seconds: float) -> None:
        self._collected.append((x, seconds))
        if len(self._collected) == COLLECTED:
            self._begin(np.array([x for x, _ in self._collected]), [t for _, t in self._collected])
            self._collected.clear()
            self._collecting = False
            self._known = True
            self._take_in()

    def _begin(self, x: FloatArray, seconds: list[float]) -> None:
        """Fit some steps as one; of what they do not tell keep what is known."""
        fitted = robust_fit(x, np.array(seconds), self._slopes)
        self._slopes[:] = fitted.slopes
        self._information[:] = fitted.information
        self._mean[:] = fitted.mean
        self._spread[:] = ((x - fitted.mean) ** 2).mean(axis=0)
        self._level[:] = fitted.seconds, len(x), fitted.error, 0.0

    def _take_in(self) -> None:
        np.maximum(self._widest, self._spread, out=self._widest)
        # What is not known yet is taken for typical, faintly.
        self._weights = np.maximum(self._slopes, 0) / UNITS + FAINT * TYPICAL

    def estimate(self) -> OnlineEstimate:
        """Return what is known now."""
        slopes = non_negative(self._slopes, self._information)
        base = max(float(self._level[SECONDS] - slopes @ self._mean), 0.0)
        error = float(self._level[ERROR]) if self._known else float("nan")
        deviations = NORMAL * self._level[ERROR] * np.sqrt(_variances(self._information))
        identified = self._known & (slopes > CLEAR * deviations)
        still = np.maximum(MOVING**2 * self._widest, (STILL * (1 + self._mean)) ** 2)
        moving = self._spread > still
        per_load = (slopes / UNITS).tolist()
        return OnlineEstimate(
            base=base,
            per_sequence=per_load[0],
            per_token=per_load[1],
            per_prefill_token=per_load[2],
            identified=_three(identified),
            moving=_three(moving),
            steps=self._steps,
            error=error,
            changes=self._changes,
        )


def compile_online() -> None:
    """Compile or load what identifying needs, before anything is waiting for it."""
    scratch = OnlineStepTime()
    for _ in range(COLLECTED + 2):
        scratch.observe(np.ones((1, len(LOADS))), 1.0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RobustFit:
    """Slopes of some steps, and the point of means that the fitted plane goes through."""

    slopes: FloatArray
    information: FloatArray
    mean: FloatArray
    seconds: float
    error: float


def robust_fit(x: FloatArray, seconds: FloatArray, before: FloatArray) -> RobustFit:
    """Fit ``seconds ≈ level + slopes·(x − mean)``, relative to the step, outliers bounded.

    Iteratively reweighted least squares with Cauchy's weights, drawn faintly to `before`.

    Parameters
    ----------
    x : ndarray of float64, shape (K, D)
        In `UNITS`.
    seconds : ndarray of float64, shape (K,)
    before : ndarray of float64, shape (D,)
        Slopes as known before.
    """
    ridge = RIDGE / np.median(seconds) ** 2
    slopes, level, mean = before, float(np.median(seconds)), np.median(x, axis=0)
    error, information = 0.1, ridge * np.eye(before.size)
    for _ in range(ROUNDS):
        predicted = np.maximum(level + (x - mean) @ slopes, level / 3)
        relative = seconds / predicted - 1
        error = max(float(np.median(np.abs(relative))), float(TUNING[LEAST_ERROR]))
        weights = 1 / ((1 + (relative / (3 * NORMAL * error)) ** 2) * predicted**2)
        mean, level = weights @ x / weights.sum(), float(weights @ seconds / weights.sum())
        u = x - mean
        information = (weights * u.T) @ u + ridge * np.eye(before.size)
        right = (weights * u.T) @ (seconds - level) + ridge * before
        slopes = non_negative(np.linalg.solve(information, right), information)
    return RobustFit(slopes=slopes, information=information, mean=mean, seconds=level, error=error)


def non_negative(slopes: FloatArray, information: FloatArray) -> FloatArray:
    """Return the slopes of at least 0 that lie nearest, as information measures it."""
    if (slopes >= 0).all():
        return slopes.copy()
    best, least = np.zeros_like(slopes), np.inf
    everything = range(slopes.size)
    for count in range(slopes.size + 1):
        for free in combinations(everything, count):
            tried = _with_only(slopes, information, list(free))
            off = float((tried - slopes) @ information @ (tried - slopes))
            if off < least and (tried >= 0).all():
                best, least = tried, off
    return best


def _with_only(slopes: FloatArray, information: FloatArray, free: list[int]) -> FloatArray:
    tried = np.zeros_like(slopes)
    if free:
        inner = information[np.ix_(free, free)]
        tried[free] = np.linalg.solve(inner, information[free] @ slopes)
    return tried


def _variances(information: FloatArray) -> FloatArray:
    return np.diag(np.linalg.pinv(information, hermitian=True)).clip(min=0)


def _three(flags: NDArray[np.bool_]) -> tuple[bool, bool, bool]:
    first, second, third = flags.tolist()
    return first, second, third
