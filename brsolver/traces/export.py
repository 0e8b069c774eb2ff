"""Write traces in brsolver's own schema, and take samples of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from brsolver.errors import OutputError, ParameterError, UnknownNameError
from brsolver.traces.atomic import replacing
from brsolver.traces.readers.native import LABELS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from brsolver.traces.trace import Trace

_ROWS = 1 << 16
_SUFFIXES = (".csv", ".jsonl", ".parquet")


def write_trace(
    trace: Trace,
    path: str | os.PathLike[str],
    *,
    drop_hashes: bool = False,
    beside: Mapping[str, NDArray[np.generic]] | None = None,
) -> None:
    """Write a trace in brsolver's schema, which `load_trace` reads back exactly.

    Parameters
    ----------
    trace : Trace
        What to write.
    path : str or path
        Where; the extension says how: ``.csv``, ``.jsonl`` or ``.parquet``. The file appears
        complete or not at all.
    drop_hashes : bool
        Leave out the prefix-hash chains, which CSV cannot hold.
    beside : mapping of str to ndarray, shape (n,), optional
        Further columns, which readers of the schema pass over; NaN is written as nothing.

    Raises
    ------
    OutputError
        If the file cannot be written, or the format cannot hold the trace.
    UnknownNameError
        If the extension is none of these.

    Notes
    -----
    CSV does not tell text from numbers: a text column in which every value is a whole number
    comes back as numbers. JSON lines and Parquet keep it text.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise UnknownNameError.suggest("trace file extension", suffix, _SUFFIXES)
    table = _table(trace, drop_hashes=drop_hashes)
    for name, column in (beside or {}).items():
        table = table.append_column(name, pa.array(column, from_pandas=True))
    if suffix == ".csv":
        _require_flat(table, path)
    with replacing(path) as part:
        if suffix == ".parquet":
            pq.write_table(table, part)
        elif suffix == ".csv":
            _write_csv(table, part)
        else:
            _write_jsonl(table, part)


def sample_trace(trace: Trace, n: int, *, seed: int = 0, contiguous: bool = False) -> Trace:
    """Take `n` requests of a trace, in order of arrival.

    Parameters
    ----------
    trace : Trace
        Where to take them from.
    n : int
        How many, at most as many as there are.
    seed : int
        Seed of the draw.
    contiguous : bool
        Take consecutive requests from a random start, which keeps the arrival rate. Otherwise
        every request has the same chance, which thins the arrivals out.

    Returns
    -------
    Trace
        With times since the first request taken.
    """
    if not 1 <= n <= len(trace):
        raise ParameterError(f"n is {n}, must be from 1 to the {len(trace)} requests of the trace")
    if seed < 0:
        raise ParameterError(f"seed is {seed}, must be at least 0")
    rng = np.random.default_rng(seed)
    if contiguous:
        start = int(rng.integers(0, len(trace) - n + 1))
        return trace.take(np.arange(start, start + n))
    return trace.take(np.sort(rng.choice(len(trace), size=n, replace=False)))


def _table(trace: Trace, *, drop_hashes: bool) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "prompt_tokens": pa.array(trace.prompt_tokens),
        "output_tokens": pa.array(trace.output_tokens),
    }
    if trace.arrival_s is not None:
        columns["arrival_s"] = pa.array(trace.arrival_s, from_pandas=True)
    if trace.delay_s is not None:
        columns["delay_s"] = pa.array(trace.delay_s, from_pandas=True)
    for name in ("max_tokens", "cached_tokens", *LABELS):
        if name in trace.columns:
            columns[name] = pa.array(trace.columns[name].tolist())
    if "hash_offsets" in trace.columns and not drop_hashes:
        columns["hash_ids"] = pa.LargeListArray.from_arrays(
            pa.array(trace.columns["hash_offsets"], type=pa.int64()),
            pa.array(trace.columns["hash_values"], type=pa.int64()),
        )
    if trace.surrogate:
        columns["surrogate"] = pa.array(np.ones(len(trace), dtype=np.int64))
    return pa.table(columns)


def _require_flat(table: pa.Table, path: str | os.PathLike[str]) -> None:
    if "hash_ids" in table.column_names:
        raise OutputError(
            f"{path}: CSV cannot hold prefix hashes; write .jsonl or .parquet, or drop the hashes"
        )
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_string(column.type) and any(
            "\n" in text or "\r" in text for text in column.to_pylist()
        ):
            raise OutputError(
                f"{path}: CSV cannot hold the line breaks in column {name}; "
                "write .jsonl or .parquet"
            )


def _write_csv(table: pa.Table, part: Path) -> None:
    with part.open("wb") as stream:
        stream.write((",".join(table.column_names) + "\n").encode())
        arrow_csv.write_csv(table, stream, arrow_csv.WriteOptions(include_header=False))


def _write_jsonl(table: pa.Table, part: Path) -> None:
    with part.open("w", encoding="utf-8") as stream:
        for line in _json_lines(table):
            stream.write(line)


def _json_lines(table: pa.Table) -> Iterator[str]:
    for batch in table.to_batches(max_chunksize=_ROWS):
        for record in batch.to_pylist():
            yield json.dumps(record) + "\n"
