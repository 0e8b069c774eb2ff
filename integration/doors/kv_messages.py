"""KV-cache events as vLLM and SGLang publish them: MessagePack, read into our own types.

A batch is an array of the time, the events, and the data-parallel rank. An event is a map with its
kind under ``type``, or, of older versions and of SGLang, an array that begins with its kind.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from brsolver.errors import BrsolverError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXTRA = "kv-events"
_STORED = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
    "locality",
)
_REMOVED = ("block_hashes", "medium", "group_idx", "locality")
_WHOLE_PREFIX = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})
"""Kinds of layers whose blocks are worth something with all before them, and with nothing else."""

BlockName = bytes | int
"""What an engine calls a block."""


class KvMessageError(BrsolverError, ValueError):
    """A message is none of these."""


class Stored(NamedTuple):
    """Blocks that an engine has computed.

    Attributes
    ----------
    names : tuple of (bytes or int)
    parent : bytes or int or None
        The block before the first of them; None if it begins a prompt.
    tokens : tuple of int
        Token ids of all of them.
    block_tokens : int
        Tokens of each.
    adapter : str
        LoRA adapter that they were computed with; empty if none was.
    plain : tuple of bool
        Of each, whether nothing but tokens and adapter tells it from others.
    group : int or None
        Group of layers that they are of, where there are several.
    """

    names: tuple[BlockName, ...]
    parent: BlockName | None
    tokens: tuple[int, ...]
    block_tokens: int
    adapter: str
    plain: tuple[bool, ...]
    group: int | None


class Removed(NamedTuple):
    """Blocks that an engine has let go; see `Stored`."""

    names: tuple[BlockName, ...]
    group: int | None


class Cleared(NamedTuple):
    """An engine has let all blocks go."""


class Batch(NamedTuple):
    """What an engine's step did to its cache.

    Attributes
    ----------
    at_s : float
        When, on the engine's clock.
    events : tuple of (Stored, Removed or Cleared)
        Without those of other memory than the accelerator's, and of layers that forget.
    """

    at_s: float
    events: tuple[Stored | Removed | Cleared, ...]


def unpacker() -> Any:
    """Return what unpacks MessagePack.

    Raises
    ------
    MissingExtraError
        msgpack is not installed.
    """
    try:
        return import_module("msgpack").unpackb
    except ImportError as error:
        raise MissingExtraError.for_extra("msgpack", EXTRA) from error


def read_batch(payload: bytes, unpack: Any) -> Batch:
    """Read a batch.

    Parameters
    ----------
    payload : bytes
    unpack : callable
        As of `unpacker`.

    Raises
    ------
    KvMessageError
        It is none.
    """
    try:
        at_s, events = unpack(payload, strict_map_key=False)[:2]
        found = (_event(each) for each in events)
        return Batch(float(at_s), tuple(each for each in found if each is not None))
    except Exception as error:  # noqa: BLE001 # whatever an engine sends
        # What it quotes are tokens of a prompt.
        raise KvMessageError(f"this is no batch of KV events: {type(error).__name__}") from None


def _event(event: Any) -> Stored | Removed | Cleared | None:
    if isinstance(event, dict):
        kind, fields = event["type"], event
    else:
        kind, *values = event
        fields = dict(zip(_REMOVED if kind == "BlockRemoved" else _STORED, values, strict=False))
    if kind == "AllBlocksCleared":
        return Cleared()
    if kind not in {"BlockStored", "BlockRemoved"} or not _is_here(fields):
        return None
    names = tuple(fields["block_hashes"])
    if kind == "BlockRemoved":
        return Removed(names, fields.get("group_idx"))
    return _stored(names, fields)


def _is_here(fields: Mapping[str, Any]) -> bool:
    here = fields.get("medium") in {None, "GPU"} and fields.get("locality") != "REMOTE"
    return here and fields.get("kv_cache_spec_kind") in _WHOLE_PREFIX


def _stored(names: tuple[BlockName, ...], fields: Mapping[str, Any]) -> Stored:
    adapter = fields.get("lora_name") or ""
    keys = fields.get("extra_keys") or [None] * len(names)
    unnamed = fields.get("lora_id") is not None and not adapter
    return Stored(
        names=names,
        parent=fields["parent_block_hash"],
        tokens=tuple(fields["token_ids"]),
        block_tokens=int(fields["block_size"]),
        adapter=adapter,
        plain=tuple(not unnamed and _is_plain(each, adapter) for each in keys),
        group=fields.get("group_idx"),
    )


def _is_plain(keys: Sequence[Any] | None, adapter: str) -> bool:
    """Tell whether what a block is known by is no more than its adapter: no image, no salt."""
    return all(each == adapter and adapter for each in keys or ())
