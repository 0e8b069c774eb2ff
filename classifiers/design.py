"""What a hazard model sees: columns derived from features and from its baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from classifiers._hazard_kernels import D_LOGIT, D_MU, ROLES, design_columns
from classifiers.baseline import Baseline, logit
from classifiers.features import FEATURES, REQUIRED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.predictors import FloatArray, IntArray


class Design:
    """Derives the design matrix of `classifiers._hazard_kernels.design_columns`.

    Log odds and mean of the baseline at the request's age, how much of the key's mean length is
    left, and the features as they are but for the key's mean. A value that is missing, where
    none was in the training rows, is taken to be their median.

    Parameters
    ----------
    names : sequence of str, or None
        What the columns of X are; see `HazardClassifier`.
    X : ndarray of float64, shape (n, features)
        Training rows.
    remaining : ndarray of float64, shape (n,)
        Remaining lengths, for the baseline.
    horizon : int
        Steps H.
    group : ndarray of int64, shape (n,)
        Request of each row.

    Attributes
    ----------
    baseline : Baseline
    informative : ndarray of int64
        Columns of the design that say something about the training rows.
    arrays : tuple of ndarray
        For the kernels: where features with a role lie, columns without one, the baseline's
        log odds and means by age, and the medians.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        X: FloatArray,
        remaining: FloatArray,
        horizon: int,
        group: IntArray,
    ) -> None:
        self._age, column, plain = _roles(names, X.shape[1])
        age = np.maximum(self.age(X), 0).astype(np.int64)
        self.baseline = Baseline(age, remaining, horizon, group)
        base = (logit(self.baseline.p_finish), self.baseline.mu_remaining)
        self.arrays = (column, plain, *base, np.full(ROLES + len(plain), np.nan))
        rows = self.matrix(X)
        self.informative = _informative(rows)
        self.arrays[-1][:] = [np.median(values) for values in rows.T]

    def age(self, X: FloatArray) -> FloatArray:
        """Return the ages of feature rows, 0 where X has none."""
        return X[:, self._age] if self._age >= 0 else np.zeros(len(X))

    def matrix(self, X: FloatArray) -> FloatArray:
        """Return the design matrix of feature rows."""
        columns = design_columns(np.ascontiguousarray(X, np.float64), *self.arrays)
        return np.ascontiguousarray(columns.T)


def check_required(names: Sequence[str] | None, X: FloatArray) -> None:
    """Refuse rows that lack a feature which must be known.

    Raises
    ------
    ParameterError
        Naming the first such row.
    """
    for name in REQUIRED:
        if names is None or name not in names:
            continue
        bad = np.isnan(X[:, list(names).index(name)])
        if bad.any():
            raise ParameterError(
                f"row {int(bad.argmax())}: {name} is NaN, must be a number (only "
                f"{', '.join(other for other in names if other not in REQUIRED)} may be missing)"
            )


def _roles(names: Sequence[str] | None, width: int) -> tuple[int, IntArray, IntArray]:
    named = list(names or ())
    roles = [named.index(name) if name in named else -1 for name in FEATURES]
    plain = [at for at in range(width) if at not in roles]
    return roles[0], np.array(roles, np.int64), np.array(plain, np.int64)


def _informative(rows: FloatArray) -> IntArray:
    varies = np.array([len(np.unique(column)) > 1 for column in rows.T])
    varies &= ~np.isnan(rows).all(axis=0)
    varies[[D_LOGIT, D_MU]] = True
    return np.flatnonzero(varies)
