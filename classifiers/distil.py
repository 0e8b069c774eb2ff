"""Models small enough to ask at run time, distilled from those that were trained."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.tree import DecisionTreeRegressor

from classifiers._hazard_kernels import D_LOGIT, D_MU, MISSING

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.predictors import FloatArray, IntArray

    Outputs = Callable[[FloatArray], FloatArray]


DEPTH = 12
"""Deepest student: evaluation takes as many steps for every row."""


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
        The same for `classifiers._hazard_kernels.forecast_trees`: per tree the
        arguments of `classifiers._hazard_kernels.tree_values` after the rows.
    """

    def __init__(
        self,
        design: FloatArray,
        used: IntArray,
        outputs: list[FloatArray],
        *,
        leaves: int = 2048,
        samples_per_leaf: int = 5,
    ) -> None:
        self.used = used
        known = self._known(design)
        self.trees = [
            DecisionTreeRegressor(
                max_leaf_nodes=leaves,
                max_depth=DEPTH,
                min_samples_leaf=samples_per_leaf,
                random_state=0,
            ).fit(known, output)
            for output in outputs
        ]
        self.arrays = tuple(self._nodes(tree.tree_) for tree in self.trees)

    def _known(self, design: FloatArray) -> FloatArray:
        return np.nan_to_num(design[:, self.used], nan=MISSING)

    def outputs(self, design: FloatArray) -> FloatArray:
        """Return both stages' outputs as scikit-learn's trees give them, shape (n, 2)."""
        known = self._known(design)
        return np.column_stack([tree.predict(known) for tree in self.trees])

    def compiled_only(self) -> StudentTrees:
        """Return a copy without scikit-learn's trees."""
        slim = copy.copy(self)
        slim.trees = []
        return slim

    def _nodes(self, tree: Any) -> tuple[Any, ...]:
        order, first_child = _siblings_adjacent(tree.children_left, tree.children_right)
        split = tree.feature[order] >= 0
        column = np.where(split, self.used[np.maximum(tree.feature[order], 0)], 0)
        links = np.column_stack([column, first_child]).astype(np.uint32)
        bounds = np.where(split, _rounded_down(tree.threshold[order]), np.inf)
        values = np.ascontiguousarray(tree.value[order, 0, 0], np.float64)
        return links, bounds.astype(np.float32), values, int(tree.max_depth)


def _siblings_adjacent(left: IntArray, right: IntArray) -> tuple[IntArray, IntArray]:
    """Return nodes level by level, and the new number of each one's first child, or its own."""
    order, first_child = [0], []
    for at, node in enumerate(order):
        split = left[node] >= 0
        first_child.append(len(order) if split else at)
        # The list is walked while it grows: that is what makes the order one by level.
        order.extend([int(left[node]), int(right[node])] if split else [])
    return np.array(order), np.array(first_child)


def _rounded_down(threshold: FloatArray) -> FloatArray:
    """Return the largest single-precision numbers not above, which split alike."""
    single = threshold.astype(np.float32)
    down: FloatArray = np.where(
        single > threshold, np.nextafter(single, np.float32(-np.inf)), single
    )
    return down


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
        For `classifiers._hazard_kernels.forecast_additive`: columns, pieces, breaks,
        coefficients, parts of missing values, and constants.
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
        pieces = np.array([len(own) - 1 for own in breaks], np.int64)
        self.arrays = (used, pieces, self.breaks, self.coefficients, self.missing, self.constant)

    def compiled_only(self) -> AdditiveTables:
        """Return this: it holds nothing else."""
        return self

    def _tabulate(
        self, j: int, stage: int, model: Outputs, own: FloatArray, reference: FloatArray
    ) -> None:
        def part(x: FloatArray) -> FloatArray:
            rows = np.repeat(reference[None], len(x), axis=0)
            rows[:, j] = x
            varied: FloatArray = model(rows) - self.constant[stage]
            return varied

        if self.used[j] not in (D_LOGIT, D_MU):
            self.missing[j, stage] = part(np.array([np.nan]))[0]
        width = np.diff(own)
        # Chebyshev-like points inside each piece: its ends belong to two pieces.
        at = np.array([0.05, 0.35, 0.65, 0.95])
        values = part((own[:-1, None] + width[:, None] * at).ravel()).reshape(len(width), 4)
        scaled = np.linalg.solve(np.vander(at, 4, increasing=True), values.T).T
        pieces = slice(0, len(width))
        self.coefficients[j, pieces, stage] = scaled / width[:, None] ** np.arange(4)
