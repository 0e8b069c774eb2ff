"""Kernels that change what a slot holds, and keep the books; see `_search_kernels`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.oracles.step._gain_kernels import BY_SCORE, GROWS, NONE, leaders, slope

IntArray = NDArray[np.int64]

# Entries of the array of counters.
ADMITTED, SEED = range(2)


@kernel
def put(
    slot: int,
    kind: int,
    sizes: IntArray,
    slot_worker: IntArray,
    slots: IntArray,
    left: IntArray,
    tokens: IntArray,
    requests: IntArray,
    counters: IntArray,
) -> None:
    """Put a length into a slot, returning what was there to the waiting ones."""
    j, old = slot_worker[slot], slots[slot]
    if old != NONE:
        left[old] += 1
        tokens[j] -= sizes[old]
        requests[j] -= 1
        counters[ADMITTED] -= 1
    if kind != NONE:
        left[kind] -= 1
        tokens[j] += sizes[kind]
        requests[j] += 1
        counters[ADMITTED] += 1
    slots[slot] = kind


@kernel
def refresh(
    tokens: IntArray,
    requests: IntArray,
    scalars: IntArray,
    bends: IntArray,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
    top: IntArray,
    who: IntArray,
    hope: IntArray,
) -> None:
    """Bring up to date what gains are judged by: leaders, or slopes in `hope` for the score."""
    if scalars[BY_SCORE] == 0:
        leaders(tokens, requests, margins, weights, steps, top, who, hope)
    elif scalars[GROWS] == 0:
        for j in range(tokens.shape[0]):
            hope[j] = slope(j, tokens, scalars, bends)
