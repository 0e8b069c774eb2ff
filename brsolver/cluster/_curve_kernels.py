"""Effective loads weighted by survival curves: the projection of [DPR].

Curves are slices of one flat array, of which a request's own begins at an offset that moves with
its age. Sums over requests then are weighted sums of slices. What they come to is kept per
worker, and computed anew only where something has changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster._state_kernels import (
    NONE,
    R_ID,
    R_NEXT,
    R_OFFSET,
    R_PROMPT,
    W_ACTIVE,
    W_CHANGES,
    W_CLOCK,
    W_HEAD,
    W_QUEUED,
    W_QUEUED_TOKENS,
    W_REQUEST_TOKENS,
    running_load,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@kernel
def project_survival(
    workers: IntArray,
    requests: IntArray,
    table: FloatArray,
    last: int,
    limits: IntArray,
    growth: bool,
    kept: IntArray,
    kept_at: IntArray,
) -> IntArray:
    """Return loads weighted by ``P(O > a + h | O > a)`` of a table of ``P(O > a)``.

    The table ends at age `last` and repeats its last value for as many more steps as are
    projected, as requests that no evidence says will end. `limits` on generated tokens, by
    identity, cut curves short; it is empty if there are none.

    `kept`, shape (G, H + 1), has the loads of what runs as of changes `kept_at`, shape (G,), -1
    where it holds nothing; both are brought up to date.
    """
    zeros = np.zeros(requests.shape[1], np.int64)
    return _project(workers, requests, table, zeros, zeros, last, limits, growth, kept, kept_at)


@kernel
def project_curves(
    workers: IntArray,
    requests: IntArray,
    curves: FloatArray,
    since: IntArray,
    owner: IntArray,
    growth: bool,
    kept: IntArray,
    kept_at: IntArray,
) -> IntArray:
    """Return loads weighted by each request's own curve, aged exactly since it was forecast.

    Parameters
    ----------
    curves : ndarray of float64, shape (handles + 1, W)
        ``P(still running h steps after the forecast)`` for h = 0..W-1, W above H. The last one
        is of a request of which nothing is known.
    since : ndarray of int64, shape (handles + 1,)
        Age of the request at its forecast.
    owner : ndarray of int64, shape (handles + 1,)
        Identity of the request that the curve is of: an old snapshot of the cluster may have
        had another one by the same handle.
    kept, kept_at : ndarray of int64
        As in `project_survival`.
    """
    width = curves.shape[1]
    unknown = curves.shape[0] - 1
    origins = np.empty(requests.shape[1], np.int64)
    for handle in range(requests.shape[1]):
        known = handle < unknown and owner[handle] == requests[R_ID, handle]
        origins[handle] = width * (handle if known else unknown)
    last = width - kept.shape[1]
    flat = curves.reshape(-1)
    none = np.zeros(0, np.int64)
    return _project(workers, requests, flat, origins, since, last, none, growth, kept, kept_at)


@kernel
def _project(
    workers: IntArray,
    requests: IntArray,
    table: FloatArray,
    origins: IntArray,
    since: IntArray,
    last: int,
    limits: IntArray,
    growth: bool,
    kept: IntArray,
    kept_at: IntArray,
) -> IntArray:
    """Project with curves that begin at `origins`, by handle, and ages counted from `since`."""
    count, steps = kept.shape
    out = np.empty((count, steps), np.int64)
    for g in range(count):
        if kept_at[g] != workers[W_CHANGES, g]:
            _add_up(
                workers, requests, table, origins, since, last, limits, growth, g, kept[g]
            )  # fmt: skip
            kept_at[g] = workers[W_CHANGES, g]
        queued = workers[W_QUEUED_TOKENS, g]
        queued += workers[W_REQUEST_TOKENS, g] * workers[W_QUEUED, g]
        for h in range(steps):
            out[g, h] = kept[g, h] + queued
    return out


@kernel
def _add_up(
    workers: IntArray,
    requests: IntArray,
    table: FloatArray,
    origins: IntArray,
    since: IntArray,
    last: int,
    limits: IntArray,
    growth: bool,
    g: int,
    out: IntArray,
) -> None:
    """Write to `out` the projected load of what runs on worker g."""
    steps = out.shape[0]
    most = 4 + workers[W_ACTIVE, g]
    starts, tokens, shares = np.zeros(most, np.int64), np.zeros(most), np.zeros(most)
    loads, numbers = np.empty(steps), np.zeros(steps)
    cut_loads, cut_numbers = np.zeros(steps), np.zeros(steps)
    clock, each = workers[W_CLOCK, g], workers[W_REQUEST_TOKENS, g]
    certain, certain_tokens, size = 0, 0, 0
    handle = workers[W_HEAD, g]
    while handle != NONE:
        kv_tokens = requests[R_OFFSET, handle] + clock
        age = kv_tokens - requests[R_PROMPT, handle]
        load = kv_tokens + each
        left = steps
        if limits.shape[0]:
            left = max(1, limits[requests[R_ID, handle]] - age)
        start = origins[handle] + max(0, min(age - since[handle], last))
        now = table[start]
        if left < steps:
            for h in range(left):
                stays = table[start + h] / now if now > 0.0 else 1.0
                cut_loads[h] += load * stays
                cut_numbers[h] += stays
        elif now > 0.0:
            starts[size] = start
            shares[size] = 1.0 / now
            tokens[size] = load * shares[size]
            size += 1
        else:
            certain += 1
            certain_tokens += load
        handle = requests[R_NEXT, handle]
    _weigh(table, starts, tokens, size, loads)
    if growth:
        _weigh(table, starts, shares, size, numbers)
    for h in range(steps):
        grown = h * (numbers[h] + cut_numbers[h] + certain) if growth else 0.0
        out[h] = int(np.rint(loads[h] + cut_loads[h] + grown)) + certain_tokens
    out[0] = running_load(workers, g)


@kernel
def _weigh(
    table: FloatArray, starts: IntArray, weights: FloatArray, size: int, out: FloatArray
) -> None:
    """Sum ``weights[i]·table[starts[i] + h]`` over i, four at a time to spare memory traffic.

    Entries up to the next multiple of four exist and weigh nothing.
    """
    steps = out.shape[0]
    out[:] = 0.0
    for i in range(0, size, 4):
        a, b = weights[i], weights[i + 1]
        c, d = weights[i + 2], weights[i + 3]
        first = table[starts[i] : starts[i] + steps]
        second = table[starts[i + 1] : starts[i + 1] + steps]
        third = table[starts[i + 2] : starts[i + 2] + steps]
        fourth = table[starts[i + 3] : starts[i + 3] + steps]
        for h in range(steps):
            out[h] += a * first[h] + b * second[h] + c * third[h] + d * fourth[h]
