"""Admission by KV load, as TensorRT-LLM's attention-DP router has it for generation servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from baselines._kernels import IntArray, assignable, charge, fits
from brsolver._jit import kernel
from brsolver._limits import MAX_COUNT, require_whole
from brsolver.cluster.view import LOAD, QUEUED, RUNNING
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class TRTLLMKVAdmissionParams:
    """Parameters of `TRTLLMKVAdmission`.

    Attributes
    ----------
    window : int
        Waiting requests, first come first, among which it chooses.
    """

    window: int = 32

    def __post_init__(self) -> None:
        require_whole("window", self.window, 1, MAX_COUNT)


class TRTLLMKVAdmission(BasePolicy):
    """Whichever request and worker keep the most requests, then the most load, of a worker least.

    Of the first `window` waiting requests and all workers with room the pair is chosen after
    which the largest number of requests of a worker is least, among such the one after which the
    largest load is; then of those that come first the request, of the least number and load the
    worker, and the lowest index. So on, the window moving along, until nothing fits.

    The source's documentation says what is kept low, and among how many; how ties are decided, and
    that the window moves on within a decision, is made up here, since its code was not to be had.
    It has no bound on how long a request may be passed over.
    """

    __slots__ = ("params",)

    Params: ClassVar[type] = TRTLLMKVAdmissionParams
    source = (
        "TensorRT-LLM 1.4, attention_dp_config.enable_kv_balanced_admission (its documentation)"
    )

    def __init__(self, params: TRTLLMKVAdmissionParams | None = None) -> None:
        self.params: TRTLLMKVAdmissionParams = params or TRTLLMKVAdmissionParams()

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Choose who is admitted, and where; see `brsolver.Policy`."""
        tokens, each = waiting.prompt_tokens, cluster.request_tokens
        return _admit(cluster.table, tokens, each, self.params.window)


@kernel
def _most(table: IntArray) -> tuple[int, int]:
    """Return the most requests and the most load of a worker."""
    requests, load = 0, 0
    for g in range(table.shape[1]):
        requests = max(requests, table[RUNNING, g] + table[QUEUED, g])
        load = max(load, table[LOAD, g])
    return requests, load


@kernel
def _best_worker(table: IntArray, tokens: int, weight: int) -> tuple[int, int, int]:
    """Return where a request keeps the maxima least, and these; worker -1 if it fits nowhere."""
    best, least, lowest = -1, 0, 0
    requests, load = _most(table)
    for g in range(table.shape[1]):
        if not fits(table, g, tokens):
            continue
        here = table[RUNNING, g] + table[QUEUED, g]
        most, heaviest = max(requests, here + 1), max(load, table[LOAD, g] + weight)
        better = most < least or (most == least and heaviest < lowest)
        if best >= 0 and most == least and heaviest == lowest:
            there = table[RUNNING, best] + table[QUEUED, best]
            better = here < there or (here == there and table[LOAD, g] < table[LOAD, best])
        if best < 0 or better:
            best, least, lowest = g, most, heaviest
    return best, least, lowest


@kernel
def _admit(table: IntArray, tokens: IntArray, request_tokens: int, window: int) -> IntArray:
    table = table.copy()
    pairs = np.empty((assignable(table, tokens.shape[0]), 2), np.int64)
    admitted = np.zeros(tokens.shape[0], np.bool_)
    first = 0
    for k in range(pairs.shape[0]):
        while first < tokens.shape[0] and admitted[first]:
            first += 1
        chosen, where, least, lowest, seen, i = -1, -1, 0, 0, 0, first
        while i < tokens.shape[0] and seen < window:
            if not admitted[i]:
                seen += 1
                g, most, heaviest = _best_worker(table, tokens[i], tokens[i] + request_tokens)
                better = most < least or (most == least and heaviest < lowest)
                if g >= 0 and (chosen < 0 or better):
                    chosen, where, least, lowest = i, g, most, heaviest
            i += 1
        if chosen < 0:
            return pairs[:k]
        charge(table, where, tokens[chosen], 1, request_tokens)
        admitted[chosen] = True
        pairs[k, 0] = chosen
        pairs[k, 1] = where
    return pairs
