"""Tables of single operators as AIConfigurator and AISimulate distribute them.

A table is a file ``NAME_perf.parquet``, or ``.txt`` or ``.csv`` in older releases, that holds one
operator of one engine and version on one GPU: a row per size, its duration in ``latency``. That
column has no unit in its name: it is milliseconds, as the distribution's own loaders take it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import ParameterError
from brsolver.hardware.readers.columns import (
    SECONDS,
    csv_columns,
    csv_first,
    csv_header,
    header_of_parquet,
    numbers,
    require_columns,
    unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from brsolver.hardware.measurements import FloatArray

_ATTENTION = (
    *("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "step"),
    *("attn_dtype", "kv_cache_dtype"),
)
_MODULE = (
    *("batch_size", "isl", "num_heads", "step"),
    *("architecture", "mla_dtype", "kv_cache_dtype", "gemm_type"),
)
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k", "gemm_dtype"),
    "moe": (
        *("num_tokens", "hidden_size", "inter_size", "topk", "num_experts"),
        *("moe_tp_size", "moe_ep_size", "moe_dtype", "distribution"),
    ),
    "nccl": ("num_gpus", "message_size", "nccl_dtype", "op_name"),
    "context_attention": _ATTENTION,
    "generation_attention": _ATTENTION,
    "mla_context_module": _MODULE,
    "mla_generation_module": _MODULE,
    "dsa_context_module": _MODULE,
    "dsa_generation_module": _MODULE,
}
"""Operators that are read, and the columns that each must have, besides its duration."""
OPTIONAL = {"window_size": 0.0}
"""Columns that later releases have, and what their absence says."""
TEXTS = {
    *("gemm_dtype", "moe_dtype", "nccl_dtype", "attn_dtype", "mla_dtype", "kv_cache_dtype"),
    *("gemm_type", "architecture", "distribution", "op_name"),
}
ABOUT = (
    *("framework", "version", "device", "kernel_source", "op_name", "model", "backend"),
    *("beam_width", "tp_size", "power", "power_limit"),
)
"""Columns that say what was measured, or tell rows apart by what others tell too."""
LIBRARIES = ("nccl",)
"""Operators of no engine: whoever measured them is no choice."""
STEM = "latency"
DURATIONS = (STEM, *(f"{STEM}_{unit}" for unit in SECONDS))
SUFFIXES = (".parquet", ".txt", ".csv")
ENDING = "_perf"
_BEFORE = ("dev", "a", "b", "rc")
"""Of versions that come before what they are of."""
_POINTER = "version https://git-lfs"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Table:
    """Rows of one operator.

    Attributes
    ----------
    operator : str
        Of `LAYOUTS`.
    path : Path
    engine, version : str
        Of the first row; empty if the table does not say.
    columns : mapping of str to ndarray, shape (K,)
        Numbers, and texts as objects.
    seconds : ndarray of float64, shape (K,)
    """

    operator: str
    path: Path
    engine: str
    version: str
    columns: Mapping[str, NDArray[Any]]
    seconds: FloatArray

    def __len__(self) -> int:
        return int(self.seconds.size)

    def where(self, **wanted: object) -> Table:
        """Return the rows of these values.

        Raises
        ------
        ParameterError
            There are none; names the first column that has no such value, and what it has.
        """
        kept = np.ones(len(self), dtype=bool)
        for name, value in wanted.items():
            column = self.columns[name]
            also = kept & (column == value)
            if not also.any():
                held = ", ".join(map(_spelled, sorted(set(column[kept].tolist()))))
                others = [f"{key} {_spelled(wanted[key])}" for key in wanted if key != name]
                given = f" with {', '.join(others)}" if others else ""
                raise ParameterError(
                    f"{self.path}: {name} is never {_spelled(value)}{given}; there is "
                    f"{held or 'no row'}"
                )
            kept = also
        return self._rows(kept)

    def _rows(self, kept: NDArray[np.bool_]) -> Table:
        return Table(
            operator=self.operator,
            path=self.path,
            engine=self.engine,
            version=self.version,
            columns={name: column[kept] for name, column in self.columns.items()},
            seconds=self.seconds[kept],
        )


def _spelled(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_tables(path: Path, engine: str = "") -> dict[str, Table]:
    """Read the operator tables of a folder and the folders in it, or one file.

    Parameters
    ----------
    path : Path
    engine : str, optional
        Whose tables, where there are several: ``vllm``, or ``vllm 0.25.1``. Of several versions
        the newest is read.

    Returns
    -------
    dict of str to Table
        By operator, of `LAYOUTS`.

    Raises
    ------
    ParameterError
        There is no table, one cannot be read, has other columns or a bad row, or they are of
        several engines; names file, row, column and value, and what would be accepted.
    """
    named = sorted(_files(path), key=_operator)
    asked = engine.partition(" ")[0].lower()
    return {
        operator: _newest(operator, [_Head(each) for each in found], asked)
        for operator, found in groupby(named, key=_operator)
    }


def _files(path: Path) -> Iterable[Path]:
    names = ", ".join(f"{name}{ENDING}" for name in LAYOUTS)
    if not path.exists():
        raise ParameterError(f"{path}: cannot be read: there is no such file or folder")
    if path.is_file():
        if _operator(path) not in LAYOUTS or path.suffix not in SUFFIXES:
            raise ParameterError(
                f"{path.name} is no operator table, must be one of {names}, ending in "
                f"{', '.join(SUFFIXES)}"
            )
        return [path]
    found = [
        each
        for suffix in SUFFIXES
        for each in path.rglob(f"*{ENDING}{suffix}")
        if _operator(each) in LAYOUTS
    ]
    if not found:
        raise ParameterError(
            f"{path}: holds no operator table, must hold {names}, ending in {', '.join(SUFFIXES)}"
        )
    return found


def _operator(path: Path) -> str:
    return path.stem.removesuffix(ENDING) if path.stem.endswith(ENDING) else ""


class _Head:
    """A table of which nothing but whose it is was read yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parquet = header_of_parquet(path) is not None
        self.names = header_of_parquet(path) or csv_header(path)
        if self.names[0].startswith(_POINTER):
            raise ParameterError(f"{path}: is a pointer of Git LFS, must be the table itself")
        first = self._first()
        self.engine, self.version = (str(first.get(name, "")) for name in ("framework", "version"))

    def _first(self) -> dict[str, Any]:
        """Return the first row, by column; empty without any."""
        if not self.parquet:
            return csv_first(self.path)
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows = pq.ParquetFile(self.path).iter_batches(batch_size=1)
            return next(iter(next(rows, pa.RecordBatch.from_pylist([])).to_pylist()), {})
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.path, error) from error

    def texts(self, wanted: Sequence[str]) -> tuple[dict[str, list[Any]], list[int]]:
        """Return columns, and the row number of each row."""
        if not self.parquet:
            texts, rows = csv_columns(self.path)
            return {name: list(texts[name]) for name in wanted}, rows
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.path, columns=list(wanted))
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.path, error) from error
        return {name: table[name].to_pylist() for name in wanted}, list(
            range(1, table.num_rows + 1)
        )


def _newest(operator: str, found: list[_Head], asked: str) -> Table:
    engines = sorted({each.engine for each in found})
    if operator not in LIBRARIES and len({name.lower() for name in engines}) > 1:
        found = [each for each in found if each.engine.lower() == asked]
        if not found:
            raise ParameterError(
                f"{operator}{ENDING} is there of {', '.join(engines)}, must be of one engine: name "
                "its folder"
            )
    return _read(operator, max(found, key=lambda each: (_number_of(each.version), str(each.path))))


def _number_of(version: str) -> list[tuple[int, str]]:
    """Return a version so that 0.9 comes before 0.24, and 1.0rc2 before 1.0rc10 and 1.0."""
    parts = re.findall(r"\d+|[a-z]+", version.lower())
    words = ((-1 if part in _BEFORE else 1, part) for part in parts)
    numbered = [
        (int(p), "") if p.isdecimal() else word for p, word in zip(parts, words, strict=True)
    ]
    return [*numbered, (0, "")]


def _read(operator: str, head: _Head) -> Table:
    path, names = head.path, head.names
    needed = LAYOUTS[operator]
    duration, unit = _duration(path, names)
    require_columns(path, names, (*needed, duration))
    known = [*needed, *(name for name in OPTIONAL if name in names)]
    others = [name for name in names if name not in (*known, duration, *ABOUT)]
    # What tells an operator from its variants must be read, e.g. rows without an indexer.
    variants = ["op_name"] if "op_name" in names and "op_name" not in known else []
    texts, rows = head.texts(list(dict.fromkeys([*known, *variants, duration, *others])))
    _require_single(path, texts, others, operator)
    columns = {name: _column(path, name, texts[name], rows) for name in (*known, *variants)}
    for name, value in OPTIONAL.items():
        columns.setdefault(name, np.full(len(rows), value))
    seconds = numbers(path, duration, texts[duration], rows, positive=True) * unit
    table = Table(
        operator=operator,
        path=path,
        engine=head.engine,
        version=head.version,
        columns=columns,
        seconds=seconds,
    )
    return table.where(op_name=operator) if variants and _is_module(operator) else table


def _is_module(operator: str) -> bool:
    return operator.endswith("_module")


def _duration(path: Path, names: Sequence[str]) -> tuple[str, float]:
    found = [name for name in names if name.partition("_")[0] == STEM]
    if len(found) != 1 or found[0] not in DURATIONS:
        raise ParameterError(
            f"{path}: durations are in {', '.join(found) or 'no column'}, must be in one of "
            f"{', '.join(DURATIONS)} ({STEM} is milliseconds); columns are {', '.join(names)}"
        )
    return found[0], SECONDS.get(found[0].rpartition("_")[2], SECONDS["ms"])


def _require_single(
    path: Path, texts: Mapping[str, Sequence[object]], others: Iterable[str], operator: str
) -> None:
    """Refuse columns that are not known and tell rows apart: which row to take is not told."""
    for name in others:
        # Of nested columns the values cannot be hashed.
        if len(set(map(str, texts[name]))) > 1:
            accepted = (*LAYOUTS[operator], *OPTIONAL, *ABOUT, *DURATIONS)
            raise ParameterError(
                f"{path}: column {name} is not known and differs between rows, columns must be of "
                f"{', '.join(dict.fromkeys(accepted))}"
            )


def _column(path: Path, name: str, values: Sequence[object], rows: Sequence[int]) -> NDArray[Any]:
    if name not in TEXTS:
        return numbers(path, name, values, rows)
    for row, value in zip(rows, values, strict=True):
        if value is None:
            raise ParameterError(f"{path}: row {row}: {name} is nothing, must be a text")
    return np.array([str(value) for value in values], dtype=object)


def told(tables: Iterable[Table]) -> Iterator[str]:
    """Say which tables were read, a phrase each."""
    for table in tables:
        whose = f"{table.engine} {table.version}".strip() or "an engine that is not named"
        yield f"{table.operator} of {whose}"
