"""Prompts as long as the trace says, that share what its prompts shared.

Equal numbers in ``hash_ids`` become equal blocks of tokens, whatever else is sent, so that prefix
caches find what they would have found; so do equal values of ``prompt_hash``. All else is drawn
for each request alone. The same seed draws the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import ParameterError, TraceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.traces.trace import Trace
    from integration.load.vocabulary import Vocabulary

BLOCKS = {"mooncake": 512, "bailian": 16}
"""Tokens of a block, by format."""
KEPT = 8192
"""Blocks that are kept as they are written."""
_OWN, _BLOCK, _EQUAL, _WARM = range(4)
"""What a stream of random numbers is for."""
_UNSIGNED = 2**64


class Prompts:
    """The prompts of a trace.

    Parameters
    ----------
    trace : Trace
    vocabulary : Vocabulary
    block : int, optional
        Tokens of a block of the trace's ``hash_ids``; by default it is found out.
    seed : int

    Attributes
    ----------
    block : int
        0 if prompts have none.

    Raises
    ------
    ParameterError, TraceError
        The size of blocks cannot be found out, or is not that of the trace.
    """

    def __init__(
        self, trace: Trace, vocabulary: Vocabulary, *, block: int | None = None, seed: int = 0
    ) -> None:
        self._vocabulary, self._seed = vocabulary, seed
        self._lengths = np.maximum(trace.prompt_tokens - vocabulary.extra, 1)
        self._offsets: Any = trace.columns.get("hash_offsets")
        self._values: Any = trace.columns.get("hash_values")
        self.block = 0 if self._offsets is None else block_tokens(trace, block)
        self._equal = _labels(trace) if self._offsets is None else None
        self._kept = lru_cache(KEPT)(self._block)

    def of(self, row: int) -> bytes:
        """Return the prompt of a request as a value of JSON."""
        length = int(self._lengths[row])
        if self._offsets is None:
            known = self._equal is not None and int(self._equal[row]) >= 0
            label = (_EQUAL, int(self._equal[row])) if known else (_OWN, row)  # type: ignore[index] # known
            return self._whole(self._drawn(length, *label))
        chain = self._values[self._offsets[row] : self._offsets[row + 1]].tolist()
        full, rest = divmod(length, self.block)
        pieces = [self._kept(each) for each in chain[:full]]
        if len(chain) > full and rest:
            pieces.append(self._written(self._tokens(self.block, _BLOCK, chain[full])[:rest]))
        missing = length - self.block * min(full, len(chain)) - rest * (len(chain) > full)
        if missing:
            pieces.append(self._drawn(missing, _OWN, row))
        return self._whole(b"".join(pieces))

    def warm(self, number: int, length: int) -> bytes:
        """Return a prompt that no other begins like."""
        return self._whole(self._drawn(max(length - self._vocabulary.extra, 1), _WARM, number))

    def _whole(self, pieces: bytes) -> bytes:
        return self._vocabulary.whole(pieces)

    def _block(self, value: int) -> bytes:
        return self._drawn(self.block, _BLOCK, value)

    def _drawn(self, length: int, use: int, number: int) -> bytes:
        return self._written(self._tokens(length, use, number))

    def _written(self, tokens: NDArray[np.int64]) -> bytes:
        return self._vocabulary.written(tokens)

    def _tokens(self, length: int, use: int, number: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self._seed, use, number % _UNSIGNED))
        return rng.integers(0, self._vocabulary.size, size=length)


def _labels(trace: Trace) -> NDArray[np.int64] | None:
    """Return a number that equal prompts share, -1 where none is known; None if none ever is."""
    column = trace.columns.get("prompt_hash")
    if column is None:
        return None
    labels = np.unique(column, return_inverse=True)[1].astype(np.int64)
    return np.where(column == "", -1, labels) if column.dtype.kind == "U" else labels


def block_tokens(trace: Trace, given: int | None = None) -> int:
    """Return the tokens of a block of a trace's ``hash_ids``.

    What the format says, or else the one power of two by which all prompts have as many blocks as
    numbers, the last one whole or begun.

    Parameters
    ----------
    trace : Trace
        With columns ``hash_offsets`` and ``hash_values``.
    given : int, optional

    Raises
    ------
    TraceError
        A prompt has fewer blocks of that size than numbers.
    ParameterError
        Several sizes are possible, or none.
    """
    offsets: Any = trace.columns["hash_offsets"]
    counts = np.diff(offsets.astype(np.int64))
    there = counts > 0
    lengths, counts = trace.prompt_tokens[there], counts[there]
    block = given or BLOCKS.get(trace.source_format) or _only(trace, lengths, counts)
    whole = -(-lengths // block)
    bad = np.flatnonzero(counts > whole)
    if bad.size:
        row = int(np.flatnonzero(there)[bad[0]])
        raise TraceError(
            f"{trace.name}: {trace.place(row)} has {counts[bad[0]]} hash_ids, must have at most "
            f"{whole[bad[0]]}: its prompt of {trace.prompt_tokens[row]} tokens has no more blocks "
            f"of {block}"
        )
    return block


def _only(trace: Trace, lengths: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
    if not counts.size:
        return 1
    begun, whole = possible_blocks(lengths, counts, begun=True), possible_blocks(lengths, counts)
    sizes = sorted({*begun, *whole})
    if len(sizes) == 1:
        return sizes[0]
    told = ", ".join(map(str, sizes)) or "no size fits all prompts"
    raise ParameterError(
        f"block is not given, and {trace.name} does not tell how many tokens a number of its "
        f"hash_ids stands for, must be given (possible: {told})"
    )


def possible_blocks(
    lengths: NDArray[np.int64], counts: NDArray[np.int64], *, begun: bool = False
) -> list[int]:
    """Return the powers of two by which all prompts have so many blocks.

    Parameters
    ----------
    lengths, counts : ndarray of int64, shape (n,)
        Tokens of prompts, and numbers of blocks, at least 1.
    begun : bool
        Whether a last block counts that the prompt only begins.
    """
    sizes = [2**power for power in range(21)]
    return [
        size
        for size in sizes
        if np.array_equal(-(-lengths // size) if begun else lengths // size, counts)
    ]
