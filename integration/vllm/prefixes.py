"""What ranks are taken to have in their prefix caches: what was sent there, the oldest left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.routing.prefixes import PrefixHistory

if TYPE_CHECKING:
    from integration.vllm.requests import Request

LEAST_TOKENS = 64
"""Of a block: an engine's are joined, since every prompt is hashed while somebody waits for it."""
UNKNOWN_BLOCKS = 4096
"""Remembered for a rank whose capacity is not known."""


def joined_blocks(block_tokens: int) -> int:
    """Return the tokens of a block of ours: of so many of the engines' that hashing is cheap."""
    return block_tokens * -(-LEAST_TOKENS // block_tokens) if block_tokens else 0


class RankPrefixes:
    """The prefix caches of the ranks, as far as an API server can know them.

    Parameters
    ----------
    block_tokens : int
        Of a block of ours; 0 knows of no caches.
    capacity : int or None
        KV tokens that a rank holds, running requests' among them.

    Attributes
    ----------
    history : PrefixHistory
    expected_tokens : int
        Of all prompts so far, that should have been there.
    """

    def __init__(self, block_tokens: int, capacity: int | None) -> None:
        most = UNKNOWN_BLOCKS
        if block_tokens and capacity is not None:
            most = max(1, capacity // block_tokens)
        self.history = PrefixHistory(block_tokens, most)
        self.expected_tokens = 0

    def sent(self, request: Request, rank: int) -> int:
        """Enter that a request goes to a rank; return how many of its tokens should be there."""
        if not request.blocks:
            return 0
        self._reach(rank + 1)
        found = int(self.history.cached_tokens(request.blocks)[rank])
        self.history.used(rank, request.blocks)
        # The last token of a prompt is computed always.
        expected = min(found, request.prompt_tokens - 1)
        self.expected_tokens += expected
        return expected

    def adopt(self, old: RankPrefixes) -> None:
        """Take over what others know, if their blocks are as long."""
        self.expected_tokens = old.expected_tokens
        if old.history.block_tokens == self.history.block_tokens:
            self.history = old.history

    def closed(self, rank: int) -> None:
        """Take in that a rank has gone: if it comes back, its cache is empty."""
        if rank < self.history.workers:
            self.history.clear(rank)

    def of(self, ranks: int) -> PrefixHistory:
        """Return what so many ranks have."""
        self._reach(ranks)
        return self.history

    def _reach(self, ranks: int) -> None:
        for rank in range(self.history.workers, ranks):
            self.history.open(rank)
