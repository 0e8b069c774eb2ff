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
_DIGEST = _ID_BYTES = 8
_NOBODY: frozenset[int] = frozenset()


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
        Not negative, odd of texts and even of token ids; at most `MOST_BLOCKS`.
    """
    if not block_tokens:
        return ()
    if isinstance(prompt, str):
        size, most = block_tokens * CHARACTERS, block_tokens * CHARACTERS * MOST_BLOCKS
        data = prompt[:most].encode("utf-32-le", "surrogatepass")
        before, texts = _root("t" + salt), []
        # Four bytes a character, whatever it is: cut once, and copied nowhere else.
        for at in range(0, len(data) - 4 * size + 1, 4 * size):
            before = _next(before, data[at : at + 4 * size])
            texts.append(int.from_bytes(before, "little") >> 1 | 1)
        return tuple(texts)
    before, ids, size = root_of(salt), [], _ID_BYTES * block_tokens
    told = _as_bytes(prompt[: block_tokens * MOST_BLOCKS])
    for at in range(0, len(told) - size + 1, size):
        before = _next(before, told[at : at + size])
        ids.append(hash_of(before))
    return tuple(ids)


def root_of(salt: str) -> bytes:
    """Return what a chain of blocks of token ids begins with."""
    return _root("i" + salt)


def next_block(before: bytes, ids: Sequence[int]) -> bytes:
    """Return what a block of token ids adds to the chain of those before it."""
    return _next(before, _as_bytes(ids))


def hash_of(block: bytes) -> int:
    """Return the hash of a block of token ids, by its place in its chain."""
    return int.from_bytes(block, "little") >> 2 << 1


def is_of_tokens(block: int) -> bool:
    """Tell whether a hash is of token ids, as engines have blocks, or of a text."""
    return not block & 1


def _as_bytes(ids: Sequence[int]) -> bytes:
    try:
        return array("q", ids).tobytes()
    except OverflowError:
        # No vocabulary has such an id, and no cache a prompt with it.
        return b""


def _root(salt: str) -> bytes:
    return _next(b"", salt.encode("utf-8", "surrogatepass"))


def _next(before: bytes, piece: bytes) -> bytes:
    return hashlib.blake2b(before + piece, digest_size=_DIGEST).digest()


class PrefixHistory:
    """Blocks that each worker is taken to have in its prefix cache, the latest used last.

    By what was sent there; once a worker's engine tells of its cache itself, blocks of token ids
    are there by its word, or because a request that runs there computes them.

    Parameters
    ----------
    block_tokens : int
        Tokens of a block.
    most : int
        Blocks that are remembered for a worker, besides those that its engine tells of.
    """

    def __init__(self, block_tokens: int, most: int) -> None:
        self.block_tokens = block_tokens
        self._most = most
        self._of: list[OrderedDict[int, None]] = []
        self._by_engine: dict[int, set[int]] = {}
        self._workers_of: dict[int, int] = {}

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._of)

    def __contains__(self, block: object) -> bool:
        return block in self._workers_of

    def open(self, worker: int) -> None:
        """Take in that a worker has come, with nothing cached, whose engine tells nothing yet."""
        while len(self._of) <= worker:
            self._of.append(OrderedDict())
        self.clear(worker)
        self._by_engine.pop(worker, None)

    def clear(self, worker: int) -> None:
        """Forget what a worker has."""
        for block in list(self._of[worker]):
            self._drop(worker, block)
        self._remove(worker, list(self._by_engine.get(worker, _NOBODY)))

    def held(self, worker: int) -> int:
        """Return how many blocks a worker is taken to have."""
        return len(self._of[worker]) + len(self._by_engine.get(worker, _NOBODY))

    def used(self, worker: int, blocks: Sequence[int]) -> None:
        """Take in that a worker computes or reads the blocks of a prompt.

        Its first blocks are used as late as its last, and are kept for longer: without them the
        others are worth nothing.
        """
        mine, theirs = self._of[worker], self._by_engine.get(worker, _NOBODY)
        for block in reversed(blocks[: self._most]):
            if block in mine:
                mine.move_to_end(block)
            elif block not in theirs:
                mine[block] = None
                self._workers_of[block] = self._workers_of.get(block, 0) | 1 << worker
        while len(mine) > self._most:
            self._drop(worker, next(iter(mine)))

    def ended(self, worker: int, blocks: Sequence[int]) -> None:
        """Take in that a request has ended: where engines tell, what they did not is not there."""
        if worker not in self._by_engine or not blocks or not is_of_tokens(blocks[0]):
            return
        for block in blocks:
            if block in self._of[worker]:
                self._drop(worker, block)

    def told(
        self, worker: int, stored: Iterable[int], removed: Iterable[int], *, cleared: bool = False
    ) -> None:
        """Take in what a worker's engine says of its cache: blocks that came, and that went.

        `cleared`: all that was there before has gone.
        """
        if cleared:
            self.clear(worker)
        if worker not in self._by_engine:
            self._by_engine[worker] = set()
            for block in filter(is_of_tokens, list(self._of[worker])):
                self._drop(worker, block)
        mine, theirs = self._of[worker], self._by_engine[worker]
        self._remove(worker, removed)
        for block in stored:
            mine.pop(block, None)
            theirs.add(block)
            self._workers_of[block] = self._workers_of.get(block, 0) | 1 << worker

    def cached_tokens(self, blocks: Sequence[int]) -> IntArray:
        """Return how many tokens of a prompt each worker has, from its beginning, shape (G,)."""
        found: IntArray = np.zeros(len(self._of), np.int64)
        still = (1 << len(self._of)) - 1
        for depth, block in enumerate(blocks):
            there = self._workers_of.get(block, 0) & still
            if there != still:
                self._note(found, still ^ there, depth)
                still = there
                if not still:
                    return found
        self._note(found, still, len(blocks))
        return found

    def _note(self, found: IntArray, workers: int, depth: int) -> None:
        while workers and depth:
            lowest = workers & -workers
            found[lowest.bit_length() - 1] = depth * self.block_tokens
            workers ^= lowest

    def _drop(self, worker: int, block: int) -> None:
        del self._of[worker][block]
        self._leave(worker, block)

    def _remove(self, worker: int, blocks: Iterable[int]) -> None:
        """Take blocks away of which an engine has told, or that it was taken to compute."""
        mine, theirs = self._of[worker], self._by_engine.get(worker, _NOBODY)
        for block in blocks:
            if block in mine:
                self._drop(worker, block)
            elif block in theirs:
                self._by_engine[worker].discard(block)
                self._leave(worker, block)

    def _leave(self, worker: int, block: int) -> None:
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
