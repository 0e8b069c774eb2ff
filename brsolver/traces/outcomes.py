"""Which rows of a log are requests that were answered."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from brsolver.traces.fields import show, valid
from brsolver.traces.layout import raw_field
from brsolver.traces.paths import Path, parts, simple
from brsolver.traces.vocabulary import (
    ERROR_NAMES,
    GOOD_STATUS,
    OPERATION_NAMES,
    OTHER_OPERATIONS,
    STATUS_NAMES,
    SUCCESS_NAMES,
    ends_with,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from brsolver.traces.batches import Batch
    from brsolver.traces.fields import Field, Values
    from brsolver.traces.sample import Sample

_ABOVE = frozenset(
    {"response", "httpresponse", "http", "attributes", "result", "output", "source", "metadata"}
)
_BAD_WORDS = re.compile(
    r"fail|err|time.?d?.?out|cancel|abort|reject|denied|exception|throttl|refus"
)
_NOTHING = frozenset({"", "0", "0.0", "null", "none", "false", "nan", "{}", "[]"})
_LEADING_NUMBER = re.compile(r"\s*(\d+)(\.0*)?(\s|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A field that tells whether a request was answered.

    Attributes
    ----------
    field : Field
    refuses : callable
        Whether a value means that it was not.
    reason : str
        What such rows are called.
    """

    field: Field
    refuses: Callable[[Any], bool]
    reason: str


def find_checks(sample: Sample) -> list[Check]:
    """Return the fields that tell whether requests were answered."""
    kinds: tuple[tuple[tuple[str, ...], Callable[[Path], Callable[[Any], bool]], str], ...] = (
        (OPERATION_NAMES, lambda _: _other_operation, "no calls of a model"),
        (STATUS_NAMES, _bad_status, "failed"),
        (SUCCESS_NAMES, lambda _: _no_success, "failed"),
        (ERROR_NAMES, lambda _: _some_error, "failed"),
    )
    checks: list[Check] = []
    for names, judge, reason in kinds:
        for path in sample.columns:
            if any(_is(path, name) for name in names) and _speaks(path, sample):
                field = raw_field(path, sample)
                checks.append(Check(field=field, refuses=judge(path), reason=reason))
    return checks


class Tally:
    """Leaves out the rows that were not answered, and counts them by reason.

    Parameters
    ----------
    checks : sequence of Check
    output : Field
        The length of the output, without which there was no answer.
    """

    def __init__(self, checks: Sequence[Check], output: Field) -> None:
        self._checks = checks
        self._output = output
        self._rows: list[NDArray[np.int64]] = []
        self._reasons: list[list[str]] = []
        self._looked = 0
        self._left_out = 0

    @property
    def fields(self) -> list[Field]:
        """The columns that are looked at, besides the output's."""
        return [check.field for check in self._checks]

    @property
    def all_left_out(self) -> bool:
        """Whether there were rows, and none was answered."""
        return 0 < self._looked == self._left_out

    def answered(self, batch: Batch) -> Batch:
        """Return the rows that were answered."""
        self._looked += batch.rows.size
        reasons: dict[int, str] = {}
        for check in self._checks:
            values = batch.columns[check.field.source]
            for place in np.flatnonzero(_refused(values, check.refuses)).tolist():
                said = f"{check.reason} ({check.field.source} is {show(_at(values, place))})"
                reasons.setdefault(place, said)
        output = batch.columns[self._output.source]
        for place in np.flatnonzero(~self._output.parser.parse(output)[1]).tolist():
            if _is_nothing(_at(output, place)):
                reasons.setdefault(place, "without output tokens")
        if not reasons:
            return batch
        out = np.array(sorted(reasons), dtype=np.int64)
        self._left_out += out.size
        self._rows.append(batch.rows[out])
        self._reasons.append([reasons[place] for place in out.tolist()])
        return _without(batch, out)

    def words(self, last_row: int | None) -> str | None:
        """Say how many rows were left out and why; None if none were.

        Parameters
        ----------
        last_row : int or None
            Number of the last row that counts; None if all do.
        """
        counts: Counter[str] = Counter()
        for rows, reasons in zip(self._rows, self._reasons, strict=True):
            for row, reason in zip(rows.tolist(), reasons, strict=True):
                counts[reason] += last_row is None or row < last_row
        total = counts.total()
        if not total:
            return None
        shown = [f"{count:,} {reason}" for reason, count in counts.most_common(3) if count]
        rest = total - sum(count for _, count in counts.most_common(3))
        more = [f"{rest:,} for other reasons"] if rest else []
        return f"left out {total:,} rows: {', '.join([*shown, *more])}"


def _is(path: Path, name: str) -> bool:
    above = parts(path)[: -len(parts((name,)))]
    return ends_with(path, name) and all(step in _ABOVE for step in above)


def _speaks(path: Path, sample: Sample) -> bool:
    """Tell whether a status says of calls how they ended; others say, for instance, 'active'."""
    if not any(_is(path, name) for name in STATUS_NAMES):
        return True
    values = sample.columns[path]
    return any(_known_status(value) for value in values)


def _known_status(value: object) -> bool:
    if isinstance(value, (bool, int, float)):
        return True
    text = str(value)
    known = simple(text) in GOOD_STATUS or _BAD_WORDS.search(text.lower()) is not None
    return known or _LEADING_NUMBER.match(text) is not None


def _bad_status(path: Path) -> Callable[[Any], bool]:
    last = parts(path)
    if last[-1] == "level":
        return lambda value: simple(str(value)) in ("error", "fatal", "critical")
    # OpenTelemetry's codes are 0, 1 and 2 for unset, ok and error.
    worst = 2 if last[-2:] == ("status", "code") else 400
    return lambda value: _is_bad(value, worst)


def _is_bad(value: object, worst: int) -> bool:
    if value is None or isinstance(value, bool):
        return value is False
    number = _LEADING_NUMBER.match(str(value))
    if number is not None:
        return int(number[1]) >= worst
    text = simple(str(value))
    return text != "" and text not in GOOD_STATUS


def _no_success(value: object) -> bool:
    return value is False or str(value).strip().lower() in ("false", "0", "no", "f")


def _some_error(value: object) -> bool:
    if isinstance(value, dict):
        return any(_some_error(item) for item in value.values())
    number = _LEADING_NUMBER.match(str(value))
    return not _is_nothing(value) and not (number is not None and int(number[1]) < 400)


def _other_operation(value: object) -> bool:
    return simple(str(value)) in OTHER_OPERATIONS


def _is_nothing(value: object) -> bool:
    return value is None or str(value).strip().lower() in _NOTHING


def _refused(values: Values, refuses: Callable[[Any], bool]) -> NDArray[np.bool_]:
    if not isinstance(values, pa.Array):
        return np.fromiter(map(refuses, values), dtype=np.bool_, count=len(values))
    if pa.types.is_nested(values.type):
        refused = np.full(len(values), refuses(None))
        for place in np.flatnonzero(valid(values)).tolist():
            refused[place] = refuses(values[place].as_py())
        return refused
    # Few values are different from each other: each is judged once.
    coded = values.dictionary_encode(null_encoding="encode")
    verdicts = np.array([refuses(item) for item in coded.dictionary.to_pylist()], dtype=np.bool_)
    by_row: NDArray[np.bool_] = verdicts[coded.indices.to_numpy(zero_copy_only=False)]
    return by_row


def _at(values: Values, place: int) -> object:
    value = values[place]
    return value.as_py() if isinstance(value, pa.Scalar) else value


def _without(batch: Batch, out: NDArray[np.int64]) -> Batch:
    keep = np.delete(np.arange(batch.rows.size), out)
    columns: dict[str, Values] = {}
    for name, values in batch.columns.items():
        if isinstance(values, pa.Array):
            columns[name] = values.take(pa.array(keep))
        else:
            columns[name] = [values[place] for place in keep.tolist()]
    return replace(batch, rows=batch.rows[keep], columns=columns)
