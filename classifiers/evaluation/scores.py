"""Scores of forecasts: how well they rank, how true they are, how sharp, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from classifiers.evaluation.bootstrap import Interval, block_weights, percentile_interval
from classifiers.evaluation.calibration import (
    Bins,
    Curve,
    calibration_curve,
    calibration_error,
    decompose,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifiers.evaluation.samples import Samples, Told

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LOG_CLIP = 1e-4
"""Forecasts are moved this far away from 0 and 1 before the log-loss is taken."""

REPLICATES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How good one predictor's forecasts of "ends within H steps" are.

    With p the forecast and y the outcome (1 if the remaining length r is at most H):

    Attributes
    ----------
    auc : float
        Area under the ROC curve; NaN if all samples have the same outcome.
    average_precision : float
        Of the same ranking; NaN if none ends.
    brier : float
        ``mean (p - y)²``.
    reliability, resolution, uncertainty, within_bin : float
        ``brier = reliability - resolution + uncertainty + within_bin``; see
        `classifiers.evaluation.calibration.Decomposition`.
    log_loss : float
        ``-mean log p(y)`` in nats, p clipped to ``[LOG_CLIP, 1 - LOG_CLIP]``: without, a single
        certain forecast gone wrong makes it infinite.
    ece : float
        Expected calibration error over 10 bins of equal mass.
    mae : float
        Stage 2: ``mean |μ - r|`` over samples that ended within H, in steps; NaN without any.
    crps : float
        ``mean Σ_{h<H} (S(h) - 1[r > h])²``, the continuous ranked probability score of
        ``min(r, H)``, in steps; NaN for predictors without survival curves.
    contribution_mae : float
        ``mean |ĉ - min(r, H)|`` over all samples, in steps: the error of what BR-H is given.
    """

    auc: float
    average_precision: float
    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float
    log_loss: float
    ece: float
    mae: float
    crps: float
    contribution_mae: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Judgement:
    """One predictor's scores, with what can be drawn of them.

    Attributes
    ----------
    kind : str
    scores : Scores
    intervals : mapping of str to Interval or None
        95 % block-bootstrap intervals by score; None where a replicate is undefined.
    against : mapping of str to Interval or None
        The same of score differences to the reference predictor, paired; empty for itself.
    curve : Curve
        Calibration.
    """

    kind: str
    scores: Scores
    intervals: Mapping[str, Interval | None]
    against: Mapping[str, Interval | None]
    curve: Curve

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "kind": self.kind,
            **asdict(self.scores),
            "intervals": _listed(self.intervals),
            "difference_intervals": _listed(self.against),
            "calibration": {
                name: getattr(self.curve, name).tolist() for name in self.curve._fields
            },
        }


def _listed(intervals: Mapping[str, Interval | None]) -> dict[str, list[float] | None]:
    return {name: None if found is None else list(found) for name, found in intervals.items()}


SCORES = tuple(field.name for field in fields(Scores))


class Scored:
    """One predictor's forecasts, prepared so that they can be scored under many weightings.

    Parameters
    ----------
    told : Told
        The forecasts.
    samples : Samples
        The outcomes.
    """

    def __init__(self, told: Told, samples: Samples) -> None:
        # Sorted once, so that no replicate has to sort again.
        order = np.argsort(-told.p_finish, kind="stable")
        p, mu = told.p_finish[order], told.mu_remaining[order]
        remaining, horizon = samples.remaining[order], samples.horizon
        self._p, self._ends = p, samples.ends[order]
        self._request = samples.request[order]
        self._bins = Bins.of(p)
        self._ties = np.flatnonzero(np.diff(p, prepend=2.0))
        self._clipped = np.clip(p, LOG_CLIP, 1.0 - LOG_CLIP)
        self._miss = np.abs(mu - remaining)
        curve = None if told.survival is None else told.survival[order]
        nothing = np.full(p.size, np.nan)
        self._each = {
            "brier": (p - self._ends) ** 2,
            "log_loss": -np.log(np.where(self._ends, self._clipped, 1.0 - self._clipped)),
            "crps": nothing if curve is None else crps_each(curve, remaining),
            "contribution_mae": np.abs(
                (1.0 - p) * horizon + p * mu - np.minimum(remaining, horizon)
            ),
        }

    def curve(self, weights: FloatArray | None = None) -> Curve:
        """Return the calibration curve."""
        return calibration_curve(self._p, self._ends, self._bins, weights)

    def scores(self) -> Scores:
        """Score the forecasts, every sample counting once."""
        ends, p = self._ends, self._p
        both = bool(ends.any() and not ends.all())
        found = self._scores(np.ones_like(p))
        return replace(
            found,
            auc=float(roc_auc_score(ends, p)) if both else float("nan"),
            average_precision=(
                float(average_precision_score(ends, p)) if ends.any() else float("nan")
            ),
            brier=float(brier_score_loss(ends, p, labels=[False, True])),
            log_loss=float(log_loss(ends, self._clipped, labels=[False, True])),
        )

    def weighted(self, per_request: NDArray[np.int64]) -> Scores:
        """Score the forecasts, samples counting as often as their request.

        By the formulae of scikit-learn's metrics, which are too slow for hundreds of replicates
        since each of them sorts.

        Parameters
        ----------
        per_request : ndarray of int64
            How often each request of the trace counts.
        """
        weights = per_request[self._request].astype(np.float64)
        if not weights.any():
            return Scores(**dict.fromkeys(SCORES, float("nan")))
        return self._scores(weights)

    def _scores(self, weights: FloatArray) -> Scores:
        total = weights.sum()
        ended = weights * self._ends
        mean = {name: float(weights @ each / total) for name, each in self._each.items()}
        curve = self.curve(weights)
        parts = decompose(curve, mean["brier"], float(ended.sum() / total))
        auc, precision = self._ranking(weights, ended)
        return Scores(
            auc=auc,
            average_precision=precision,
            ece=calibration_error(curve),
            mae=float(ended @ self._miss / ended.sum()) if ended.any() else float("nan"),
            **parts._asdict(),
            **mean,
        )

    def _ranking(self, weights: FloatArray, ended: FloatArray) -> tuple[float, float]:
        """Return AUC, ties counting half, and average precision."""
        hits = np.add.reduceat(ended, self._ties)
        alarms = np.add.reduceat(weights, self._ties)
        falls = alarms - hits
        above, asked = np.cumsum(hits), np.cumsum(alarms)
        if hits.sum() == 0:
            return float("nan"), float("nan")
        precision = np.divide(above, asked, out=np.zeros_like(above), where=asked > 0)
        pairs = hits.sum() * falls.sum()
        auc = float(falls @ (above - hits / 2) / pairs) if pairs > 0 else float("nan")
        return auc, float(hits @ precision / hits.sum())


def crps_each(survival: NDArray[np.floating], remaining: NDArray[np.int64]) -> FloatArray:
    """Return ``Σ_{h<H} (S(h) - 1[r > h])²`` of every sample, shape (n,).

    Parameters
    ----------
    survival : ndarray, shape (n, H + 1)
        Forecast curves.
    remaining : ndarray of int64, shape (n,)
        True remaining lengths r.
    """
    ahead = np.arange(survival.shape[1] - 1)
    missed = survival[:, :-1] - (remaining[:, None] > ahead)
    each: FloatArray = np.einsum("ij,ij->i", missed, missed, dtype=np.float64)
    return each


def judge(
    samples: Samples,
    *,
    reference: str,
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> tuple[Judgement, ...]:
    """Score every predictor, with block-bootstrap intervals.

    Parameters
    ----------
    samples : Samples
    reference : str
        Predictor whose scores the others' are held against.
    rng : numpy.random.Generator
        Draws the blocks. All predictors are scored on the same ones.
    replicates : int
        Bootstrap replicates; 0 gives no intervals.
    """
    scored = {name: Scored(told, samples) for name, told in samples.told.items()}
    drawn: dict[str, list[Scores]] = {name: [] for name in scored}
    for weights in block_weights(samples.requests, replicates, rng):
        for name, each in scored.items():
            drawn[name].append(each.weighted(weights))
    return tuple(
        Judgement(
            kind=name,
            scores=each.scores(),
            intervals={
                score: percentile_interval([getattr(d, score) for d in drawn[name]])
                for score in SCORES
            },
            against={} if name == reference else _differences(drawn[name], drawn[reference]),
            curve=each.curve(),
        )
        for name, each in scored.items()
    )


def _differences(own: list[Scores], other: list[Scores]) -> dict[str, Interval | None]:
    return {
        score: percentile_interval(
            [getattr(a, score) - getattr(b, score) for a, b in zip(own, other, strict=True)]
        )
        for score in SCORES
    }
