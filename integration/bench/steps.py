"""Step logs: what each rank held at each step of the lockstep.

A folder holds ``rank-R.csv`` for each rank R, with the columns ``wave, step, end_s, kv_tokens,
running, waiting, scheduled``; wave and step are vLLM's lockstep counters, equal on all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]
    FloatArray = NDArray[np.float64]

STEPS = "BRSOLVER_RIG_STEPS"
"""Environment variable of a server that names the folder of its step logs."""

COLUMNS = ("wave", "step", "end_s", "kv_tokens", "running", "waiting", "scheduled")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Steps:
    """Steps in order of time, of all ranks side by side.

    Attributes
    ----------
    end_s : ndarray of float64, shape (K,)
        When the last rank ended the step, on the monotonic clock.
    duration_s : ndarray of float64, shape (K,)
        From the end of the step before; NaN for the first step of a wave.
    kv_tokens, running, waiting, scheduled : ndarray of int64, shape (K, G)
        KV tokens as of the step, running and queued requests, and tokens computed.
    """

    end_s: FloatArray
    duration_s: FloatArray
    kv_tokens: IntArray
    running: IntArray
    waiting: IntArray
    scheduled: IntArray

    def __len__(self) -> int:
        return int(self.end_s.size)

    def between(self, first_s: float, end_s: float) -> Steps:
        """Return the steps that ended within an interval of the monotonic clock."""
        return self.where((self.end_s >= first_s) & (self.end_s <= end_s))

    def where(self, kept: NDArray[np.bool_]) -> Steps:
        """Return the steps of a mask, shape (K,)."""
        return Steps(**{each.name: getattr(self, each.name)[kept] for each in fields(self)})

    def imbalance(self) -> float:
        """Return ``Σ_k max_g L_g(k) / Σ_k mean_g L_g(k)``; NaN without any load."""
        mean = float(self.kv_tokens.mean(axis=1).sum()) if len(self) else 0.0
        return float(self.kv_tokens.max(axis=1).sum()) / mean if mean > 0 else float("nan")


def read_steps(folder: Path) -> Steps:
    """Read the step logs in `folder`.

    Raises
    ------
    TraceError
        If there are none, one has other columns, or no step is on all ranks.
    """
    paths = sorted(folder.glob("rank-*.csv"), key=lambda path: int(path.stem.split("-")[1]))
    if not paths:
        raise TraceError(f"{folder}: no step logs rank-*.csv")
    tables = [_read(path) for path in paths]
    common = set.intersection(*({*map(tuple, table[:, :2])} for table in tables))
    if not common:
        raise TraceError(f"{folder}: no step is in the logs of all {len(paths)} ranks")
    return _side_by_side([_only(table, common) for table in tables])


def joined(parts: Sequence[Steps]) -> Steps:
    """Return the steps of several logs, of as many ranks each, one after the other."""
    return Steps(
        **{
            each.name: np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(Steps)
        }
    )


def _read(path: Path) -> FloatArray:
    with path.open(encoding="utf-8") as lines:
        header = lines.readline().strip()
        if header != ",".join(COLUMNS):
            raise TraceError(f"{path}: columns are {header!r}, must be {','.join(COLUMNS)!r}")
        # A rank that was ended while it wrote leaves half a line.
        rows = [line.rstrip("\n").split(",") for line in lines if line.endswith("\n")]
    return np.array([row for row in rows if len(row) == len(COLUMNS)], np.float64).reshape(
        -1, len(COLUMNS)
    )


def _only(table: FloatArray, common: set[tuple[float, float]]) -> FloatArray:
    kept = table[[tuple(row) in common for row in table[:, :2]]]
    return kept[np.lexsort((kept[:, 1], kept[:, 0]))]


def _side_by_side(tables: list[FloatArray]) -> Steps:
    wave = tables[0][:, 0]
    end = np.max([table[:, 2] for table in tables], axis=0)
    duration = np.diff(end, prepend=np.nan)
    duration[np.diff(wave, prepend=np.nan) != 0] = np.nan
    counts = [
        np.stack([table[:, column] for table in tables], axis=1).astype(np.int64)
        for column in range(3, len(COLUMNS))
    ]
    return Steps(
        end_s=end,
        duration_s=duration,
        kv_tokens=counts[0],
        running=counts[1],
        waiting=counts[2],
        scheduled=counts[3],
    )
