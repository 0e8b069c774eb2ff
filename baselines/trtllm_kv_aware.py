"""The KV-cache-aware rule of TensorRT-LLM's router over attention-data-parallel ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from baselines._kernels import IntArray, charge, fits
from baselines._prefixes import first_and_cached
from brsolver._jit import kernel
from brsolver.cluster.view import PROMPT_TOKENS, QUEUED, RUNNING, SLOTS
from brsolver.errors import ParameterError
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class TRTLLMParams:
    """Parameters of `TRTLLMKVAware`, at TensorRT-LLM's defaults.

    Attributes
    ----------
    beta : float
        Weight β of load (``kv_cache_routing_load_balance_weight``), 0 to 1000.
    threshold : float
        Share of the prompt below which hits do not count (``…_match_rate_threshold``), 0 to 1.
    fair : float
        Requests of a worker, in fair shares, from which on it gets no more
        (``…_fair_share_multiplier``), 1 to 1000.
    """

    beta: float = 1.0
    threshold: float = 0.1
    fair: float = 2.0

    def __post_init__(self) -> None:
        for name, low, high in (("beta", 0, 1000), ("threshold", 0, 1), ("fair", 1, 1000)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ParameterError(f"{name} is {value}, must be from {low} to {high}")


class TRTLLMKVAware(BasePolicy):
    """Least ``uncached + β·s·a_g/max(Σ a, s)`` first, s the request's tokens and a_g the active.

    Active tokens are the prompts of a worker's requests, running or queued, and the uncached
    tokens of those placed in this decision. Hits do not count where no worker has more than
    `threshold` of the prompt. A worker with `fair` times its equal share of all requests gets no
    more, unless nobody else has room. Ties go to fewer active tokens, then to the first worker
    from a random one on.

    TensorRT-LLM takes what was cached off the active tokens of requests that are already there,
    which routers are not told here, and sorts a batch by the first 64 tokens and by length; here
    requests keep their order.

    Parameters
    ----------
    params : TRTLLMParams, optional
    rng : numpy.random.Generator, optional
        Breaks ties; by default one seeded with 0.
    """

    asks_cached = True
    source = "TensorRT-LLM, pyexecutor/scheduler/adp_router.py, KVCacheAwareADPRouter"
    Params = TRTLLMParams

    def __init__(
        self, params: TRTLLMParams | None = None, *, rng: np.random.Generator | None = None
    ) -> None:
        self.params: TRTLLMParams = params or TRTLLMParams()
        self._rng = np.random.default_rng(0) if rng is None else rng

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        p = self.params
        tokens, cached = first_and_cached(cluster, waiting)
        starts = self._rng.integers(0, cluster.workers, tokens.size)
        weights = float(p.beta), float(p.threshold), float(p.fair)
        return _place(cluster.table, tokens, cached, starts, *weights)


@kernel
def _cap(table: IntArray, coming: int, fair: float) -> float:
    """Return how many requests a worker may have: `fair` shares, or the most that one has."""
    total, most, alive = coming, 0, 0
    for g in range(table.shape[1]):
        requests = table[RUNNING, g] + table[QUEUED, g]
        total += requests
        most = max(most, requests)
        alive += table[SLOTS, g] > 0
    return max(float(np.ceil(fair * np.ceil(total / max(alive, 1)))), float(most))


@kernel
def _eligible(table: IntArray, tokens: int, cap: float) -> IntArray:
    """Return the workers with room that have fewer requests than the cap, or all with room."""
    found = np.zeros(table.shape[1], np.int64)
    for g in range(found.shape[0]):
        below = table[RUNNING, g] + table[QUEUED, g] < cap
        found[g] = fits(table, g, tokens) and below
    if found.sum() == 0:
        for g in range(found.shape[0]):
            found[g] = fits(table, g, tokens)
    return found


@kernel
def _best(
    eligible: IntArray,
    active: IntArray,
    cached: IntArray,
    tokens: int,
    start: int,
    beta: float,
    threshold: float,
) -> int:
    total, most = 0, 0
    for g in range(eligible.shape[0]):
        total += eligible[g] * active[g]
        most = max(most, eligible[g] * cached[g])
    counts = most > threshold * tokens
    best, least = -1, np.inf
    for offset in range(eligible.shape[0]):
        g = (start + offset) % eligible.shape[0]
        if not eligible[g]:
            continue
        load = active[g] / max(total, tokens) * tokens
        score = tokens - (cached[g] if counts else 0) + beta * load
        if best < 0 or (score, active[g]) < (least, active[best]):
            best, least = g, score
    return best


@kernel
def _place(
    table: IntArray,
    tokens: IntArray,
    cached: IntArray,
    starts: IntArray,
    beta: float,
    threshold: float,
    fair: float,
) -> IntArray:
    table = table.copy()
    active = table[PROMPT_TOKENS].copy()
    cap = _cap(table, tokens.shape[0], fair)
    pairs = np.empty((tokens.shape[0], 2), np.int64)
    for i in range(pairs.shape[0]):
        eligible = _eligible(table, tokens[i], cap)
        g = _best(eligible, active, cached[i], tokens[i], starts[i], beta, threshold)
        if g < 0:
            return pairs[:i]
        charge(table, g, tokens[i], 1, 0)
        active[g] += tokens[i] - cached[i, g]
        pairs[i, 0] = i
        pairs[i, 1] = g
    return pairs
