"""The ``cache_aware`` rule of SGLang's router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from baselines._kernels import IntArray, charge, fits
from baselines._prefixes import first_and_cached
from brsolver._jit import kernel
from brsolver.cluster.view import QUEUED, RUNNING, SLOTS
from brsolver.errors import ParameterError
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class SGLangCacheAwareParams:
    """Parameters of `SGLangCacheAware`, at the router's defaults.

    Attributes
    ----------
    threshold : float
        Share of the prompt that has to be cached (``cache-threshold``), 0 to 1.
    apart : int
        Requests that the most and the least loaded may lie apart (``balance-abs-threshold``).
    ratio : float
        And times that they may (``balance-rel-threshold``), from 1 on.
    """

    threshold: float = 0.3
    apart: int = 64
    ratio: float = 1.5

    def __post_init__(self) -> None:
        limits = (("threshold", 0, 1), ("apart", 0, 2**31), ("ratio", 1, 1e6))
        for name, low, high in limits:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ParameterError(f"{name} is {value}, must be from {low} to {high:g}")


class SGLangCacheAware(BasePolicy):
    """Where most of the prompt is cached, unless that is little or requests are out of balance.

    Load is requests, running and queued. Out of balance are loads more than `apart` apart of which
    the largest is more than `ratio` times the least. Then, and where at most `threshold` of the
    prompt is cached anywhere, the fewest requests decide; else the most cached tokens, then the
    fewest requests. Ties go to the lowest index.

    SGLang's router keeps a tree of the texts that it has sent to each worker; here hits are what
    the workers' caches have.

    Parameters
    ----------
    params : SGLangCacheAwareParams, optional
    """

    asks_cached = True
    source = "SGLang, sgl-model-gateway/src/policies/cache_aware.rs"
    Params = SGLangCacheAwareParams

    def __init__(self, params: SGLangCacheAwareParams | None = None) -> None:
        self.params: SGLangCacheAwareParams = params or SGLangCacheAwareParams()

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        p = self.params
        tokens, cached = first_and_cached(cluster, waiting)
        limits = float(p.threshold), int(p.apart), float(p.ratio)
        return _place(cluster.table, tokens, cached, *limits)


@kernel
def _unbalanced(table: IntArray, apart: int, ratio: float) -> bool:
    most, least = 0, np.iinfo(np.int64).max
    for g in range(table.shape[1]):
        if table[SLOTS, g] > 0:
            requests = table[RUNNING, g] + table[QUEUED, g]
            most, least = max(most, requests), min(least, requests)
    return most - least > apart and most > ratio * least


@kernel
def _best(table: IntArray, cached: IntArray, tokens: int, by_load: bool, threshold: float) -> int:
    fewest, most = -1, -1
    for g in range(table.shape[1]):
        if not fits(table, g, tokens):
            continue
        requests = table[RUNNING, g] + table[QUEUED, g]
        if fewest < 0 or requests < table[RUNNING, fewest] + table[QUEUED, fewest]:
            fewest = g
        if most < 0 or (cached[g], -requests) > (
            cached[most],
            -table[RUNNING, most] - table[QUEUED, most],
        ):
            most = g
    if by_load or most < 0 or cached[most] <= threshold * tokens:
        return fewest
    return most


@kernel
def _place(
    table: IntArray, tokens: IntArray, cached: IntArray, threshold: float, apart: int, ratio: float
) -> IntArray:
    table = table.copy()
    pairs = np.empty((tokens.shape[0], 2), np.int64)
    for i in range(pairs.shape[0]):
        by_load = _unbalanced(table, apart, ratio)
        g = _best(table, cached[i], tokens[i], by_load, threshold)
        if g < 0:
            return pairs[:i]
        charge(table, g, tokens[i], 1, 0)
        pairs[i, 0] = i
        pairs[i, 1] = g
    return pairs
