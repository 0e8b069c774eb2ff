"""What vLLM's messages say of a request."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np

from brsolver.cluster.view import NO_LIMIT
from integration.routing.prefixes import block_hashes
from integration.vllm.requests import Request


def read(message: Any, *, keyed: bool, block_tokens: int = 0) -> Request:
    """Take from an `EngineCoreRequest` what the books need.

    Parameters
    ----------
    message : EngineCoreRequest
        With sampling parameters.
    keyed : bool
        Whether somebody asks for the prompt's hash.
    block_tokens : int
        Tokens of the blocks that hashes are asked of; 0 for none.
    """
    tokens, limits = message.prompt_token_ids, message.sampling_params
    request = Request(
        message.request_id,
        _length(tokens, message.prompt_embeds),
        NO_LIMIT if limits.max_tokens is None else limits.max_tokens,
        message.arrival_time,
    )
    request.has_stop_texts = bool(limits.stop)
    if message.lora_request is not None:
        request.model = str(message.lora_request.lora_name)
    # Requests of no conversation share none with each other.
    request.session = str(getattr(message, "session_id", None) or message.request_id)
    if keyed:
        request.prompt_hash = prompt_hash(tokens, message.request_id)
    if block_tokens and tokens is not None and not getattr(message, "mm_features", None):
        salt = f"{request.model} {getattr(message, 'cache_salt', None) or ''}"
        request.blocks = block_hashes(tokens, block_tokens, salt=salt)
    return request


def _length(tokens: list[int] | None, embedded: Any) -> int:
    return len(embedded) if tokens is None and embedded is not None else len(tokens or ())


def prompt_hash(tokens: list[int] | None, name: str) -> int:
    """Return a number that is the same for equal prompts, in every process.

    Prompts given as embeddings are told apart by their request's name: they equal nobody's.
    """
    told = name.encode() if tokens is None else np.array(tokens, np.int64).tobytes()
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "little", signed=True)
