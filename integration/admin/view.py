"""What the live page is told: all that is kept, then what has changed since."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from integration.admin.buckets import COUNTS, SPENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from integration.admin.shadow import ShadowFigures
    from integration.admin.window import Window

SLOW = 8
FAULTS = 8
RECENT_S = 60.0
"""Percentiles are of requests that ended in the last minute."""


class View:
    """Puts what a window keeps into plain dictionaries.

    Parameters
    ----------
    window : Window
    shadows : callable
        Returns what shadow routers have found.
    about : dict
        What does not change while serving: policy, back ends, version.
    """

    def __init__(
        self,
        window: Window,
        shadows: Callable[[], Sequence[ShadowFigures]],
        about: dict[str, object],
    ) -> None:
        self._window, self._shadows, self._about = window, shadows, about

    @property
    def told(self) -> int:
        """Number of the latest bucket that is over."""
        return self._window.buckets.newest - 1

    def snapshot(self) -> dict[str, Any]:
        """Return all that is kept, for a page that has just been opened."""
        window = self._window
        window.settle()
        return {
            "about": self._about,
            "bucket_s": window.params.bucket_s,
            "buckets": window.params.buckets,
            "spent": SPENT,
            "counts": COUNTS,
            "history": self.history(-1),
            **self.now(),
        }

    def tick(self, after: int) -> dict[str, Any]:
        """Return what has changed since bucket `after` was told."""
        self._window.settle()
        return {"history": self.history(after), **self.now()}

    def history(self, after: int) -> dict[str, Any]:
        """Return buckets that are over and later than `after`, by column."""
        buckets = self._window.buckets
        numbers = buckets.numbers(after)
        return {
            "first": numbers.start,
            "spent": np.round(buckets.spent(numbers) * 1e3, 1).tolist(),
            "counts": buckets.counts(numbers).tolist(),
            "held": buckets.held(numbers).tolist(),
            "kv_tokens": buckets.kv_tokens(numbers).tolist(),
        }

    def now(self) -> dict[str, Any]:
        """Return what stands where, and the lists below the pictures."""
        window, clock = self._window, self._window.clock()
        return {
            "workers": self._workers(),
            "pool": {"held": window.held, "oldest_s": window.oldest_held_s()},
            "live": len(window.live),
            "ttft_s": window.ended.percentiles(clock - RECENT_S, "ttft_s"),
            "tpot_s": window.ended.percentiles(clock - RECENT_S, "tpot_s"),
            "slow": self._slow(clock),
            "faults": self._faults(clock),
            "shadows": [asdict(each) for each in self._shadows()],
        }

    def _workers(self) -> list[dict[str, Any]]:
        window = self._window
        return [
            {
                "name": worker.name,
                "state": worker.state,
                "why": worker.why,
                "reserved": worker.reserved,
                "running": int(running),
                "backlog": int(backlog),
                "kv_tokens": int(kv_tokens),
            }
            for worker, running, backlog, kv_tokens in zip(
                window.workers, window.running, window.backlog, window.kv_tokens, strict=False
            )
        ]

    def _faults(self, clock: float) -> list[dict[str, Any]]:
        latest = list(self._window.faults)[: -FAULTS - 1 : -1]
        return [
            {"kind": each.kind, "text": each.text, "times": each.times, "ago_s": clock - each.at_s}
            for each in latest
        ]

    def _slow(self, clock: float) -> list[dict[str, Any]]:
        window = self._window
        rows = window.ended.slowest(clock - window.params.length_s, SLOW)
        for row in rows:
            at = row.pop("worker")
            row["worker"] = window.worker(at).name if at >= 0 else None
            row["ago_s"] = clock - row.pop("at_s")
        return rows


def to_json(value: object) -> str:
    """Write what may hold dataclasses, enumerations, arrays and NaN as JSON; NaN becomes null."""
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False)


def plain(value: object) -> Any:
    """Return dataclasses as dictionaries, tuples and arrays as lists, and NaN as None."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return _nested(value)


def _nested(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Iterable):
        return [plain(each) for each in value]
    return str(value)
