"""Which cell gets an arrival: the least loaded of some that are drawn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster.view import CAPACITY, LOAD, QUEUED, ROOM, RUNNING, SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.cluster.view import ClusterView, IntArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NOWHERE = -1
"""In place of a cell: none yet."""
_NEVER = 2.0
"""Beyond any draw."""


class Standing(NamedTuple):
    """How full the cells are, an entry per cell; all 0 in a cell that is dead.

    Attributes
    ----------
    load : ndarray of float64, shape (C,)
        What runs and queues at the cell's workers, in units of `ClusterView.load`.
    requests : ndarray of float64, shape (C,)
        How many that are.
    workers, slots : ndarray of float64, shape (C,)
        Live workers, and what they can run at once.
    largest : ndarray of int64, shape (C,)
        KV tokens that the cell's largest live worker can hold; -1 in a cell that is dead.
    mean : float
        What a waiting request brings to the load in the mean.
    """

    load: FloatArray
    requests: FloatArray
    workers: FloatArray
    slots: FloatArray
    largest: IntArray
    mean: float = 0.0

    def with_pools(self, cell: IntArray, brings: IntArray) -> Standing:
        """Count what waits: the cell of each request, and what it brings to the load."""
        count = self.workers.size
        return self._replace(
            load=self.load + np.bincount(cell, weights=brings, minlength=count),
            requests=self.requests + np.bincount(cell, minlength=count),
        )


def standing(cluster: ClusterView, starts: IntArray) -> Standing:
    """Look at the cells that begin at the workers `starts`."""
    table = cluster.table
    # Who came back since the last report has room; who has left has none, where rooms tell.
    room, slots = table[ROOM], np.maximum(table[SLOTS], 1)
    live = (room if cluster.immediate else np.maximum(table[SLOTS], room)) > 0

    def sums(figures: IntArray) -> FloatArray:
        found: FloatArray = np.add.reduceat(np.where(live, figures, 0), starts).astype(np.float64)
        return found

    return Standing(
        load=sums(table[LOAD]),
        requests=sums(table[RUNNING] + table[QUEUED]),
        workers=sums(np.ones_like(slots)),
        slots=sums(slots),
        largest=np.maximum.reduceat(np.where(live, table[CAPACITY], -1), starts),
    )


def able(cells: Standing, tokens: IntArray) -> BoolArray:
    """Tell which cells could run requests of so many tokens, shape (n, C).

    A request that none could may go to all that live, where it is refused.
    """
    fits: BoolArray = tokens[:, np.newaxis] <= cells.largest
    nobody = ~fits.any(axis=1)
    fits[nobody] = cells.largest >= 0
    return fits


def draw(fits: BoolArray, d: int, rng: np.random.Generator) -> list[list[int]]:
    """Draw up to `d` different cells for each request, of those that fit; at least one.

    Where no more than `d` fit, all of them, in their order, and nothing is drawn.
    """
    count = fits.shape[1]
    if count <= d:
        return [np.flatnonzero(row).tolist() for row in fits]
    draws = rng.random(fits.shape)
    draws[~fits] = _NEVER
    order = np.argsort(draws, axis=1, kind="stable")[:, :d].tolist()
    enough = fits.sum(axis=1).tolist()
    return [cells[:many] for cells, many in zip(order, enough, strict=True)]


def choose(drawn: list[list[int]], cells: Standing, brings: IntArray, by: str) -> IntArray:
    """Give every request, one after the other, to the best of its cells.

    Parameters
    ----------
    drawn : list of list of int
        Cells for each request; the first of equals gets it.
    cells : Standing
        With what waits in their pools.
    brings : ndarray of int64, shape (n,)
        What each request adds to `Standing.load`.
    by : {"both", "load", "requests"}
        As of `CellsParams`.

    Returns
    -------
    ndarray of int64, shape (n,)
        A cell for each.
    """
    load, requests = cells.load.tolist(), cells.requests.tolist()
    rank = ranking(cells, load, requests, by)
    chosen = []
    for some, tokens in zip(drawn, brings.tolist(), strict=True):
        best = min(some, key=partial(rank, tokens))
        load[best] += tokens
        requests[best] += 1
        chosen.append(best)
    return np.array(chosen, np.int64)


def ranking(
    cells: Standing, load: list[float], requests: list[float], by: str
) -> Callable[[float, int], float]:
    """Return what says of a cell how little it suits a request of such a load.

    By both, where more requests are there than slots: of ``Σ_c [(s̄·n_c)² + L_c²]``, with n
    requests and L load per worker as deviations from the mean cell, how much the request adds,
    half of it, with its load counted from the mean load s̄ of a request that arrives. So counts
    stay level, and of two cells with equally many requests the lighter one gets the long ones.
    """
    workers, slots = cells.workers.tolist(), cells.slots.tolist()
    if by == "requests":
        return lambda _, c: requests[c] / slots[c]
    if by == "load" or sum(requests) <= sum(slots):
        return lambda _, c: load[c] / workers[c]
    mean = cells.mean
    each = mean * mean * sum(slots) / sum(workers)
    return lambda s, c: each * requests[c] / slots[c] + (s - mean) * load[c] / workers[c]
