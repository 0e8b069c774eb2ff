"""llm-d's optimized baseline: sticky to workers that have the prompt, until these are saturated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from baselines._kernels import IntArray, charge, fits
from baselines._prefixes import first_and_cached
from brsolver._jit import kernel
from brsolver.errors import ParameterError
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmDPrefixParams:
    """Parameters of `LlmDPrefix`, at llm-d's defaults.

    Attributes
    ----------
    affinity : float
        Share of the prompt that makes a worker sticky (``affinityThreshold``), 0 to 1.
    penalty_s : float
        Seconds that the best sticky worker's first token may come later than the best other's
        (``maxTTFTPenaltyMs``); 0 is any.
    throughput : float
        Prefill tokens per second that seconds are told by (``peakPrefillThroughput``, there of a
        32B model on two H100).
    """

    affinity: float = 0.8
    penalty_s: float = 18.0
    throughput: float = 15928.0

    def __post_init__(self) -> None:
        limits = (("affinity", 0, 1), ("penalty_s", 0, 1e6), ("throughput", 1, 1e9))
        for name, low, high in limits:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ParameterError(f"{name} is {value}, must be from {low} to {high:g}")


class LlmDPrefix(BasePolicy):
    """Fewest tokens in flight and uncached, among those that have the prompt, unless these lag.

    Sticky is who has at least `affinity` of the prompt cached. Where some are, and the least
    tokens in flight of one are not more than ``penalty_s·throughput`` above the least of the
    others, only they are looked at; else all with room. Of these the one with the fewest tokens in
    flight with the request's own uncached ones there gets it. Ties go to the first worker from a
    random one on. This is the filter ``prefix-cache-affinity-filter`` and the scorer
    ``token-load-scorer``.

    Tokens in flight are those of prompts that are not computed yet. llm-d counts the uncached ones
    of each until its first token, by its own books; here it is `ClusterView.backlog`, in which a
    prompt counts whole until it gets a slot and as far as it is uncomputed from then on, and the
    uncached tokens of those placed in this decision. llm-d's share is of the prompt's full blocks.

    Parameters
    ----------
    params : LlmDPrefixParams, optional
    rng : numpy.random.Generator, optional
        Breaks ties; by default one seeded with 0.
    """

    asks_cached = True
    source = "llm-d router, prefixcacheaffinity and tokenload (guide optimized-baseline)"
    Params = LlmDPrefixParams

    def __init__(
        self, params: LlmDPrefixParams | None = None, *, rng: np.random.Generator | None = None
    ) -> None:
        self.params: LlmDPrefixParams = params or LlmDPrefixParams()
        self._rng = np.random.default_rng(0) if rng is None else rng

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        p = self.params
        tokens, cached = first_and_cached(cluster, waiting)
        starts = self._rng.integers(0, cluster.workers, tokens.size)
        gap = p.penalty_s * p.throughput if p.penalty_s else np.inf
        flying = cluster.backlog.copy()
        return _place(cluster.table, tokens, cached, flying, starts, float(p.affinity), gap)


@kernel
def _keeps_sticky(
    able: IntArray, sticky: IntArray, flying: IntArray, affinity: float, gap: float
) -> bool:
    """Tell whether only sticky workers are looked at."""
    best, other = np.inf, np.inf
    for g in range(able.shape[0]):
        if able[g] and sticky[g]:
            best = min(best, flying[g])
        elif able[g]:
            other = min(other, flying[g])
    if affinity == 0 or np.isinf(best):
        return False
    return np.isinf(other) or best - other <= gap


@kernel
def _place(
    table: IntArray,
    tokens: IntArray,
    cached: IntArray,
    flying: IntArray,
    starts: IntArray,
    affinity: float,
    gap: float,
) -> IntArray:
    table = table.copy()
    workers = table.shape[1]
    able, sticky = np.zeros(workers, np.int64), np.zeros(workers, np.int64)
    pairs = np.empty((tokens.shape[0], 2), np.int64)
    for i in range(pairs.shape[0]):
        for g in range(workers):
            able[g] = fits(table, g, tokens[i])
            sticky[g] = cached[i, g] >= affinity * tokens[i]
        only = _keeps_sticky(able, sticky, flying, affinity, gap)
        best, least = -1, np.inf
        for offset in range(workers):
            g = (starts[i] + offset) % workers
            load = flying[g] + tokens[i] - cached[i, g]
            if able[g] and (sticky[g] or not only) and load < least:
                best, least = g, load
        if best < 0:
            return pairs[:i]
        charge(table, best, tokens[i], 1, 0)
        flying[best] += tokens[i] - cached[i, best]
        pairs[i, 0] = i
        pairs[i, 1] = best
    return pairs
