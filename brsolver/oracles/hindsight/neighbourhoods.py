"""Which part of a run to re-optimise exactly: a window of time, a suffix, a pair of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from brsolver.oracles.hindsight.chains import Chains

IntArray = NDArray[np.int64]

KINDS = ("window", "suffix", "pair")

MOST_CHAINS = 200
"""Chains in one neighbourhood."""

SUFFIX_CHAINS = 60
"""Chains in the longest suffix."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Neighbourhood:
    """Chains to re-optimise together, and the workers among which they may move."""

    kind: str
    chains: IntArray
    among: IntArray


def draw(
    chains: Chains,
    worker_of_chain: IntArray,
    loads: IntArray,
    edges: IntArray,
    max_cells: int,
    rng: np.random.Generator,
) -> Neighbourhood:
    """Draw a neighbourhood that is small enough for the solver.

    Parameters
    ----------
    chains : Chains
    worker_of_chain : ndarray of int64, shape (m,)
        The assignment to improve.
    loads : ndarray of int64, shape (G, K)
        Its loads.
    edges : ndarray of int64
        Where the active set changes.
    max_cells : int
        Largest model, in (chain, interval) pairs times workers.
    rng : numpy.random.Generator
    """
    kind = KINDS[int(rng.integers(len(KINDS)))]
    among = np.arange(loads.shape[0])
    order = np.argsort(chains.start, kind="stable")
    first = int(rng.integers(0, order.size))
    if kind == "suffix":
        first = max(0, order.size - int(rng.integers(2, SUFFIX_CHAINS)))
    if kind == "pair":
        step = int(chains.start[order[first]])
        among = draw_pair(loads[:, step:], rng)
        order = order[np.isin(worker_of_chain[order], among)]
        first = int(np.searchsorted(chains.start[order], step))
    chosen = _within(chains, order[first : first + MOST_CHAINS], edges, max_cells // among.size)
    return Neighbourhood(kind=kind, chains=chosen, among=among)


def draw_pair(loads: IntArray, rng: np.random.Generator) -> IntArray:
    """Return the worker that leads at a random step and another: it has to give something away."""
    leader = int(loads[:, int(rng.integers(loads.shape[1]))].argmax())
    other = int(rng.integers(loads.shape[0] - 1))
    return np.sort(np.array([leader, other + (other >= leader)], np.int64))


def _within(chains: Chains, order: IntArray, edges: IntArray, max_cells: int) -> IntArray:
    """Return as many chains from the front as the model may have, two of them at least."""
    first, last = (np.searchsorted(edges, at[order]) for at in (chains.start, chains.end))
    cells = np.cumsum(last - first)
    count = max(2, int(np.searchsorted(cells, max_cells, side="right")))
    taken = order[:count]
    # Two chains alone can span so many intervals that no solver should see them.
    return taken if taken.size and cells[taken.size - 1] <= 10 * max_cells else taken[:0]
