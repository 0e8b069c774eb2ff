"""The ``least_tokens`` rule of ATOM's data-parallel dispatcher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from baselines._kernels import place_lowest, weights_of
from brsolver.errors import ParameterError
from brsolver.policy import BasePolicy

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomLeastTokensParams:
    """Parameters of `AtomLeastTokens`.

    Attributes
    ----------
    request_tokens : int
        Prompt tokens that one outstanding request weighs as much as (ATOM's
        ``ATOM_DP_LB_REQ_EQUIV``), 0 to 2^31.
    """

    request_tokens: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.request_tokens <= 2**31:
            raise ParameterError(f"request_tokens is {self.request_tokens}, must be from 0 to 2^31")


class AtomLeastTokens(BasePolicy):
    """Least ``prompt tokens + 512 × requests`` outstanding first.

    Outstanding requests are those running or queued; only their prompts count, not what they
    have generated. Ties go to the first worker from a cursor that moves on by one with every
    request placed, as in ATOM's `CoreManager._select_dp_rank_locked`.

    Parameters
    ----------
    params : AtomLeastTokensParams, optional
        The weight of a request.
    """

    source = "AMD ATOM, atom/model_engine/engine_core_mgr.py, least_tokens"
    Params = AtomLeastTokensParams

    def __init__(self, params: AtomLeastTokensParams | None = None) -> None:
        weight = (params or AtomLeastTokensParams()).request_tokens
        self._weights = weights_of(prompt_tokens=1, running=weight, queued=weight)
        self._cursor = 0

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place waiting requests, first come first served."""
        pairs = place_lowest(
            cluster.table, waiting.prompt_tokens, self._weights, 1, self._cursor, 1, 0
        )
        self._cursor = (self._cursor + len(pairs)) % cluster.workers
        return pairs
