"""Kernels of BR-T over workers' loads: as they are, or in the steps to come as well.

Loads have shape (G,) where only the present counts, and (G, H + 1) where steps to come do. Every
kernel is compiled for either, and for the former has no loop over steps. Sums go on from what they
are given, so that they add up in the order of `brsolver.routers.reference_waves`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

TOPS = 3
"""Of `brsolver.routers._wave_kernels.Field.marks`: from there on the largest loads of all steps."""


@kernel
def steps_of(loads: IntArray) -> int:
    """Return of how many steps loads are."""
    return 1 if loads.ndim == 1 else loads.shape[1]


@kernel
def add_work(work: float, loads: IntArray, g: int, seconds: FloatArray) -> float:
    """Return seconds of work, and those that the loads of worker g come to."""
    if loads.ndim == 1:
        return work + seconds[1] * loads[g]
    for h in range(loads.shape[1]):
        work += seconds[h + 1] * loads[g, h]
    return work


@kernel
def tops_and_brings(
    loads: IntArray, marks: IntArray, tokens: int, growing: int, seconds: FloatArray
) -> tuple[float, float]:
    """Return seconds of the largest loads of all steps, and of what a request adds to a load."""
    if loads.ndim == 1:
        return seconds[1] * marks[TOPS], seconds[1] * tokens
    top, stays, grows = 0.0, 0.0, 0.0
    for h in range(loads.shape[1]):
        top += seconds[h + 1] * marks[TOPS + h]
        stays += seconds[h + 1]
        grows += seconds[h + 1] * h
    return top, stays * tokens + grows * growing


@kernel
def lift(marks: IntArray, loads: IntArray, g: int) -> None:
    """Raise the largest loads to those of worker g where these are larger."""
    if loads.ndim == 1:
        marks[TOPS] = max(marks[TOPS], loads[g])
    else:
        for h in range(loads.shape[1]):
            marks[TOPS + h] = max(marks[TOPS + h], loads[g, h])


@kernel
def give(loads: IntArray, g: int, tokens: int, growing: int) -> None:
    """Add a request to the loads of worker g, in each step `growing` tokens more."""
    if loads.ndim == 1:
        loads[g] += tokens
    else:
        for h in range(loads.shape[1]):
            loads[g, h] += tokens + growing * h


@kernel
def with_request(
    over: float,
    work: float,
    loads: IntArray,
    marks: IntArray,
    g: int,
    tokens: int,
    growing: int,
    seconds: FloatArray,
) -> tuple[float, float]:
    """Return seconds over the tops and of work, and those of worker g's loads with a request."""
    if loads.ndim == 1:
        holds = loads[g] + tokens
        return over + seconds[1] * max(holds - marks[TOPS], 0), work + seconds[1] * holds
    for h in range(loads.shape[1]):
        holds = loads[g, h] + tokens + growing * h
        over += seconds[h + 1] * max(holds - marks[TOPS + h], 0)
        work += seconds[h + 1] * holds
    return over, work
