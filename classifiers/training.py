"""From samples to a trained and calibrated hazard model: what depends on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from brsolver.errors import ParameterError
from classifiers._hazard_kernels import D_LOGIT, D_MU, D_RECENT
from classifiers.calibration import (
    BASELINE,
    Calibration,
    Outputs,
    beats,
    brier,
    calibrate,
    time_ordered,
)
from classifiers.design import Design
from classifiers.stages import FEW, Training, train_splines, train_trees

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from brsolver.predictors import FloatArray, IntArray

    Trained = tuple[Any, Any]

FEWEST_SAMPLES = 200
"""Samples in the past of a fold below which it is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a hazard model is trained; see `classifiers.hazard.HazardClassifier`.

    Attributes
    ----------
    kind : {"gb", "lr"}
    names : tuple of str, or None
        What the columns of feature matrices are.
    horizon : int
        Steps H.
    isotonic : bool
        Whether to calibrate by isotonic regression too.
    distil : bool
        Whether what is calibrated, and used, is the distilled model.
    recent : {"auto", "use", "ignore"}
        Whether the recent mean is a feature.
    rounds, leaves : int
        Rounds of boosting, and leaves of each distilled tree.
    seed : int
    """

    kind: str
    names: tuple[str, ...] | None
    horizon: int
    isotonic: bool
    distil: bool
    recent: str
    rounds: int
    leaves: int
    seed: int

    def design(self, X: FloatArray, remaining: FloatArray, group: IntArray) -> Design:
        """Return the design that these samples give."""
        return Design(self.names, X, remaining, self.horizon, group)

    def train(
        self, design: Design, X: FloatArray, remaining: FloatArray, used: IntArray
    ) -> Trained:
        """Return the trained estimators of both stages and what they were distilled into."""
        training = Training(
            design=design.matrix(X),
            used=used,
            ends=remaining <= self.horizon,
            remaining=remaining,
        )
        # Steps are short: where cores are shared, threads wait for each other most of the time.
        with threadpool_limits(1):
            if self.kind == "lr":
                return train_splines(training, seed=self.seed)
            return train_trees(training, rounds=self.rounds, leaves=self.leaves, seed=self.seed)

    def raw(
        self, rows: FloatArray, used: IntArray, trained: Trained
    ) -> tuple[FloatArray, FloatArray]:
        """Return log odds and mean by scikit-learn's own evaluation, uncalibrated.

        Parameters
        ----------
        rows : ndarray of float64, shape (n, d)
            Of the design matrix.
        used : ndarray of int64
            Its columns that the model takes.
        trained : pair
            From `train`.
        """
        (first, second), evaluator = trained
        if self.kind == "gb" and self.distil:
            outputs = evaluator.outputs(rows)
            return outputs[:, 0], outputs[:, 1]
        # As in `train`: hundreds of short steps, one per tree.
        with threadpool_limits(1):
            mean = rows[:, D_MU] if second is None else second.predict(rows[:, used])
            return first.decision_function(rows[:, used]), mean

    def choose(
        self, design: Design, X: FloatArray, remaining: FloatArray, group: IntArray
    ) -> tuple[IntArray, Calibration]:
        """Return the columns to use and the calibration, by forecasts of later requests.

        The baseline as it is where too few samples end or outlive the horizon to tell.
        """
        best: tuple[IntArray, Calibration] = (design.informative, BASELINE)
        score: FloatArray | None = None
        for used in self._variants(design.informative):
            outputs = self._later(X, remaining, group, used)
            if outputs is None:
                return best
            calibration = calibrate(outputs, isotonic=self.isotonic)
            own = brier(outputs, calibration)
            if score is None or beats(own, score, outputs.group):
                best, score = (used, calibration), own
        return best

    def _variants(self, used: IntArray) -> list[IntArray]:
        without = used[used != D_RECENT]
        if len(without) == len(used):
            return [used]
        return {"use": [used], "ignore": [without], "auto": [without, used]}[self.recent]

    def _later(
        self, X: FloatArray, remaining: FloatArray, group: IntArray, used: IntArray
    ) -> Outputs | None:
        """Forecast each fold's requests by a model trained on earlier ones; None if too few."""
        parts = []
        for past, later in time_ordered(group):
            if not _enough(remaining[past] <= self.horizon):
                continue
            design = self.design(X[past], remaining[past], group[past])
            own = np.intersect1d(used, design.informative)
            trained = self.train(design, X[past], remaining[past], own)
            rows = design.matrix(X[later])
            raw_logit, raw_mu = self.raw(rows, own, trained)
            parts.append((rows[:, D_LOGIT], raw_logit, rows[:, D_MU], raw_mu, later))
        if not parts:
            return None
        base_logit, raw_logit, base_mu, raw_mu, later = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return Outputs(
            base_logit=base_logit,
            raw_logit=raw_logit,
            base_mu=base_mu,
            raw_mu=raw_mu,
            ends=remaining[later] <= self.horizon,
            remaining=remaining[later],
            group=group[later],
        )


def _enough(ends: NDArray[np.bool_]) -> bool:
    few = min(int(ends.sum()), int((~ends).sum()))
    return len(ends) >= FEWEST_SAMPLES and few >= FEW


def lengths_of(y: NDArray[Any]) -> FloatArray:
    """Return remaining lengths as numbers.

    Raises
    ------
    ParameterError
        They are none, or below 1.
    """
    if y.dtype.kind not in "iuf":
        raise ParameterError(
            f"Unknown label type: {y.dtype}; remaining lengths must be numbers of steps, at least 1"
        )
    bad = ~(y >= 1)
    if bad.any():
        row = int(bad.argmax())
        raise ParameterError(f"row {row}: remaining length is {y[row]}, must be at least 1 step")
    return y.astype(np.float64)


def groups_of(groups: ArrayLike | None, size: int) -> IntArray:
    """Return the request of each of `size` samples, each one of its own for None.

    Raises
    ------
    ParameterError
        They are not in order, or not so many.
    """
    if groups is None:
        return np.arange(size)
    group = np.asarray(groups, np.int64)
    if group.shape != (size,) or (np.diff(group) < 0).any():
        raise ParameterError(
            f"shape of groups is {group.shape}, must be {size} requests in non-decreasing order"
        )
    return group
