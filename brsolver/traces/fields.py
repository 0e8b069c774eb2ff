"""Columns of a trace file: what each must hold, and its conversion to arrays.

A block of a column is converted at once; only if that fails is it looked at value by value, to
find which row is bad and to accept spellings such as ``12.0``.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from brsolver.traces.trace import MAX_LENGTH

if TYPE_CHECKING:
    from collections.abc import Sequence

Values: TypeAlias = "pa.Array | Sequence[object]"
Flags: TypeAlias = NDArray[np.bool_]

_INT64_MAX = 2**63 - 1
_UINT64_MAX = 2**64 - 1


class Parser(ABC):
    """Conversion of one column, and the words for what it accepts."""

    must_be: str
    arrow_type: pa.DataType | None = None

    def wanted(self, value: object) -> str:
        """Say what the refused `value` must be."""
        del value
        return self.must_be

    def parse(self, values: Values) -> tuple[Any, Flags]:
        """Convert a column.

        Returns
        -------
        converted : ndarray or pyarrow.ListArray
            Of the column's length; the content of bad rows is arbitrary.
        good : ndarray of bool
            False where the value is missing or not acceptable.
        """
        if isinstance(values, pa.Array):
            try:
                return self._at_once(values)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                values = values.to_pylist()
        return self._one_by_one(values)

    @abstractmethod
    def _at_once(self, values: pa.Array) -> tuple[Any, Flags]: ...

    @abstractmethod
    def _one_by_one(self, values: Sequence[object]) -> tuple[Any, Flags]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole(Parser):
    """Whole numbers from `minimum` to `maximum`, as int64.

    Attributes
    ----------
    minimum, maximum : int
        The range.
    unit : str
        What follows "a whole number" in messages.
    missing : int or None
        What a missing value means; None if it is not acceptable.
    """

    minimum: int = 1
    maximum: int = _INT64_MAX
    unit: str = " of tokens"
    missing: int | None = None
    arrow_type = pa.int64()

    @property
    def must_be(self) -> str:  # type: ignore[override] # computed here, a constant elsewhere
        """What a value must be, in words."""
        return f"a whole number{self.unit}, at least {self.minimum}"

    def wanted(self, value: object) -> str:
        """Say what the refused `value` must be."""
        whole = whole_number(value)
        if whole is None or whole <= self.maximum:
            return self.must_be
        return f"at most {self.maximum:,}{self.unit.replace(' of', '')}"

    def _in_range(self, numbers: NDArray[np.int64]) -> Flags:
        return (numbers >= self.minimum) & (numbers <= self.maximum)

    def _at_once(self, values: pa.Array) -> tuple[Any, Flags]:
        if pa.types.is_string(values.type):
            values = no_blanks(values)
        if self.missing is not None:
            values = values.fill_null(_fitting(self.missing, values.type))
        present = valid(values)
        numbers = to_numpy(_integers(values), 0)
        return numbers, present & self._in_range(numbers)

    def _one_by_one(self, values: Sequence[object]) -> tuple[Any, Flags]:
        parsed = [self.missing if value in (None, "") else whole_number(value) for value in values]
        numbers = np.array([self.minimum - 1 if p is None else p for p in parsed], dtype=np.int64)
        present = np.array([p is not None for p in parsed], dtype=np.bool_)
        return numbers, present & self._in_range(numbers)


LENGTH = Whole(maximum=MAX_LENGTH)
"""Of a prompt or an output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Parser):
    """Finite numbers, as float64."""

    must_be = "a finite number"
    arrow_type = pa.float64()

    def _at_once(self, values: pa.Array) -> tuple[Any, Flags]:
        numbers = to_numpy(values.cast(pa.float64()), math.nan)
        return numbers, np.isfinite(numbers)

    def _one_by_one(self, values: Sequence[object]) -> tuple[Any, Flags]:
        numbers = np.array([_number(value) for value in values], dtype=np.float64)
        return numbers, np.isfinite(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks(Number):
    """Finite numbers of which nanoseconds since 1970 lose nothing: as int64 where all are whole."""

    arrow_type = pa.int64()

    def _at_once(self, values: pa.Array) -> tuple[Any, Flags]:
        try:
            return to_numpy(values.cast(pa.int64()), 0), valid(values)
        except pa.ArrowInvalid:
            numbers = to_numpy(values.cast(pa.float64()), math.nan)
            return numbers, np.isfinite(numbers)

    def _one_by_one(self, values: Sequence[object]) -> tuple[Any, Flags]:
        whole = [whole_number(value) for value in values]
        if all(number is not None for number in whole):
            return np.array(whole, dtype=np.int64), np.ones(len(whole), dtype=np.bool_)
        numbers = np.array([_number(value) for value in values], dtype=np.float64)
        return numbers, np.isfinite(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Parser):
    """Names or numbers that tell things apart, as int64 if all are whole numbers, else as text.

    A missing label is the empty text.
    """

    must_be = "a text or a whole number"
    arrow_type: pa.DataType | None = None

    def _at_once(self, values: pa.Array) -> tuple[Any, Flags]:
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_integer(values.type) and not values.null_count:
            return to_numpy(values.cast(pa.int64()), 0), valid(values)
        return self._one_by_one(values.to_pylist())

    def _one_by_one(self, values: Sequence[object]) -> tuple[Any, Flags]:
        good = np.array([value is None or type(value) in (str, int) for value in values], np.bool_)
        if values and all(type(value) is int and abs(value) <= _INT64_MAX for value in values):
            return np.array(values, dtype=np.int64), good
        texts = ["" if value is None else str(value) for value in values]
        return np.array(texts, dtype=np.str_), good


@dataclass(frozen=True, slots=True, kw_only=True)
class IntList(Parser):
    """Lists of 64-bit integers, signed or not, as an Arrow list array.

    Numbers from 2^63 on come as the negative numbers with the same bits: they are names, which
    stay different from each other.
    """

    must_be = "a list of whole numbers of 64 bits"
    arrow_type = pa.list_(pa.int64())

    def _at_once(self, values: pa.Array) -> tuple[Any, Flags]:
        lists = _signed_lists(values)
        if lists.flatten().null_count:
            return self._one_by_one(values.to_pylist())
        return lists, valid(values)

    def _one_by_one(self, values: Sequence[object]) -> tuple[Any, Flags]:
        good = np.array([_is_int_list(value) for value in values], dtype=np.bool_)
        kept = [
            [_signed(item) for item in value] if fine and isinstance(value, list) else []
            for value, fine in zip(values, good, strict=True)
        ]
        return pa.array(kept, type=pa.list_(pa.int64())), good


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column of a format.

    Attributes
    ----------
    source : str
        Its name in the file.
    target : str
        ``prompt_tokens``, ``output_tokens``, ``arrival`` or the name of an optional column of
        `Trace`; ``hash_ids`` becomes the ragged pair.
    parser : Parser
        What it holds.
    required : bool
        Whether the format always has it.
    path : tuple of str
        The keys that lead to it in nested records; by default `source` alone.
    """

    source: str
    target: str
    parser: Parser
    required: bool = True
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.path:
            object.__setattr__(self, "path", (self.source,))


def show(value: object) -> str:
    """Quote a value as messages do: on one line, and short."""
    text = value if isinstance(value, str) else _plain(value)
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _fitting(number: int, kind: pa.DataType) -> object:
    return str(number) if pa.types.is_string(kind) else number


def no_blanks(values: pa.Array) -> pa.Array:
    """Trim texts; what is left empty is missing."""
    texts = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _integers(values: pa.Array) -> pa.Array:
    """Return whole numbers, which may be written with a point.

    Raises
    ------
    pa.ArrowInvalid
        If some are no whole numbers, or too large to be told from their neighbours.
    """
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        numbers = values.cast(pa.float64())
        if pc.any(pc.greater_equal(pc.abs(numbers), 2.0**53)).as_py():
            raise
        return numbers.cast(pa.int64())


def _plain(value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return str(value)


def valid(values: pa.Array) -> Flags:
    """Tell which values are there."""
    flags: Flags = values.is_valid().to_numpy(zero_copy_only=False)
    return flags


def to_numpy(values: pa.Array, missing: float) -> NDArray[Any]:
    """Return numbers as an array, with `missing` in the place of those that are not there."""
    filled = values.fill_null(missing) if values.null_count else values
    array: NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return array


def whole_number(value: object) -> int | None:
    """Return a value as a whole number; None if it is none."""
    if type(value) is int:
        return value if abs(value) <= _INT64_MAX else None
    number = _number(value)
    if not number.is_integer() or abs(number) >= 2**53:
        return _int_text(value)
    return int(number)


def _int_text(value: object) -> int | None:
    """Read integers above 2^53, which floating point would round."""
    try:
        number = int(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return number if number is not None and abs(number) <= _INT64_MAX else None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _is_int_list(value: object) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and -_INT64_MAX - 1 <= item <= _UINT64_MAX for item in value
    )


def _signed(number: int) -> int:
    return number if number <= _INT64_MAX else number - _UINT64_MAX - 1


def _signed_lists(values: pa.Array) -> pa.Array:
    kind = values.type
    if not pa.types.is_nested(kind) or not pa.types.is_uint64(kind.value_type):
        return values.cast(pa.list_(pa.int64()))
    lists = values.cast(pa.list_(pa.uint64()))
    return pa.ListArray.from_arrays(
        lists.offsets, lists.values.view(pa.int64()), mask=lists.is_null()
    )
