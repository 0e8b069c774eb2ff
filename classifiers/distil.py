"""Models small enough to ask at run time, distilled from those that were trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.tree import DecisionTreeRegressor

from classifiers._hazard_kernels import D_LOGIT, D_MU, MISSING

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.predictors import FloatArray, IntArray

    Outputs = Callable[[FloatArray], FloatArray]


class StudentTrees:
    """One deep regression tree per stage that imitates a teacher.

    Parameters
    ----------
    design : ndarray of float64, shape (n, d)
        Where to imitate it.
    used : ndarray of int64, shape (k,)
        Columns of the design that matter.
    outputs : sequence of ndarray of float64, each of shape (n,)
        What the teacher says there: a logit and a mean.
    leaves : int
        Most leaves of each tree.
    samples_per_leaf : int
        Fewest samples in a leaf.

    Attributes
    ----------
    trees : list of sklearn.tree.DecisionTreeRegressor
    arrays : tuple
        The same as arrays for `classifiers._hazard_kernels.forecast_trees`.
    """

    def __init__(
        self,
        design: FloatArray,
        used: IntArray,
        outputs: list[FloatArray],
        *,
        leaves: int = 2048,
        samples_per_leaf: int = 20,
    ) -> None:
        self.used = used
        known = self._known(design)
        self.trees = [
            DecisionTreeRegressor(
                max_leaf_nodes=leaves, min_samples_leaf=samples_per_leaf, random_state=0
            ).fit(known, output)
            for output in outputs
        ]

    def _known(self, design: FloatArray) -> FloatArray:
        return np.nan_to_num(design[:, self.used], nan=MISSING)

    def outputs(self, design: FloatArray) -> FloatArray:
        """Return both stages' outputs as scikit-learn's trees give them, shape (n, 2)."""
        known = self._known(design)
        return np.column_stack([tree.predict(known) for tree in self.trees])

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Each tree as (feature, threshold, left, right, value); a leaf's feature is -1."""
        return tuple(self._arrays_of(tree.tree_) for tree in self.trees)

    def _arrays_of(self, tree: Any) -> tuple[Any, ...]:
        feature = np.where(tree.feature >= 0, self.used[np.maximum(tree.feature, 0)], -1)
        left, right = tree.children_left.astype(np.int64), tree.children_right.astype(np.int64)
        value = np.ascontiguousarray(tree.value[:, 0, 0], np.float64)
        return feature.astype(np.int64), tree.threshold.astype(np.float64), left, right, value


class AdditiveTables:
    """Sums of one-dimensional piecewise cubics, read off additive models exactly.

    Parameters
    ----------
    models : sequence of callables
        One per stage: from a matrix of the used columns to outputs, additive over columns,
        each column's part a cubic between its breaks and constant beyond them.
    used : ndarray of int64, shape (k,)
        Columns of the design that the models take.
    breaks : list of ndarray of float64
        Ascending breaks of each of them.
    reference : ndarray of float64, shape (k,)
        A row to vary one column of at a time; must not hold NaN.

    Attributes
    ----------
    arrays : tuple
        For `classifiers._hazard_kernels.forecast_additive`.
    """

    def __init__(
        self,
        models: list[Outputs],
        used: IntArray,
        breaks: list[FloatArray],
        reference: FloatArray,
    ) -> None:
        size = max(len(own) for own in breaks)
        self.used = used
        self.breaks = np.full((len(used), size), np.inf)
        self.coefficients = np.zeros((len(used), max(size - 1, 1), len(models), 4))
        self.missing = np.zeros((len(used), len(models)))
        self.constant = np.array([float(model(reference[None])[0]) for model in models])
        for j, own in enumerate(breaks):
            self.breaks[j, : len(own)] = own
            for stage, model in enumerate(models):
                self._tabulate(j, stage, model, own, reference)

    def _tabulate(
        self, j: int, stage: int, model: Outputs, own: FloatArray, reference: FloatArray
    ) -> None:
        def part(x: FloatArray) -> FloatArray:
            rows = np.repeat(reference[None], len(x), axis=0)
            rows[:, j] = x
            return model(rows) - self.constant[stage]

        if self.used[j] not in (D_LOGIT, D_MU):
            self.missing[j, stage] = part(np.array([np.nan]))[0]
        width = np.diff(own)
        # Chebyshev-like points inside each piece: its ends belong to two pieces.
        at = np.array([0.05, 0.35, 0.65, 0.95])
        values = part((own[:-1, None] + width[:, None] * at).ravel()).reshape(len(width), 4)
        scaled = np.linalg.solve(np.vander(at, 4, increasing=True), values.T).T
        pieces = slice(0, len(width))
        self.coefficients[j, pieces, stage] = scaled / width[:, None] ** np.arange(4)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Columns, breaks, coefficients, parts of missing values, and constants."""
        return self.used, self.breaks, self.coefficients, self.missing, self.constant
