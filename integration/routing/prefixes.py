"""Prefixes of prompts: hashes of their blocks, and what of them each worker has cached."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from brsolver.cluster.view import Cached, IntArray, Waiting

CHARACTERS = 4
"""Of a token, where a text is cut into blocks: equal texts have equal blocks, whatever it is."""
MOST_BLOCKS = 4096
"""Of a prompt that are looked at."""
_DIGEST = 8


def block_hashes(
    prompt: str | Sequence[int], block_tokens: int, *, salt: str = ""
) -> tuple[int, ...]:
    """Return a hash of each full block of a prompt, each with all before it.

    Parameters
    ----------
    prompt : str or sequence of int
        A text, or token ids.
    block_tokens : int
        Tokens of a block; 0 hashes nothing.
    salt : str
        What else keeps prompts apart, such as the model's name.

    Returns
    -------
    tuple of int
        Not negative; at most `MOST_BLOCKS`.
    """
    if not block_tokens:
        return ()
    if isinstance(prompt, str):
        size, data = block_tokens * CHARACTERS, prompt
        pieces = (data[at : at + size] for at in range(0, len(data) - size + 1, size))
        return _chained((each.encode("utf-8", "surrogatepass") for each in pieces), "t" + salt)
    size, told = block_tokens * 8, _as_bytes(prompt)
    return _chained(
        (told[at : at + size] for at in range(0, len(told) - size + 1, size)), "i" + salt
    )


def _as_bytes(ids: Sequence[int]) -> bytes:
    try:
        return array("q", ids).tobytes()
    except OverflowError:
        # No vocabulary has such an id, and no cache a prompt with it.
        return b""


def _chained(pieces: Iterable[bytes], salt: str) -> tuple[int, ...]:
    hashes: list[int] = []
    told = salt.encode("utf-8", "surrogatepass")
    # One hash of all so far, looked at after each block: half the time of a hash for each.
    running = hashlib.blake2b(hashlib.blake2b(told).digest(), digest_size=_DIGEST)
    for piece in pieces:
        if len(hashes) == MOST_BLOCKS:
            break
        running.update(piece)
        hashes.append(int.from_bytes(running.copy().digest(), "little") >> 1)
    return tuple(hashes)


class PrefixHistory:
    """Blocks that each worker is taken to have in its prefix cache, the latest used last.

    Parameters
    ----------
    block_tokens : int
        Tokens of a block.
    most : int
        Blocks that are remembered for a worker.
    """

    def __init__(self, block_tokens: int, most: int) -> None:
        self.block_tokens = block_tokens
        self._most = most
        self._of: list[OrderedDict[int, None]] = []
        self._workers_of: dict[int, int] = {}

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._of)

    def __contains__(self, block: object) -> bool:
        return block in self._workers_of

    def open(self, worker: int) -> None:
        """Take in that a worker has come, with nothing cached."""
        while len(self._of) <= worker:
            self._of.append(OrderedDict())
        self.clear(worker)

    def clear(self, worker: int) -> None:
        """Forget what a worker has."""
        for block in list(self._of[worker]):
            self._drop(worker, block)

    def held(self, worker: int) -> int:
        """Return how many blocks a worker is taken to have."""
        return len(self._of[worker])

    def used(self, worker: int, blocks: Sequence[int]) -> None:
        """Take in that a worker computes or reads the blocks of a prompt.

        Its first blocks are used as late as its last, and are kept for longer: without them the
        others are worth nothing.
        """
        mine = self._of[worker]
        for block in reversed(blocks[: self._most]):
            if block in mine:
                mine.move_to_end(block)
            else:
                mine[block] = None
                self._workers_of[block] = self._workers_of.get(block, 0) | 1 << worker
        while len(mine) > self._most:
            self._drop(worker, next(iter(mine)))

    def told(self, worker: int, stored: Iterable[int], removed: Iterable[int]) -> None:
        """Take in what a worker's engine says of its cache."""
        for block in removed:
            if block in self._of[worker]:
                self._drop(worker, block)
        for block in stored:
            self.used(worker, (block,))

    def cached_tokens(self, blocks: Sequence[int]) -> IntArray:
        """Return how many tokens of a prompt each worker has, from its beginning, shape (G,)."""
        found: IntArray = np.zeros(len(self._of), np.int64)
        everyone = still = (1 << len(self._of)) - 1
        for depth, block in enumerate(blocks):
            there = self._workers_of.get(block, 0)
            self._note(found, still & ~there & everyone, depth)
            still &= there
            if not still:
                return found
        self._note(found, still, len(blocks))
        return found

    def _note(self, found: IntArray, workers: int, depth: int) -> None:
        while workers:
            lowest = workers & -workers
            found[lowest.bit_length() - 1] = depth * self.block_tokens
            workers ^= lowest

    def _drop(self, worker: int, block: int) -> None:
        del self._of[worker][block]
        left = self._workers_of[block] & ~(1 << worker)
        if left:
            self._workers_of[block] = left
        else:
            del self._workers_of[block]


def cached_by(
    history_now: Callable[[], PrefixHistory], blocks_of: Callable[[int], Sequence[int]]
) -> Cached:
    """Return what tells a session what of waiting prompts is in prefix caches.

    Parameters
    ----------
    history_now : callable
        Returns what workers have.
    blocks_of : callable
        Given a request's identity, returns the hashes of its blocks.
    """

    def cached(waiting: Waiting) -> IntArray:
        history = history_now()
        found: IntArray = np.zeros((len(waiting), history.workers), np.int64)
        for row, who in enumerate(waiting.request.tolist()):
            blocks = blocks_of(who)
            # Most prompts have nothing in common with any before.
            if blocks and blocks[0] in history:
                found[row] = history.cached_tokens(blocks)
        # The last token of a prompt is computed always.
        return np.minimum(found, waiting.prompt_tokens[:, None] - 1)

    return cached
