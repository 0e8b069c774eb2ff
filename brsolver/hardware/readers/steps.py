"""Step logs of ours: what each rank held and computed at each step, ranks side by side.

A folder holds ``rank-R.csv`` for each rank R, with a row per step. Columns are read by name:
``step`` and, where steps are counted anew, ``wave``, which are equal on the ranks of a lockstep;
``end_s``, when the rank ended the step; ``kv_tokens``, ``running``, ``scheduled`` and, where there
is one, ``waiting``: the KV tokens and requests it held, the tokens it computed, and the requests
that wait; and, in logs that have them, ``decoding`` and ``decode_kv``, the sequences that decoded
and the KV tokens that these read, ``prefill_tokens``, those of the tokens that were prefill, and
``prefill_context``, the sum over these of the tokens before each.

Logs are appended to, so a folder that was used again holds several runs of a server. Where a rank's
clock goes back, or wave and step do not go on, another run begins: ranks are put side by side by
run, wave and step, and no step lasts from one run to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.hardware.readers.columns import csv_columns, numbers, require_columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]
    FloatArray = NDArray[np.float64]

NEEDED = ("step", "end_s", "kv_tokens", "running", "scheduled")
DETAILS = ("decoding", "decode_kv", "prefill_tokens", "prefill_context")
"""Columns that later logs have: all of them, or none."""
COUNTS = (*NEEDED[2:], "waiting", *DETAILS)
"""Of a rank in a step."""
UNKNOWN = -1

_Table = dict[str, "FloatArray"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Steps:
    """Steps in the order in which they were written, of all ranks side by side.

    Attributes
    ----------
    run : ndarray of int64, shape (K,)
        Which run of a server, from 0, within its log.
    end_s : ndarray of float64, shape (K,)
        When the last rank ended the step, on the monotonic clock.
    duration_s : ndarray of float64, shape (K,)
        From the end of the step before; NaN for the first step of a wave, and of a run, and after
        a step that is missing.
    kv_tokens, running, waiting, scheduled : ndarray of int64, shape (K, G)
        KV tokens as of the step, running and queued requests, and tokens computed; waiting is -1
        where a log does not tell.
    decoding, decode_kv, prefill_tokens, prefill_context : ndarray of int64, shape (K, G)
        Sequences that decode, KV tokens that they read, prompt tokens computed, and the sum over
        these of the tokens before each in its prompt. -1 where an old log does not tell them, in
        steps with prefill.
    """

    run: IntArray
    end_s: FloatArray
    duration_s: FloatArray
    kv_tokens: IntArray
    running: IntArray
    waiting: IntArray
    scheduled: IntArray
    decoding: IntArray
    decode_kv: IntArray
    prefill_tokens: IntArray
    prefill_context: IntArray

    def __len__(self) -> int:
        return int(self.end_s.size)

    @property
    def runs(self) -> int:
        """Runs of a server that there are steps of."""
        return int(np.unique(self.run).size)

    def between(self, first_s: float, end_s: float) -> Steps:
        """Return the steps that ended within an interval of the monotonic clock."""
        return self.where((self.end_s >= first_s) & (self.end_s <= end_s))

    def latest(self) -> Steps:
        """Return the steps of the last run: a server that runs now is the last to write."""
        return self.where(self.run == self.run.max(initial=0))

    def where(self, kept: NDArray[np.bool_]) -> Steps:
        """Return the steps of a mask, shape (K,)."""
        return Steps(**{each.name: getattr(self, each.name)[kept] for each in fields(self)})

    def imbalance(self) -> float:
        """Return ``Σ_k max_g L_g(k) / Σ_k mean_g L_g(k)``; NaN without any load."""
        mean = float(self.kv_tokens.mean(axis=1).sum()) if len(self) else 0.0
        return float(self.kv_tokens.max(axis=1).sum()) / mean if mean > 0 else float("nan")


def read_steps(path: Path) -> Steps:
    """Read the steps of a lockstep from a folder of logs, or from the log of one rank.

    Raises
    ------
    ParameterError
        There are none, one cannot be read, has other columns or a bad row, the ranks have no step
        in common, or not as many runs.
    """
    found = read_ranks(path)
    if len(found) > 1 or not len(found[0]):
        raise ParameterError(
            f"{path}: no step is in the logs of all {len(found)} ranks, must be logs of one server"
        )
    return found[0]


def read_ranks(path: Path) -> list[Steps]:
    """Read a folder of logs, or one: all ranks side by side if they step together.

    Ranks that have no step in common wait for no other: each is returned by itself.

    Raises
    ------
    ParameterError
        As `read_steps`, but for ranks without a step in common.
    """
    paths = sorted(path.glob("rank-*.csv"), key=_rank) if path.is_dir() else [path]
    if not paths:
        raise ParameterError(f"{path}: holds no rank-R.csv, must be a folder of step logs")
    tables = [_read(each) for each in paths]
    if len({_tells(table) for table in tables}) > 1:
        raise ParameterError(
            f"{path}: some logs have a column decoding and some not, must be alike"
        )
    if _common(tables, "wave", "step"):
        _require_as_many_runs(path, paths, tables)
    if common := _common(tables, "run", "wave", "step"):
        return [_side_by_side([_only(table, common) for table in tables])]
    return [_side_by_side([table]) for table in tables]


def joined(parts: Sequence[Steps]) -> Steps:
    """Return the steps of several logs, of as many ranks each, one after the other."""
    return Steps(
        **{
            each.name: np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(Steps)
        }
    )


def _rank(path: Path) -> tuple[int, str]:
    number = path.stem.removeprefix("rank-")
    return (int(number) if number.isdecimal() else 1 << 62), path.name


def _read(path: Path) -> _Table:
    texts, rows = csv_columns(path, whole_lines=True)
    details = DETAILS if set(DETAILS) & set(texts) else ()
    require_columns(path, texts, (*NEEDED, *details))
    wanted = (*NEEDED, *details, *(name for name in ("wave", "waiting") if name in texts))
    table = {name: numbers(path, name, texts[name], rows) for name in wanted}
    for name in (*COUNTS, "wave", "step"):
        _require_whole(path, name, table.get(name, np.zeros(0)), rows)
    table.setdefault("wave", np.zeros(len(rows)))
    return table | {"run": _runs(table)}


def _require_whole(path: Path, name: str, column: FloatArray, rows: list[int]) -> None:
    if (parts := column % 1 > 0).any():
        at = int(np.argmax(parts))
        raise ParameterError(
            f"{path}: row {rows[at]}: {name} is {column[at]}, must be a whole number"
        )


def _runs(table: _Table) -> FloatArray:
    """Return which run of a server each row is of, shape (K,)."""
    end, wave, step = (np.diff(table[name]) for name in ("end_s", "wave", "step"))
    goes_on = (wave > 0) | ((wave == 0) & (step > 0))
    anew = ~goes_on | (end < 0)
    return np.cumsum(np.concatenate([[False], anew])[: table["step"].size], dtype=np.float64)


def _tells(table: _Table) -> bool:
    return DETAILS[0] in table


def _keys(table: _Table, *names: str) -> list[tuple[float, ...]]:
    return list(zip(*(table[name].tolist() for name in names), strict=True))


def _common(tables: list[_Table], *names: str) -> set[tuple[float, ...]]:
    return set.intersection(*(set(_keys(table, *names)) for table in tables))


def _require_as_many_runs(path: Path, paths: list[Path], tables: list[_Table]) -> None:
    runs = [int(table["run"].max(initial=-1)) + 1 for table in tables]
    for other, count in zip(paths, runs, strict=True):
        if count != runs[0]:
            raise ParameterError(
                f"{path}: runs of a server in {other.name} are {count}, must be {runs[0]} as in "
                f"{paths[0].name}; let every server log to a folder of its own"
            )


def _only(table: _Table, common: set[tuple[float, ...]]) -> _Table:
    kept = np.array([key in common for key in _keys(table, "run", "wave", "step")], dtype=bool)
    return {name: column[kept] for name, column in table.items()}


def _side_by_side(tables: list[_Table]) -> Steps:
    first = tables[0]
    end = np.max([table["end_s"] for table in tables], axis=0)
    counted = [_with_details(table) for table in tables]
    return Steps(
        run=first["run"].astype(np.int64),
        end_s=end,
        duration_s=_durations(first, end),
        **{
            name: np.stack([table[name] for table in counted], axis=1).astype(np.int64)
            for name in COUNTS
        },
    )


def _durations(table: _Table, end: FloatArray) -> FloatArray:
    run, wave, step = (np.diff(table[name], prepend=np.nan) for name in ("run", "wave", "step"))
    follows = (run == 0) & (wave == 0) & (step == 1)
    seconds: FloatArray = np.where(follows, np.diff(end, prepend=np.nan), np.nan)
    return seconds


def _with_details(table: _Table) -> _Table:
    """Add what an old log tells of steps without prefill: all that is computed decodes."""
    table = {"waiting": np.full(table["step"].size, float(UNKNOWN)), **table}
    if _tells(table):
        return table
    # More tokens than requests: there is prefill among them.
    told, nothing = table["scheduled"] <= table["running"], np.zeros(table["step"].size)
    values = (table["scheduled"], table["kv_tokens"], nothing, nothing)
    added = {
        name: np.where(told, value, UNKNOWN) for name, value in zip(DETAILS, values, strict=True)
    }
    return table | added
