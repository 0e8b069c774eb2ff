"""Which loads a calibration puts on a server: batches, contexts and prefill chunks.

Every batch meets every context; chunks go round, so that each meets all of both. At a point every
rank decodes a number of sequences of about one length, and prompts of one chunk's length are sent
between: to the first rank alone, and to all ranks at once, which tells what a chunk costs its own
rank from what it costs everybody. On every other point the other ranks have a quarter of the
sequences. Held-out points have random batches, contexts and chunks from between.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from brsolver._limits import MAX_SEED, MAX_WORKERS, require_whole
from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

ALONE, TOGETHER = 4, 3
"""Chunks sent to the first rank alone, and to all ranks at once, at each point."""
FEWEST = 6
"""Points of a sweep: two coefficients and the base are fitted to them."""
BUDGET = 1024
"""Prompt tokens that a step computes, to reckon how long prompts take: servers take more."""
SETTLE, GAP = 12, 6
"""Steps that a point takes besides: until all decode, and from one chunk to the next."""


MOST = 10_000_000
"""Of whatever is counted: far beyond what a server takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Loads that are measured.

    Attributes
    ----------
    sequences : tuple of int
        Of each rank.
    context : int
        Prompt tokens of each of them.
    chunk : int
        Prompt tokens of what is sent between.
    held_out : bool
        Whether the fit does not see it.
    """

    sequences: tuple[int, ...]
    context: int
    chunk: int
    held_out: bool = False

    def output_tokens(self, steps: int) -> int:
        """Return what each sequence generates, so that at least `steps` steps only decode."""
        prompts = max(self.sequences) * self.context // BUDGET
        chunks = (ALONE + TOGETHER) * (GAP + self.chunk // BUDGET)
        return steps + SETTLE + prompts + chunks

    def longest(self, steps: int) -> int:
        """Return the tokens of its longest request."""
        return max(self.context + self.output_tokens(steps), self.chunk + 1)

    def kv_tokens(self, steps: int) -> int:
        """Return the most KV tokens that a rank holds."""
        return max(self.sequences) * (self.context + self.output_tokens(steps)) + self.chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepParams:
    """What is swept.

    Attributes
    ----------
    batches : tuple of int
        Sequences of the fullest rank.
    contexts : tuple of int
        Prompt tokens of a sequence.
    chunks : tuple of int
        Prompt tokens sent while these decode.
    steps : int
        Decode steps at each point.
    held_out : int
        Random points that the fit does not see.
    rounds : int
        How often all of it is measured, in another order each time.
    seed : int
        Of prompts, orders and held-out points.
    """

    batches: tuple[int, ...] = (1, 4, 8, 15)
    contexts: tuple[int, ...] = (64, 512, 1536)
    chunks: tuple[int, ...] = (64, 256, 1024)
    steps: int = 24
    held_out: int = 4
    rounds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batches", "contexts", "chunks"):
            _require_sizes(name, getattr(self, name), 1 if name == "chunks" else 2)
        require_whole("decode_steps", self.steps, 8, MOST)
        require_whole("held_out", self.held_out, 0, MOST)
        require_whole("rounds", self.rounds, 1, MOST)
        require_whole("seed", self.seed, 0, MAX_SEED)

    def points(self, ranks: int) -> list[Point]:
        """Return the points of one round, those held out at the end.

        Raises
        ------
        ParameterError
            There is no such number of ranks.
        """
        require_whole("ranks", ranks, 1, MAX_WORKERS)
        rng = np.random.default_rng(self.seed)
        grid = list(product(self.batches, self.contexts))
        return [
            *(self._point(at, *each, ranks) for at, each in enumerate(grid)),
            *(self._drawn(rng, ranks) for _ in range(self.held_out)),
        ]

    def require_slots(self, slots: int) -> None:
        """Raise `ParameterError` unless ranks of so many slots run all batches, and chunks."""
        if (largest := max(self.batches)) >= slots:
            raise ParameterError(
                f"batches has {largest}, must be at most {slots - 1}: a rank runs {slots} "
                "sequences (--max-num-seqs), and a chunk needs one of them"
            )

    def _point(self, at: int, batch: int, context: int, ranks: int) -> Point:
        others = batch if at % 2 == 0 else max(1, batch // 4)
        # Shifted with every batch: otherwise a context would meet one chunk only.
        chunk = self.chunks[(at + at // len(self.contexts)) % len(self.chunks)]
        return Point(sequences=(batch, *[others] * (ranks - 1)), context=context, chunk=chunk)

    def _drawn(self, rng: np.random.Generator, ranks: int) -> Point:
        batch = int(rng.integers(min(self.batches), max(self.batches) + 1))
        others = [int(n) for n in rng.integers(1, batch + 1, ranks - 1)]
        context, chunk = (_between(rng, sizes) for sizes in (self.contexts, self.chunks))
        return Point(sequences=(batch, *others), context=context, chunk=chunk, held_out=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a server can take.

    Attributes
    ----------
    slots : int
        Sequences that a rank runs at once (``--max-num-seqs``).
    longest : int or None
        Tokens of the longest request (``--max-model-len``); None if it does not say.
    capacity : int or None
        KV tokens that a rank holds; None if it does not say.
    """

    slots: int
    longest: int | None
    capacity: int | None


def fitting(points: Sequence[Point], params: SweepParams, room: Room) -> list[Point]:
    """Return the points whose KV tokens a rank holds.

    Raises
    ------
    ParameterError
        A batch or a length is more than the server takes, or too few points are left.
    """
    params.require_slots(room.slots)
    for point in points:
        longest = point.longest(params.steps)
        if room.longest is not None and longest > room.longest:
            name, value = max(("contexts", point.context), ("chunks", point.chunk), key=_second)
            raise ParameterError(
                f"{name} has {value}, must be at most {value - (longest - room.longest)}: the "
                f"server takes {room.longest} tokens a request (--max-model-len), and the sweep "
                f"needs {longest}"
            )
    kept = [p for p in points if room.capacity is None or p.kv_tokens(params.steps) < room.capacity]
    if sum(not point.held_out for point in kept) < FEWEST:
        raise ParameterError(
            f"{len(points)} points of the sweep are too many: a rank holds {room.capacity} KV "
            f"tokens, must hold at least {FEWEST} points; take smaller batches or contexts"
        )
    return kept


def _second(pair: tuple[str, int]) -> int:
    return pair[1]


def _between(rng: np.random.Generator, sizes: tuple[int, ...]) -> int:
    low, high = np.log([min(sizes), max(sizes)])
    return round(float(np.exp(rng.uniform(low, high))))


def _require_sizes(name: str, sizes: tuple[int, ...], fewest: int) -> None:
    if len(set(sizes)) < fewest:
        raise ParameterError(f"{name} is {_list(sizes)!r}, must be at least {fewest} sizes")
    for size in sizes:
        require_whole(f"a size of {name}", size, 1, MOST)


def _list(sizes: tuple[int, ...]) -> str:
    return ",".join(map(str, sizes))
