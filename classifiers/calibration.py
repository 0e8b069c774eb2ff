"""Calibration on what was forecast before it happened: time-ordered folds."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from brsolver.predictors import FloatArray, IntArray

FOLDS = (0.4, 0.6, 0.8, 1.0)
"""Shares of the requests: each fold trains on those up to one and is tested up to the next."""


class Outputs(NamedTuple):
    """Raw forecasts of samples that came later than those they were trained on.

    Attributes
    ----------
    base_logit, raw_logit : ndarray of float64, shape (n,)
        Log odds of the baseline and of the model.
    base_mu, raw_mu : ndarray of float64, shape (n,)
        Mean remaining steps of both.
    ends : ndarray of bool, shape (n,)
    remaining : ndarray of float64, shape (n,)
    group : ndarray of int64, shape (n,)
        Request of each sample.
    """

    base_logit: FloatArray
    raw_logit: FloatArray
    base_mu: FloatArray
    raw_mu: FloatArray
    ends: NDArray[np.bool_]
    remaining: FloatArray
    group: IntArray


class Calibration(NamedTuple):
    """How a model's raw outputs and the baseline's become a forecast.

    Attributes
    ----------
    weights : ndarray of float64, shape (3,)
        ``z = w_0·b + w_1·(m - b)`` of the log odds b and m, and
        ``μ = μ_b + w_2·(μ_m - μ_b)``.
    knots, levels : ndarray of float64, shape (k,)
        Piecewise linear map from ``1/(1 + exp(-z))`` to p; the identity if k = 0.
    """

    weights: FloatArray
    knots: FloatArray
    levels: FloatArray


NOTHING: FloatArray = np.zeros(0)
BASELINE = Calibration(np.array([1.0, 0.0, 0.0]), NOTHING, NOTHING)
"""The baseline as it is."""


def time_ordered(group: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Return training and test samples of each fold: earlier requests, and the next ones.

    Parameters
    ----------
    group : ndarray of int64, shape (n,)
        Request of each sample, non-decreasing; no request is on both sides.
    """
    _, first = np.unique(group, return_index=True)
    cuts = np.append(first, len(group))[np.round(np.array(FOLDS) * len(first)).astype(int)]
    for start, stop in pairwise(cuts):
        yield np.arange(start), np.arange(start, stop)


def calibrate(outputs: Outputs, *, isotonic: bool) -> Calibration:
    """Weigh model against baseline, and correct the model's sharpness.

    Stage 1 is a logistic regression on the log odds of the baseline and what the model adds.
    It has no intercept: how the level moved from one fold to the next says nothing about where
    it will move later. Nor do its weights exceed 1: the past may show a model to be too sure of
    itself, but sharpening it would bet that nothing changes. If its Brier score does not beat
    the baseline's by more than the standard error of the difference over requests, the baseline
    is used as it is; stage 2 likewise, by squared error.

    Parameters
    ----------
    outputs : Outputs
        Forecasts of later samples.
    isotonic : bool
        Also map probabilities by isotonic regression.
    """
    if outputs.ends.all() or not outputs.ends.any():
        return BASELINE
    adds = np.column_stack([outputs.base_logit, outputs.raw_logit - outputs.base_logit])
    fitted = LogisticRegression(C=np.inf, fit_intercept=False).fit(adds, outputs.ends)
    weights = np.array([*np.clip(fitted.coef_[0], 0.0, 1.0), _mean_weight(outputs)])
    p = _sigmoid(adds @ weights[:2])
    if not _pays(_sigmoid(outputs.base_logit), p, outputs.ends, outputs.group):
        weights[:2] = BASELINE.weights[:2]
        return Calibration(weights, NOTHING, NOTHING)
    if not isotonic:
        return Calibration(weights, NOTHING, NOTHING)
    steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, outputs.ends)
    return Calibration(weights, steps.X_thresholds_, steps.y_thresholds_)


def brier(outputs: Outputs, calibration: Calibration) -> FloatArray:
    """Return each sample's Brier score under a calibration, shape (n,)."""
    base, adds = outputs.base_logit, outputs.raw_logit - outputs.base_logit
    p = _sigmoid(calibration.weights[0] * base + calibration.weights[1] * adds)
    if len(calibration.knots):
        p = np.interp(p, calibration.knots, calibration.levels)
    return (p - outputs.ends) ** 2


def beats(challenger: FloatArray, champion: FloatArray, group: IntArray) -> bool:
    """Tell whether scores are lower by more than the standard error of the difference.

    Parameters
    ----------
    challenger, champion : ndarray of float64, shape (n,)
        Scores of the same samples, lower is better.
    group : ndarray of int64, shape (n,)
        Request of each: samples of one request are not independent.
    """
    _, index = np.unique(group, return_inverse=True)
    gain = np.bincount(index, champion - challenger)
    error = gain.std(ddof=1) * np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    return bool(gain.sum() > error)


def _pays(base: FloatArray, p: FloatArray, ends: NDArray[np.bool_], group: IntArray) -> bool:
    return beats((p - ends) ** 2, (base - ends) ** 2, group)


def _mean_weight(outputs: Outputs) -> float:
    ends = outputs.ends
    adds = (outputs.raw_mu - outputs.base_mu)[ends]
    misses = (outputs.remaining - outputs.base_mu)[ends]
    fitted = LinearRegression(fit_intercept=False).fit(adds[:, None], misses)
    weight = float(np.clip(fitted.coef_[0], 0.0, 1.0))
    better = beats((misses - weight * adds) ** 2, misses**2, outputs.group[ends])
    return weight if better else 0.0


def _sigmoid(z: FloatArray) -> FloatArray:
    p: FloatArray = 1.0 / (1.0 + np.exp(-z))
    return p
