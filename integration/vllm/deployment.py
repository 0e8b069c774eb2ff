"""What a vLLM client says of the deployment it talks to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

CONSUMER = "kv_consumer"
NO_PREFILL = frozenset({"DecodeBenchConnector"})
"""KV connectors that fill the cache, whatever their role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """How ranks compute prompts.

    Attributes
    ----------
    computes : bool
        Whether they do: not where prompts come computed from elsewhere.
    budget : int
        Tokens of a step; 0 where it is not known how far steps get, and then a prompt is owed in
        full until its first token.
    chunk : int
        Most tokens of one prompt in a step; 0 for no other limit than the budget.
    lag : int
        Steps that end after a request was sent and were scheduled before it came.
    alone : bool
        Whether all that ranks compute is of this server's requests.
    """

    computes: bool = True
    budget: int = 0
    chunk: int = 0
    lag: int = 1
    alone: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The facts that routing needs.

    Attributes
    ----------
    ranks : int
        Data-parallel ranks that this client sends to.
    slots : int
        Sequences that a rank runs at once (``--max-num-seqs``).
    capacity : int or None
        KV tokens that a rank holds; None if vLLM does not say.
    clients, index : int
        API servers of the deployment, and which of them this is.
    moe : bool or None
        Whether the model has experts, so that ranks meet at a barrier; None if unknown.
    budget, chunk : int
        Tokens that a rank computes in a step at most, and prompt tokens of one request there; 0 if
        vLLM does not say, or sets no such limit.
    computes : bool
        Whether ranks compute prompts, as far as vLLM's configuration tells.
    interval : int
        Steps from one in which ranks begin prompts to the next (``--prefill-schedule-interval``).
    ahead : bool
        Whether a step is scheduled while the one before it runs (``--async-scheduling``).
    block_tokens : int
        Tokens of a block of the ranks' prefix caches; 0 where they have none.
    """

    ranks: int
    slots: int
    capacity: int | None
    clients: int
    index: int
    moe: bool | None
    budget: int = 0
    chunk: int = 0
    computes: bool = True
    interval: int = 1
    ahead: bool = False
    block_tokens: int = 0

    def scheduling(self, prefill: bool | Literal["auto"]) -> Scheduling:
        """Return how ranks compute prompts.

        Several servers, each of which knows its own requests only, cannot tell what a step of
        their ranks computes; nor can anybody who does not know in which steps prompts are begun.

        Parameters
        ----------
        prefill : bool or "auto"
            Whether they do, if the operator says.
        """
        alone = self.clients == 1
        return Scheduling(
            computes=self.computes if prefill == "auto" else prefill,
            budget=self.budget if alone and self.interval == 1 else 0,
            chunk=self.chunk,
            lag=1 + self.ahead,
            alone=alone,
        )


def describe(client: Any) -> Deployment:
    """Read the facts off a client.

    Raises
    ------
    AttributeError, TypeError
        It does not say what routing needs.
    """
    config = client.vllm_config
    scheduler = config.scheduler_config
    ranks = len(client.core_engines)
    return Deployment(
        ranks=ranks,
        slots=int(scheduler.max_num_seqs),
        capacity=_capacity(config.cache_config, ranks),
        clients=int(client.client_count),
        index=int(client.client_index),
        moe=_is_moe(config),
        budget=int(getattr(scheduler, "max_num_batched_tokens", 0) or 0),
        chunk=int(getattr(scheduler, "long_prefill_token_threshold", 0) or 0),
        computes=_computes(getattr(config, "kv_transfer_config", None)),
        interval=int(getattr(scheduler, "prefill_schedule_interval", 1) or 1),
        ahead=bool(getattr(scheduler, "async_scheduling", False)),
        block_tokens=_block_tokens(config.cache_config),
    )


def identities(client: Any) -> list[int]:
    """Return the global rank of each engine the client sends to, by index."""
    return [int.from_bytes(identity, "little") for identity in client.core_engines]


def _capacity(cache: Any, ranks: int) -> int | None:
    # Of one engine, in newer versions; blocks are summed over the client's engines.
    tokens = getattr(cache, "kv_cache_size_tokens", None)
    if tokens:
        return int(tokens)
    blocks, size = getattr(cache, "num_gpu_blocks", None), getattr(cache, "block_size", None)
    return int(blocks) // ranks * int(size) or None if blocks and size else None


def _block_tokens(cache: Any) -> int:
    if not getattr(cache, "enable_prefix_caching", False):
        return 0
    return int(getattr(cache, "block_size", 0) or 0)


def _computes(transfer: Any) -> bool:
    return (
        getattr(transfer, "kv_role", None) != CONSUMER
        and getattr(transfer, "kv_connector", None) not in NO_PREFILL
    )


def _is_moe(config: Any) -> bool | None:
    known = getattr(config.model_config, "is_moe", None)
    return None if known is None else bool(known() if callable(known) else known)
