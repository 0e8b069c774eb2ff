"""Where a run's time went: what ranks at the mean load would take, and what the barrier cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from brsolver.results.logs import StepLog

FloatArray = NDArray[np.float64]

PARTS = ("prefill", "sequences", "kv", "padding")
"""What time at the barrier is lost to, in the order in which tables and pictures have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLost:
    """Shares of the time of some steps that were lost at the barrier, by load.

    Of steps k that last ``Δ(k)``, with ``ℓ_r(k)`` what load r cost of it beyond a step with every
    worker at the mean (`StepLog`), a share is ``Σ_k ℓ_r(k) / Σ_k Δ(k)``. It is negative where the
    slowest workers have less of that load than the mean; NaN without steps.

    Attributes
    ----------
    prefill, sequences, kv, padding : float
    """

    prefill: float
    sequences: float
    kv: float
    padding: float

    @property
    def total(self) -> float:
        """Return the share lost to all loads together, which the parts add up to."""
        return self.prefill + self.sequences + self.kv + self.padding


def lost_by_part(steps: StepLog) -> FloatArray:
    """Return seconds lost at the barrier by `PARTS` and step, shape (4, K)."""
    return np.stack([getattr(steps, f"lost_{part}_s") for part in PARTS])


def time_lost(steps: StepLog, window: slice) -> TimeLost:
    """Return what share of the time of the steps in `window` was lost at the barrier."""
    seconds = float(steps.duration_s[window].sum())
    lost = lost_by_part(steps)[:, window].sum(axis=1)
    shares = lost / seconds if seconds > 0 else np.full(len(PARTS), np.nan)
    return TimeLost(**dict(zip(PARTS, map(float, shares), strict=True)))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StepBands:
    """What the mean step of each time of a run was made of, in seconds.

    Attributes
    ----------
    edges_s : ndarray, shape (b + 1,)
        Times between which the means are taken: over runs of consecutive steps.
    step_s : ndarray, shape (b,)
        Mean duration of a step.
    lost_s : ndarray, shape (4, b)
        Mean loss of a step by `PARTS`, as logged: parts may be negative.
    base_s : float
        What a step lasts at zero load; 0 where a measured table does not tell it apart.
    window_s : tuple of float
        When the steps that averages cover begin and end.
    mean_step_s : float
        Mean duration of these steps.
    share : TimeLost
        Of these steps.
    """

    edges_s: FloatArray
    step_s: FloatArray
    lost_s: FloatArray
    base_s: float
    window_s: tuple[float, float]
    mean_step_s: float
    share: TimeLost

    def stack(self) -> FloatArray:
        """Return what `stacked` makes of the steps of each time, shape (6, b)."""
        return stacked(self.step_s, self.lost_s, self.base_s)

    def mean_stack(self) -> FloatArray:
        """Return what `stacked` makes of all steps that averages cover, shape (6,)."""
        step_s = np.nan_to_num(self.mean_step_s)
        shares = np.array([getattr(self.share, part) for part in PARTS])
        return stacked(step_s, np.nan_to_num(shares) * step_s, self.base_s)


def stacked(step_s: FloatArray, lost_s: FloatArray, base_s: float) -> FloatArray:
    """Return what pictures draw one on top of the other.

    Parameters
    ----------
    step_s : ndarray, shape (...)
        Durations of steps in seconds.
    lost_s : ndarray, shape (4, ...)
        What was lost of them by `PARTS`.
    base_s : float
        Their duration at zero load.

    Returns
    -------
    ndarray, shape (6, ...)
        In seconds: the step at zero load, the work of workers at the mean, then `PARTS` as
        `netted` gives them. All at least 0; they add up to the step.
    """
    lost = netted(lost_s)
    even = np.maximum(step_s - lost.sum(axis=0), 0.0)
    base = np.minimum(base_s, even)
    return np.concatenate([[base], [even - base], lost])


def netted(lost: FloatArray) -> FloatArray:
    """Spread negative parts over the positive ones, in proportion to these.

    What the slowest workers have less of than the mean pays for some of what they have more of:
    where 5 ms are lost to prefill and -1 ms to KV tokens, 4 ms are lost to prefill.

    Parameters
    ----------
    lost : ndarray, shape (p, ...)
        Parts along the first axis.

    Returns
    -------
    ndarray, same shape
        At least 0, with the same sum over parts where that is not negative, else 0.
    """
    gains = np.maximum(lost, 0.0)
    whole = gains.sum(axis=0)
    kept = np.maximum(lost.sum(axis=0), 0.0)
    scale = np.divide(kept, whole, out=np.zeros_like(whole), where=whole > 0)
    shares: FloatArray = gains * scale
    return shares
