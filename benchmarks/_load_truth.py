"""What clients say beside what the server wrote down of the very same requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._load_clients import LATENCIES, POINTS, percentiles

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks._load_clients import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the server wrote down of a client's requests.

    Attributes
    ----------
    came_s : ndarray of float64, shape (m,)
        When all that were to be sent had been read, in order; some the client may not tell of.
    place : ndarray of int64, shape (n,)
        Of each request that the client tells of, in its order: the how manieth it came, from 0.
    ttft_s, tpot_s, e2e_s : ndarray of float64, shape (n,)
        Of these, from when they had been read to the writing of the first tokens and of the last.
    """

    came_s: NDArray[np.float64]
    place: NDArray[np.int64]
    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    e2e_s: NDArray[np.float64]


class Log:
    """A fake engine's log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def skip(self) -> None:
        """Pass over what was written so far."""
        self._read = self._path.stat().st_size

    def rows(self) -> list[dict[str, float]]:
        """Return what has been written since, of requests that are complete."""
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            lines = stream.read().splitlines()
        found = [json.loads(line) for line in lines]
        return [row for row in found if row["complete"]]


def served(rows: Iterable[dict[str, float]], seen: Seen, requests: int) -> Served:
    """Return the rows of a client's `requests`; what it sent before, to warm up, is left out.

    A request is known by its lengths. Of several that are alike the last are taken, in the order
    in which they came.

    Raises
    ------
    ValueError
        The server knows nothing of one of them.
    """
    by_lengths: dict[tuple[int, int], list[dict[str, float]]] = {}
    rows = sorted(rows, key=lambda row: row["came_s"])
    for row in rows:
        key = int(row["prompt_tokens"]), int(row["output_tokens"])
        by_lengths.setdefault(key, []).append(row)
    keys = list(zip(seen.prompt_tokens.tolist(), seen.output_tokens.tolist(), strict=True))
    for key in set(keys):
        if len(by_lengths.get(key, ())) < keys.count(key):
            raise ValueError(f"the server has no request of {key[0]} and {key[1]} tokens")
        del by_lengths[key][: -keys.count(key)]
    chosen = [by_lengths[key].pop(0) for key in keys]
    came, first, last = (
        np.array([row[name] for row in chosen]) for name in ("came_s", "first_s", "last_s")
    )
    tokens = seen.output_tokens
    all_came = np.array([row["came_s"] for row in rows[-requests:]])
    return Served(
        came_s=all_came,
        place=np.searchsorted(all_came, came),
        ttft_s=first - came,
        tpot_s=np.where(tokens > 1, (last - first) / np.maximum(tokens - 1, 1), np.nan),
        e2e_s=last - came,
    )


def beside(seen: Seen, truth: Served) -> dict[str, float]:
    """Return the server's percentiles, and how much more the client saw of single requests.

    The latter end with ``_more_p50_ms`` and ``_more_p99_ms``; both are in milliseconds.
    """
    figures = percentiles({name: getattr(truth, f"{name}_s") for name in LATENCIES})
    for name in LATENCIES:
        more = getattr(seen, f"{name}_s") - getattr(truth, f"{name}_s")
        figures |= {f"{name}_more_p{p}_ms": float(1e3 * np.nanpercentile(more, p)) for p in POINTS}
    return figures


def lateness(truth: Served, due_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how many seconds requests came later than the first of them would have it.

    The n-th that came is taken for the n-th of the trace; who is never late has 0 for all.

    Parameters
    ----------
    truth : Served
    due_s : ndarray of float64, shape (n,)
        Times of the trace, in order.
    """
    late = truth.came_s - due_s
    found: NDArray[np.float64] = late - late.min()
    return found
