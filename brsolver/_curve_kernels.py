"""Loads weighted by survival curves: the projection of [DPR].

Curves are slices of one flat array, of which a request's own begins at an offset that moves with
its age. Sums over requests then are weighted sums of slices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver._state_kernels import (
    NONE,
    R_ID,
    R_NEXT,
    R_OFFSET,
    R_PROMPT,
    W_ACTIVE,
    W_CLOCK,
    W_HEAD,
    W_LOAD,
    W_QUEUED_TOKENS,
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
    horizon: int,
    growth: bool,
) -> IntArray:
    """Return loads weighted by ``P(O > a + h | O > a)`` of a table of ``P(O > a)``.

    The table ends at age `last` and repeats its last value for `horizon` more steps, as
    requests that no evidence says will end. `limits` on generated tokens, by identity, cut
    curves short; it is empty if there are none.
    """
    zeros = np.zeros(requests.shape[1], np.int64)
    return _project(workers, requests, table, zeros, zeros, last, limits, horizon, growth)


@kernel
def project_curves(
    workers: IntArray,
    requests: IntArray,
    curves: FloatArray,
    since: IntArray,
    owner: IntArray,
    horizon: int,
    growth: bool,
) -> IntArray:
    """Return loads weighted by each request's own curve, aged exactly since it was forecast.

    Parameters
    ----------
    curves : ndarray of float64, shape (handles + 1, W)
        ``P(still running h steps after the forecast)`` for h = 0..W-1, W above `horizon`. The
        last one is of a request of which nothing is known.
    since : ndarray of int64, shape (handles + 1,)
        Age of the request at its forecast.
    owner : ndarray of int64, shape (handles + 1,)
        Identity of the request that the curve is of: an old snapshot of the cluster may have
        had another one by the same handle.
    """
    width = curves.shape[1]
    unknown = curves.shape[0] - 1
    origins = np.empty(requests.shape[1], np.int64)
    for handle in range(requests.shape[1]):
        known = handle < unknown and owner[handle] == requests[R_ID, handle]
        origins[handle] = width * (handle if known else unknown)
    last = width - 1 - horizon
    flat = curves.reshape(-1)
    none = np.zeros(0, np.int64)
    return _project(workers, requests, flat, origins, since, last, none, horizon, growth)


@kernel
def _project(
    workers: IntArray,
    requests: IntArray,
    table: FloatArray,
    origins: IntArray,
    since: IntArray,
    last: int,
    limits: IntArray,
    horizon: int,
    growth: bool,
) -> IntArray:
    """Project with curves that begin at `origins`, by handle, and ages counted from `since`."""
    count = workers.shape[1]
    out = np.empty((count, horizon + 1), np.int64)
    most = 4 + workers[W_ACTIVE].max() if count else 4
    starts, tokens, shares = np.zeros(most, np.int64), np.zeros(most), np.zeros(most)
    loads, numbers = np.empty(horizon + 1), np.empty(horizon + 1)
    cut_loads, cut_numbers = np.empty(horizon + 1), np.empty(horizon + 1)
    for g in range(count):
        clock = workers[W_CLOCK, g]
        certain, certain_tokens, size = 0, 0, 0
        cut_loads[:] = 0.0
        cut_numbers[:] = 0.0
        handle = workers[W_HEAD, g]
        while handle != NONE:
            kv_tokens = requests[R_OFFSET, handle] + clock
            age = kv_tokens - requests[R_PROMPT, handle]
            left = horizon + 1
            if limits.shape[0]:
                left = max(1, limits[requests[R_ID, handle]] - age)
            start = origins[handle] + max(0, min(age - since[handle], last))
            now = table[start]
            if left <= horizon:
                for h in range(left):
                    stays = table[start + h] / now if now > 0.0 else 1.0
                    cut_loads[h] += kv_tokens * stays
                    cut_numbers[h] += stays
            elif now > 0.0:
                starts[size] = start
                shares[size] = 1.0 / now
                tokens[size] = kv_tokens * shares[size]
                size += 1
            else:
                certain += 1
                certain_tokens += kv_tokens
            handle = requests[R_NEXT, handle]
        tokens[size : size + 3] = 0.0
        shares[size : size + 3] = 0.0
        starts[size : size + 3] = 0
        _weigh(table, starts, tokens, size, loads)
        if growth:
            _weigh(table, starts, shares, size, numbers)
        fixed = certain_tokens + workers[W_QUEUED_TOKENS, g]
        for h in range(horizon + 1):
            grown = h * (numbers[h] + cut_numbers[h] + certain) if growth else 0.0
            out[g, h] = int(np.rint(loads[h] + cut_loads[h] + grown)) + fixed
        out[g, 0] = workers[W_LOAD, g] + workers[W_QUEUED_TOKENS, g]
    return out


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
