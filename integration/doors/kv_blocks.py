"""An engine's blocks of prompts: what it calls them, and what we do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.routing.prefixes import hash_of, next_block, root_of

if TYPE_CHECKING:
    from integration.doors.kv_messages import BlockName, Removed, Stored


class Blocks:
    """An engine's blocks, by what it calls them.

    Parameters
    ----------
    block_tokens : int
        Tokens of a block.
    adapters : set of str
        Names of LoRA adapters that were seen; added to.

    Attributes
    ----------
    other_size : int or None
        Tokens of the engine's blocks, if it has others than these.
    """

    def __init__(self, block_tokens: int, adapters: set[str]) -> None:
        self._block_tokens = block_tokens
        self._adapters = adapters
        self._known: dict[BlockName, bytes] = {}
        self._groups: set[int | None] = {None}
        self.other_size: int | None = None

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Take in that the engine has none any more."""
        self._known.clear()

    def stored(self, event: Stored) -> list[int]:
        """Take in blocks that came; return our hashes of those that can be told."""
        if event.block_tokens != self._block_tokens:
            self.other_size = event.block_tokens
            return []
        if event.adapter:
            self._adapters.add(event.adapter)
        self._groups.add(event.group)
        before: bytes | None = root_of(event.adapter)
        if event.parent is not None:
            before = self._known.get(event.parent)
        found: list[int] = []
        size = event.block_tokens
        for at, (name, plain) in enumerate(zip(event.names, event.plain, strict=True)):
            if before is None or not plain:
                break
            before = self._known[name] = next_block(before, event.tokens[at * size :][:size])
            found.append(hash_of(before))
        return found

    def removed(self, event: Removed) -> list[int]:
        """Take in blocks that went; return our hashes of those that had been told."""
        if event.group not in self._groups:
            return []
        gone = (self._known.pop(name, None) for name in event.names)
        return [hash_of(each) for each in gone if each is not None]
