"""The latest requests that have ended: their times, and which of them were slow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENDED = np.dtype(
    [
        ("at_s", np.float64),
        ("total_s", np.float64),
        ("held_s", np.float64),
        ("ttft_s", np.float64),
        ("tpot_s", np.float64),
        ("prompt_tokens", np.int64),
        ("output_tokens", np.int64),
        ("worker", np.int64),
    ]
)
"""When it ended, how long it took, how long of that in the pool and to its first token; or NaN."""


@dataclass(slots=True, kw_only=True)
class Live:
    """A request that has come and not ended.

    Attributes
    ----------
    at_s : float
        When it came, on the core's clock.
    prompt_tokens : int
    worker : int
        Where it is; -1 while it is held.
    held_s : float
        How long it was held; NaN while it is.
    """

    at_s: float
    prompt_tokens: int
    worker: int = -1
    held_s: float = float("nan")


class EndedRequests:
    """A ring of requests that have ended.

    Parameters
    ----------
    size : int
        How many are kept.
    """

    def __init__(self, size: int) -> None:
        self._rows: NDArray[Any] = np.zeros(size, ENDED)
        self._names = [""] * size
        self._ends = [""] * size
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, len(self._rows))

    def add(self, name: str, end: str, row: tuple[float, ...]) -> None:
        """Keep one, with its fields in the order of `ENDED`."""
        at = self._count % len(self._rows)
        self._rows[at] = row
        self._names[at], self._ends[at] = name, end
        self._count += 1

    def since(self, at_s: float) -> NDArray[Any]:
        """Return those that ended at `at_s` or later, an array of `ENDED`."""
        kept = self._rows[: len(self)]
        return kept[kept["at_s"] >= at_s]

    def percentiles(self, at_s: float, column: str) -> tuple[float, float] | None:
        """Return median and 95th percentile of those since `at_s`; None without any."""
        values = self.since(at_s)[column]
        values = values[~np.isnan(values)]
        if not values.size:
            return None
        median, high = np.percentile(values, (50, 95))
        return float(median), float(high)

    def slowest(self, at_s: float, count: int) -> list[dict[str, Any]]:
        """Return those since `at_s` that waited longest for their first token, longest first.

        One that never had a first token counts by how long it took to end.
        """
        kept = self._rows[: len(self)]
        waited = np.where(np.isnan(kept["ttft_s"]), kept["total_s"], kept["ttft_s"])
        waited = np.where(kept["at_s"] >= at_s, waited, -1.0)
        chosen = np.argsort(-waited, kind="stable")[:count]
        return [self._told(int(at)) for at in chosen if waited[at] >= 0]

    def _told(self, at: int) -> dict[str, Any]:
        row = self._rows[at]
        told: dict[str, Any] = {name: row[name].item() for name in ENDED.names or ()}
        return {"name": self._names[at], "end": self._ends[at], **told}
