"""Linear models as sparse integer arrays, built once and handed to any back end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from math import prod
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from brsolver.errors import ParameterError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

INFINITE = 1 << 62
"""A bound this large, either side of zero, is no bound."""


class Sense(Enum):
    """Direction of the objective."""

    MIN = "min"
    MAX = "max"


class Kind(IntEnum):
    """What values a column may take."""

    CONTINUOUS = 0
    """Any."""
    INTEGER = 1
    """Integers."""
    IMPLIED = 2
    """Any, but some optimum has an integer once the INTEGER columns have theirs.

    Back ends branch on INTEGER columns alone; CP-SAT, which knows integers only, accepts it.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A named run of columns or rows, e.g. ``x`` of shape (workers, kinds).

    Attributes
    ----------
    name : str
    start : int
        Index of its first column or row.
    shape : tuple of int
    """

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of its columns or rows."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearModel:
    """``min or max c·x + offset`` with ``row_lower <= A x <= row_upper`` and bounded columns.

    All data are integers, so that whatever a solver returns can be checked exactly. Solvers that
    calculate in floating point get the model in other units: column j in units of
    ``column_unit[j]``, row r divided by ``row_unit[r]`` and the objective by `objective_unit`.

    Attributes
    ----------
    sense : Sense
    costs : ndarray of int64, shape (n,)
    offset : int
        Constant of the objective.
    lower, upper : ndarray of int64, shape (n,)
        Bounds of columns; at or beyond `INFINITE` there is none.
    kind : ndarray of int8, shape (n,)
        `Kind` of each column.
    row_start : ndarray of int32, shape (m + 1,)
        Row r has the entries ``row_start[r]:row_start[r + 1]`` (CSR).
    row_column : ndarray of int32, shape (nnz,)
        Column of each entry.
    row_value : ndarray of int64, shape (nnz,)
        Value of each entry.
    row_lower, row_upper : ndarray of int64, shape (m,)
    columns, rows : tuple of Block
        Names, in order.
    column_unit, row_unit : ndarray of float64, shape (n,) and (m,)
    objective_unit : float
    """

    sense: Sense
    costs: IntArray
    offset: int
    lower: IntArray
    upper: IntArray
    kind: NDArray[np.int8]
    row_start: NDArray[np.int32]
    row_column: NDArray[np.int32]
    row_value: IntArray
    row_lower: IntArray
    row_upper: IntArray
    columns: tuple[Block, ...]
    rows: tuple[Block, ...]
    column_unit: FloatArray
    row_unit: FloatArray
    objective_unit: float

    @property
    def num_columns(self) -> int:
        """Number of columns n."""
        return int(self.costs.size)

    @property
    def num_rows(self) -> int:
        """Number of rows m."""
        return int(self.row_lower.size)

    @property
    def is_integral(self) -> bool:
        """Whether no column is `Kind.CONTINUOUS`, so that solutions and objectives are integers."""
        return not bool((self.kind == Kind.CONTINUOUS).any())

    def column(self, name: str) -> IntArray:
        """Return the indices of a block's columns, in its shape."""
        return _indices(self.columns, name)

    def row(self, name: str) -> IntArray:
        """Return the indices of a block's rows, in its shape."""
        return _indices(self.rows, name)


@dataclass(frozen=True, slots=True, eq=False)
class FloatModel:
    """A `LinearModel` in the units that suit floating-point solvers.

    Attributes
    ----------
    costs, lower, upper, row_lower, row_upper, value : ndarray of float64
        As in `LinearModel`, infinite where there is no bound.
    offset : float
        Constant of the objective.
    """

    costs: FloatArray
    lower: FloatArray
    upper: FloatArray
    row_lower: FloatArray
    row_upper: FloatArray
    value: FloatArray
    offset: float

    @classmethod
    def of(cls, model: LinearModel) -> Self:
        """Scale `model`."""
        rows = np.repeat(model.row_unit, np.diff(model.row_start))
        return cls(
            costs=model.costs * model.column_unit / model.objective_unit,
            lower=_scaled(model.lower, model.column_unit),
            upper=_scaled(model.upper, model.column_unit),
            row_lower=_scaled(model.row_lower, model.row_unit),
            row_upper=_scaled(model.row_upper, model.row_unit),
            value=model.row_value * model.column_unit[model.row_column] / rows,
            offset=model.offset / model.objective_unit,
        )


@dataclass(slots=True)
class ModelBuilder:
    """Collects blocks of columns, rows and entries, as whole arrays.

    Parameters
    ----------
    sense : Sense
    objective_unit : float
        Unit in which floating-point solvers see the objective.

    Examples
    --------
    >>> builder = ModelBuilder(Sense.MAX)
    >>> x = builder.add_columns("x", (2,), upper=1, cost=[3, 2], kind=Kind.INTEGER)
    >>> cap = builder.add_rows("cap", (1,), upper=1)
    >>> builder.add_entries(cap[0], x, 1)
    >>> model = builder.build()
    """

    sense: Sense
    objective_unit: float = 1.0
    offset: int = 0
    _columns: list[tuple[Block, tuple[FloatArray | IntArray, ...]]] = field(default_factory=list)
    _rows: list[tuple[Block, tuple[FloatArray | IntArray, ...]]] = field(default_factory=list)
    _entries: list[tuple[IntArray, IntArray, IntArray]] = field(default_factory=list)

    def add_columns(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        lower: ArrayLike = 0,
        upper: ArrayLike = INFINITE,
        cost: ArrayLike = 0,
        kind: ArrayLike = Kind.CONTINUOUS,
        unit: ArrayLike = 1.0,
    ) -> IntArray:
        """Add a block of columns; return their indices in `shape`.

        `lower`, `upper`, `cost`, `kind` and `unit` are broadcast to `shape`. Give finite bounds
        wherever there are any: dual bounds of relaxations are made safe with them.
        """
        whole = (_whole(v, shape) for v in (lower, upper, cost, kind))
        values: tuple[FloatArray | IntArray, ...] = (*whole, _real(unit, shape))
        return _append(self._columns, name, shape, values)

    def add_rows(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        lower: ArrayLike = -INFINITE,
        upper: ArrayLike = INFINITE,
        unit: ArrayLike = 1.0,
    ) -> IntArray:
        """Add a block of rows; return their indices in `shape`."""
        values = (_whole(lower, shape), _whole(upper, shape), _real(unit, shape))
        return _append(self._rows, name, shape, values)

    def add_entries(self, rows: ArrayLike, columns: ArrayLike, values: ArrayLike) -> None:
        """Add entries of A, the three arguments broadcast against each other; sums repeats."""
        r, c, v = np.broadcast_arrays(
            np.asarray(rows, np.int64), np.asarray(columns, np.int64), np.asarray(values, np.int64)
        )
        self._entries.append((r.ravel(), c.ravel(), v.ravel()))

    def build(self) -> LinearModel:
        """Assemble the model.

        Raises
        ------
        ParameterError
            A lower bound exceeds its upper bound.
        """
        lower, upper, costs, kind, column_unit = _stack(self._columns, 5)
        row_lower, row_upper, row_unit = _stack(self._rows, 3)
        if (lower > upper).any() or (row_lower > row_upper).any():
            raise ParameterError(
                "a lower bound of columns or rows is above its upper bound, must be at most that"
            )
        matrix = self._matrix(row_lower.shape[0], lower.shape[0])
        return LinearModel(
            sense=self.sense,
            costs=costs.astype(np.int64),
            offset=self.offset,
            lower=lower.astype(np.int64),
            upper=upper.astype(np.int64),
            kind=kind.astype(np.int8),
            row_start=matrix.indptr.astype(np.int32),
            row_column=matrix.indices.astype(np.int32),
            row_value=matrix.data,
            row_lower=row_lower.astype(np.int64),
            row_upper=row_upper.astype(np.int64),
            columns=tuple(block for block, _ in self._columns),
            rows=tuple(block for block, _ in self._rows),
            column_unit=column_unit,
            row_unit=row_unit,
            objective_unit=self.objective_unit,
        )

    def _matrix(self, rows: int, columns: int) -> sparse.csr_array:
        empty = np.zeros(0, np.int64)
        parts = zip(*self._entries, strict=True) if self._entries else (empty[None],) * 3
        r, c, v = (np.concatenate(tuple(part)) for part in parts)
        matrix = sparse.coo_array((v, (r, c)), shape=(rows, columns)).tocsr()
        matrix.sum_duplicates()
        return matrix


def _append(
    blocks: list[tuple[Block, tuple[FloatArray | IntArray, ...]]],
    name: str,
    shape: tuple[int, ...],
    values: tuple[FloatArray | IntArray, ...],
) -> IntArray:
    start = blocks[-1][0].start + blocks[-1][0].size if blocks else 0
    block = Block(name=name, start=start, shape=shape)
    blocks.append((block, values))
    return np.arange(start, start + block.size).reshape(shape)


def _indices(blocks: tuple[Block, ...], name: str) -> IntArray:
    for block in blocks:
        if block.name == name:
            return np.arange(block.start, block.start + block.size).reshape(block.shape)
    raise ParameterError(
        f"block is {name!r}, must be one of {', '.join(block.name for block in blocks)}"
    )


def _stack(
    blocks: list[tuple[Block, tuple[FloatArray | IntArray, ...]]], count: int
) -> list[NDArray[np.float64]]:
    if not blocks:
        return [np.zeros(0) for _ in range(count)]
    return [np.concatenate([values[i] for _, values in blocks]) for i in range(count)]


def _whole(values: ArrayLike, shape: tuple[int, ...]) -> IntArray:
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        raise ParameterError(f"model data is {array.dtype}, must be integers; scale it")
    return np.broadcast_to(array.astype(np.int64), shape).ravel()


def _real(values: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    array: FloatArray = np.asarray(values, np.float64)
    return np.broadcast_to(array, shape).ravel()


def _scaled(bounds: IntArray, unit: FloatArray) -> FloatArray:
    scaled = bounds / unit
    scaled[bounds >= INFINITE] = np.inf
    scaled[bounds <= -INFINITE] = -np.inf
    return scaled
