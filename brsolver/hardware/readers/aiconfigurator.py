"""Whole forward passes as AIConfigurator and AISimulate keep them: Parquet, one row per pass.

All ranks of a row do the same. That sequences and tokens are those of *one* rank is not written
down; it follows from what the files of data-parallel servers hold: one sequence reads as many KV
tokens as the model's longest context, and the most that any row reads is what one rank's memory
holds beside the weights, not its multiple by ranks (see ``docs/hardware.md``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware.measurements import Measurements, Origin
from brsolver.hardware.readers.columns import (
    duration_column,
    numbers,
    require_columns,
    unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from brsolver.hardware.readers.selection import Selection

COUNTS = ("batch_size", "total_prefill_tokens", "total_kv_read_tokens")
FACTS = {"model": "model_path", "parallel": "parallel_strategy", "dp": "dp", "tp": "tp"}
"""What tells servers apart, and its column."""
DEGREES = ("dp", "tp")
REGIME = "kv_seed_regime"
NO_MEASUREMENT = "fake_fallback"
"""Of rows whose KV was never written: they time other memory traffic than a server's."""


def require(path: Path, names: Iterable[str]) -> None:
    """Raise `ParameterError` unless the columns are there."""
    names = tuple(names)
    require_columns(path, names, COUNTS)
    duration_column(path, names, "latency")


def read(path: Path, selection: Selection) -> Measurements:
    """Read the rows of one server; see `brsolver.hardware.readers.read_measurements`."""
    table = _table(path)
    table |= {name: _degrees(path, name, table[name]) for name in DEGREES if name in table}
    latency, unit = duration_column(path, table, "latency")
    real = np.array([regime != NO_MEASUREMENT for regime in table.get(REGIME, ())], dtype=bool)
    kept = _chosen(path, table, selection)
    dropped = int((kept & ~real).sum()) if real.size else 0
    kept &= real if real.size else True
    rows = (np.flatnonzero(kept) + 1).tolist()
    columns = {
        name: numbers(path, name, _taken(table[name], kept), rows, positive=name not in COUNTS[1:])
        for name in (*COUNTS, latency)
    }
    notes = (
        (f"left out {dropped:,} rows with {REGIME} = {NO_MEASUREMENT}: not real KV",)
        if dropped
        else ()
    )
    return _measured(columns, columns[latency] * unit, _origin(path, table, kept, notes))


def _table(path: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = set(pq.read_schema(path).names)
        wanted = [
            name
            for name in (*COUNTS, *FACTS.values(), REGIME, "system", "backend", "backend_version")
            if name in names
        ]
        latencies = [name for name in names if name.startswith("latency")]
        table = pq.read_table(path, columns=[*wanted, *latencies])
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error
    return {name: table[name].to_pylist() for name in table.column_names}


def _degrees(path: Path, name: str, values: list[Any]) -> list[int | None]:
    """Return whole numbers; None where there is nothing, which pandas may spell NaN."""
    found = [_degree(value) for value in values]
    if 0 in found:
        at = found.index(0)
        raise ParameterError(
            f"{path}: row {at + 1}: {name} is {values[at]!s}, must be a whole number, at least 1, "
            "or nothing"
        )
    return found


def _degree(value: Any) -> int | None:
    """Return a degree of parallelism, None for nothing, and 0 for what is none."""
    if value is None or value != value:  # noqa: PLR0124 # NaN alone differs from itself
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0
    return int(number) if number >= 1 and number.is_integer() else 0


def _taken(values: list[Any], kept: NDArray[np.bool_]) -> list[Any]:
    return [value for value, keep in zip(values, kept.tolist(), strict=True) if keep]


def _chosen(path: Path, table: Mapping[str, Any], selection: Selection) -> NDArray[np.bool_]:
    """Return which rows are of the one server that is chosen, shape (rows,)."""
    keys = list(
        zip(*(table.get(c, [None] * len(table[COUNTS[0]])) for c in FACTS.values()), strict=True)
    )
    asked = {name: getattr(selection, name) for name in FACTS if getattr(selection, name)}
    servers = Counter(keys)
    for name, value in asked.items():
        at = tuple(FACTS).index(name)
        found = {key: n for key, n in servers.items() if _fits(name, key[at], value)}
        if not found:
            known = sorted({str(key[at]) for key in servers if key[at] is not None})
            raise _unknown(path, name, value, known)
        servers = Counter(found)
    if len(servers) > 1:
        told = sorted(_spelled(key) for key in servers)
        raise ParameterError(
            f"{path}: holds {len(servers)} servers, one must be chosen by --model, --parallel, "
            f"--dp, --tp: {'; '.join(told)}"
        )
    (server,) = servers or (None,)
    return np.array([key == server for key in keys], dtype=bool)


def _fits(name: str, held: object, asked: object) -> bool:
    if name == "model":
        return str(held or "").lower().endswith(str(asked).lower())
    return held == asked


def _unknown(path: Path, name: str, value: object, known: list[str]) -> ParameterError:
    if isinstance(value, str):
        return UnknownNameError.suggest(f"{name} in {path}", value, known)
    return ParameterError(f"{path}: {name} is {value}, must be one of {', '.join(known) or 'none'}")


def _spelled(server: tuple[object, ...]) -> str:
    told = zip(FACTS, server, strict=True)
    return " ".join(f"{name}={'unknown' if value is None else value}" for name, value in told)


def _origin(
    path: Path, table: Mapping[str, Any], kept: NDArray[np.bool_], notes: tuple[str, ...]
) -> Origin:
    def only(column: str) -> str:
        held = set(_taken(table[column], kept)) - {None} if column in table else set()
        return str(held.pop()) if len(held) == 1 else ""

    found = Origin(
        file=str(path),
        model=only("model_path"),
        system=only("system"),
        engine=f"{only('backend')} {only('backend_version')}".strip(),
        parallel=only("parallel_strategy"),
        notes=notes,
    )
    return replace(found, dp=int(only("dp") or 0), tp=int(only("tp") or 0))


def _measured(columns: Mapping[str, Any], seconds: Any, origin: Origin) -> Measurements:
    batch, prefill, kv = (columns[name] for name in COUNTS)
    prefills = prefill > 0
    # Tokens and what stands before them are spread evenly over the sequences.
    context = prefill * (kv / batch + (prefill / batch + 1) / 2)
    return Measurements(
        sequences=np.where(prefills, 0.0, batch)[:, None],
        kv_tokens=np.where(prefills, 0.0, kv)[:, None],
        prefill_tokens=prefill[:, None],
        prefill_context=np.where(prefills, context, 0.0)[:, None],
        seconds=seconds,
        origin=origin,
    )
