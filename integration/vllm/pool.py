"""Requests held back until slots are free."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from brsolver.policy import Waiting

if TYPE_CHECKING:
    from integration.vllm.requests import Request

OFFERED = 4096
"""Requests, first come first, among which a decision chooses."""


class Held(NamedTuple):
    """A request that vLLM believes sent.

    Attributes
    ----------
    message : EngineCoreRequest
        As vLLM made it.
    request : Request
        As the books know it.
    since : int
        Decode step at which it came.
    """

    message: Any
    request: Request
    since: int


class Pool:
    """Held requests, first come first."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def add(self, held: Held) -> None:
        """Hold a request."""
        self._held[held.request.name] = held

    def drop(self, name: str) -> Held | None:
        """Let one go, and return it; None if it is not held."""
        return self._held.pop(name, None)

    def first(self, count: int) -> list[Held]:
        """Return those that came first, at most `count`."""
        return list(islice(self._held.values(), count))

    def drain(self) -> list[Held]:
        """Let all go."""
        everyone = list(self._held.values())
        self._held.clear()
        return everyone

    def offer(self) -> tuple[list[Held], Waiting]:
        """Return the first `OFFERED` and, in that order, what a policy is told of them."""
        held = self.first(OFFERED)
        rows = [(each.request.prompt_tokens, each.request.identity, each.since) for each in held]
        columns = np.ascontiguousarray(np.array(rows, np.int64).T)
        return held, Waiting(columns[0], columns[1], columns[2])
