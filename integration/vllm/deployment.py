"""What a vLLM client says of the deployment it talks to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
    """

    ranks: int
    slots: int
    capacity: int | None
    clients: int
    index: int
    moe: bool | None


def describe(client: Any) -> Deployment:
    """Read the facts off a client.

    Raises
    ------
    AttributeError, TypeError
        It does not say what routing needs.
    """
    config = client.vllm_config
    ranks = len(client.core_engines)
    return Deployment(
        ranks=ranks,
        slots=int(config.scheduler_config.max_num_seqs),
        capacity=_capacity(config.cache_config, ranks),
        clients=int(client.client_count),
        index=int(client.client_index),
        moe=_is_moe(config),
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


def _is_moe(config: Any) -> bool | None:
    known = getattr(config.model_config, "is_moe", None)
    return None if known is None else bool(known() if callable(known) else known)
