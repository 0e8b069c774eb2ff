"""Training of the two stages: whether a request ends within the horizon, and when if it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import MissingIndicator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

from classifiers._hazard_kernels import D_LOGIT, D_MU
from classifiers.distil import AdditiveTables, StudentTrees

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.predictors import FloatArray, IntArray

KNOTS = 16
"""Knots of each feature's spline, at its quantiles."""

FEW = 20
"""Endings below which stage 2 is left to the baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What both stages learn from.

    Attributes
    ----------
    design : ndarray of float64, shape (n, d)
        See `classifiers._hazard_kernels.design_columns`.
    used : ndarray of int64, shape (k,)
        Columns of it to use, the baseline's first.
    ends : ndarray of bool, shape (n,)
        Whether the request ends within the horizon; both values occur.
    remaining : ndarray of float64, shape (n,)
        Steps until it does.
    """

    design: FloatArray
    used: IntArray
    ends: NDArray[np.bool_]
    remaining: FloatArray


def train_trees(
    training: Training, *, rounds: int, leaves: int, seed: int
) -> tuple[Any, StudentTrees]:
    """Train gradient boosting and distil it into one tree per stage.

    The probability never falls where the baseline's rises: with few data that keeps it from
    straying.

    Returns
    -------
    teachers : pair of fitted scikit-learn estimators, the second None if too few requests end
    student : StudentTrees
    """
    rows = training.design[:, training.used]
    settings: dict[str, Any] = {
        "max_iter": rounds,
        "max_leaf_nodes": 15,
        "min_samples_leaf": _leaf(len(rows)),
        "l2_regularization": 10.0,
        "early_stopping": False,
        "random_state": seed,
    }
    rises = (training.used == D_LOGIT).astype(int)
    first = HistGradientBoostingClassifier(monotonic_cst=rises, **settings)
    second, mean = None, training.design[:, D_MU]
    first.fit(rows, training.ends)
    if training.ends.sum() >= FEW:
        settings["min_samples_leaf"] = _leaf(int(training.ends.sum()))
        second = HistGradientBoostingRegressor(**settings)
        second.fit(rows[training.ends], training.remaining[training.ends])
        mean = second.predict(rows)
    outputs = [first.decision_function(rows), mean]
    student = StudentTrees(training.design, training.used, outputs, leaves=leaves)
    return (first, second), student


def _leaf(samples: int) -> int:
    return int(np.clip(samples // 200, 5, 200))


def train_splines(training: Training, *, seed: int) -> tuple[Any, AdditiveTables]:
    """Train linear models on splines of every feature and compile them into tables.

    Returns
    -------
    teachers : pair of fitted scikit-learn pipelines
    tables : AdditiveTables
    """
    rows = training.design[:, training.used]
    knots = [_knots(column) for column in rows.T]
    logistic = LogisticRegression(solver="newton-cholesky", random_state=seed)
    first = make_pipeline(_basis(training.used, knots), logistic)
    first.fit(rows, training.ends)
    second = make_pipeline(_basis(training.used, knots), Ridge(random_state=seed))
    second.fit(rows[training.ends], training.remaining[training.ends])
    reference = np.array([own[0] for own in knots])
    models = [first.decision_function, second.predict]
    return (first, second), AdditiveTables(models, training.used, knots, reference)


def _knots(column: FloatArray) -> FloatArray:
    """Return ascending knots at quantiles; a second one beyond a constant column's value."""
    at = np.unique(np.nanquantile(column, np.linspace(0, 1, KNOTS)))
    return at if len(at) > 1 else np.array([at[0], at[0] + 1.0])


def _basis(used: IntArray, knots: list[FloatArray]) -> ColumnTransformer:
    """Return the baseline's columns as they are, and splines of the others."""
    linear = np.flatnonzero((used == D_LOGIT) | (used == D_MU))
    curved = np.setdiff1d(np.arange(len(used)), linear)
    parts: list[Any] = [("baseline", "passthrough", linear)]
    for j in curved:
        spline = SplineTransformer(
            knots=knots[j][:, None], include_bias=False, handle_missing="zeros"
        )
        parts.append((f"spline{j}", spline, [j]))
    parts.append(("missing", MissingIndicator(features="all"), curved))
    return ColumnTransformer(parts)
