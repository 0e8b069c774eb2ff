"""What can be seen of a prefill tier: by the audit, the metrics and the list of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillWorker:
    """A worker that computes prompts.

    Attributes
    ----------
    name, address : str
    state : str
        ``up``, ``down`` or ``draining``.
    prompts, tokens : int
        Prompts under way there, and their tokens.
    kept : int
        Requests whose prompt it has computed and whose answer, for all that is known, has not
        begun: their KV is to be fetched from there.
    kv_usage : float or None
        Share of its KV cache in use, as it said last; None if it does not say.
    capacity : int or None
        KV tokens that it holds; None if nobody says.
    """

    name: str
    address: str
    state: str
    prompts: int
    tokens: int
    kept: int
    kv_usage: float | None
    capacity: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillTier:
    """A prefill tier at one moment.

    Attributes
    ----------
    waiting : int
        Requests that wait for a prefill worker with room.
    under_way : int
        Prompts that workers have been given and that are not done.
    prompts : mapping of str to int
        What became of prompts so far: ``computed``, ``named`` (the decode worker's sidecar makes
        the call), ``decode`` (left to the decode worker), ``refused``, or ``rejected`` (an engine
        does not take the request).
    calls : mapping of str to mapping of str to int
        By worker, how its calls ended: ``computed``, ``failed``, ``rejected`` or ``withdrawn``;
        ``named`` are those that a sidecar makes.
    workers : tuple of PrefillWorker
    """

    waiting: int
    under_way: int
    prompts: Mapping[str, int]
    calls: Mapping[str, Mapping[str, int]]
    workers: tuple[PrefillWorker, ...]
