"""Kernels over the cluster state's arrays; `brsolver.cluster.state` gives them their meaning.

A request's load is kept as an offset to its worker's clock, so that a decode step of a whole
worker moves one number instead of one per request. Predicted ends lie in a ring per worker,
indexed by the worker's clock, that holds the count and the offsets of the requests ending there.
Whatever changes who runs on a worker, or with how many tokens, is counted there (`W_CHANGES`), so
that what was derived from that can be kept for as long as it holds.

`W_LOAD` and offsets count KV tokens, by which capacity goes. What a request weighs besides
(`W_REQUEST_TOKENS`) is added where loads are looked at, so that it can change at any time.

`W_BACKLOG` counts the prompt tokens that a worker was given to prefill and has not computed yet;
who drives the state charges and discharges it. It stays 0 where prompts are computed elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Rows of the per-worker array.
(
    W_LOAD,
    W_ACTIVE,
    W_SLOTS,
    W_CAPACITY,
    W_QUEUED,
    W_QUEUED_TOKENS,
    W_ALIVE,
    W_CLOCK,
    W_HEAD,
    W_TAIL,
    W_LATE_COUNT,
    W_LATE_OFFSET,
    W_PROMPTS,
    W_CHANGES,
    W_REQUEST_TOKENS,
    W_BACKLOG,
) = range(16)
WORKER_ROWS = 16

# Rows of the per-request array.
R_WORKER, R_ID, R_PROMPT, R_OFFSET, R_END, R_PREV, R_NEXT = range(7)
REQUEST_ROWS = 7

COUNTERS = np.dtype([("free_head", np.int64), ("active_total", np.int64)])
"""Record of a state: first free handle, and running requests on all workers."""
Counters = NDArray[Any]
"""An array of one `COUNTERS`."""

NONE = -1
NO_LIMIT = 1 << 60
NEVER = np.int64(1 << 60)


@kernel
def ring_shift(workers: IntArray, ring: IntArray, g: int, end: int, offset: int, sign: int) -> None:
    """Add (sign 1) or remove (sign -1) a request from where its predicted end is counted."""
    if end == NEVER:
        return
    if end <= workers[W_CLOCK, g]:
        workers[W_LATE_COUNT, g] += sign
        workers[W_LATE_OFFSET, g] += sign * offset
    else:
        slot = end & (ring.shape[2] - 1)
        ring[0, g, slot] += sign
        ring[1, g, slot] += sign * offset


@kernel
def admit(
    workers: IntArray,
    requests: IntArray,
    counters: Counters,
    g: int,
    ident: int,
    prompt: int,
    kv_tokens: int,
) -> int:
    """Start a request on worker g; return its handle, or NONE if the request array is full."""
    handle = counters[0].free_head
    if handle == NONE:
        return NONE
    counters[0].free_head = requests[R_NEXT, handle]
    counters[0].active_total += 1
    requests[R_WORKER, handle] = g
    requests[R_ID, handle] = ident
    requests[R_PROMPT, handle] = prompt
    requests[R_OFFSET, handle] = kv_tokens - workers[W_CLOCK, g]
    requests[R_END, handle] = NEVER
    tail = workers[W_TAIL, g]
    requests[R_PREV, handle] = tail
    requests[R_NEXT, handle] = NONE
    if tail == NONE:
        workers[W_HEAD, g] = handle
    else:
        requests[R_NEXT, tail] = handle
    workers[W_TAIL, g] = handle
    workers[W_LOAD, g] += kv_tokens
    workers[W_ACTIVE, g] += 1
    workers[W_PROMPTS, g] += prompt
    workers[W_CHANGES, g] += 1
    return handle


@kernel
def finish(
    workers: IntArray, requests: IntArray, counters: Counters, ring: IntArray, handle: int
) -> None:
    """Take a request off its worker."""
    g = requests[R_WORKER, handle]
    offset = requests[R_OFFSET, handle]
    ring_shift(workers, ring, g, requests[R_END, handle], offset, -1)
    before, after = requests[R_PREV, handle], requests[R_NEXT, handle]
    if before == NONE:
        workers[W_HEAD, g] = after
    else:
        requests[R_NEXT, before] = after
    if after == NONE:
        workers[W_TAIL, g] = before
    else:
        requests[R_PREV, after] = before
    workers[W_LOAD, g] -= offset + workers[W_CLOCK, g]
    workers[W_ACTIVE, g] -= 1
    workers[W_PROMPTS, g] -= requests[R_PROMPT, handle]
    workers[W_CHANGES, g] += 1
    requests[R_WORKER, handle] = NONE
    requests[R_NEXT, handle] = counters[0].free_head
    counters[0].free_head = handle
    counters[0].active_total -= 1


@kernel
def generate(
    workers: IntArray, requests: IntArray, ring: IntArray, handle: int, tokens: int
) -> None:
    """Let one request generate tokens, its worker's clock standing still."""
    g = requests[R_WORKER, handle]
    end = requests[R_END, handle]
    ring_shift(workers, ring, g, end, requests[R_OFFSET, handle], -1)
    requests[R_OFFSET, handle] += tokens
    if end != NEVER:
        end = max(end - tokens, workers[W_CLOCK, g])
        requests[R_END, handle] = end
    ring_shift(workers, ring, g, end, requests[R_OFFSET, handle], 1)
    workers[W_LOAD, g] += tokens
    workers[W_CHANGES, g] += 1


@kernel
def generate_all(workers: IntArray, requests: IntArray, ring: IntArray, many: IntArray) -> None:
    """Let requests generate tokens: rows handle, tokens. Those that are gone are passed over."""
    for i in range(many.shape[1]):
        handle = many[0, i]
        if handle != NONE and requests[R_WORKER, handle] != NONE:
            generate(workers, requests, ring, handle, many[1, i])


@kernel
def enqueue(workers: IntArray, g: int, kv_tokens: int, prompt: int) -> None:
    """Count a request that waits at worker g."""
    workers[W_QUEUED, g] += 1
    workers[W_QUEUED_TOKENS, g] += kv_tokens
    workers[W_PROMPTS, g] += prompt


@kernel
def dequeue(workers: IntArray, g: int, kv_tokens: int, prompt: int) -> None:
    """Count a request no more that waited at worker g."""
    workers[W_QUEUED, g] -= 1
    workers[W_QUEUED_TOKENS, g] -= kv_tokens
    workers[W_PROMPTS, g] -= prompt


@kernel
def advance_worker(workers: IntArray, ring: IntArray, g: int) -> None:
    """Let every request of worker g generate one token."""
    workers[W_LOAD, g] += workers[W_ACTIVE, g]
    workers[W_CHANGES, g] += 1
    clock = workers[W_CLOCK, g] + 1
    workers[W_CLOCK, g] = clock
    slot = clock & (ring.shape[2] - 1)
    if ring[0, g, slot] != 0:
        workers[W_LATE_COUNT, g] += ring[0, g, slot]
        workers[W_LATE_OFFSET, g] += ring[1, g, slot]
        ring[0, g, slot] = 0
        ring[1, g, slot] = 0


@kernel
def advance_all(workers: IntArray, ring: IntArray) -> None:
    """One lockstep decode step: every running request generates one token."""
    for g in range(workers.shape[1]):
        if workers[W_ACTIVE, g] > 0:
            advance_worker(workers, ring, g)


@kernel
def predict(
    workers: IntArray, requests: IntArray, ring: IntArray, handles: IntArray, remaining: IntArray
) -> None:
    """Set the predicted remaining steps of requests; ends beyond the ring count as never."""
    window = ring.shape[2] - 1
    for i in range(handles.shape[0]):
        handle = handles[i]
        g = requests[R_WORKER, handle]
        offset = requests[R_OFFSET, handle]
        ring_shift(workers, ring, g, requests[R_END, handle], offset, -1)
        steps = max(remaining[i], 1)
        end = int(NEVER) if steps > window else int(workers[W_CLOCK, g]) + steps
        requests[R_END, handle] = end
        ring_shift(workers, ring, g, end, offset, 1)


@kernel
def predict_lengths(
    workers: IntArray, requests: IntArray, ring: IntArray, handles: IntArray, lengths: IntArray
) -> None:
    """Set predicted ends from known output lengths, by request identity."""
    one, left = np.empty(1, np.int64), np.empty(1, np.int64)
    for i in range(handles.shape[0]):
        handle = handles[i]
        g = requests[R_WORKER, handle]
        if g == NONE:
            continue
        age = requests[R_OFFSET, handle] + workers[W_CLOCK, g] - requests[R_PROMPT, handle]
        one[0] = handle
        left[0] = lengths[requests[R_ID, handle]] - age
        predict(workers, requests, ring, one, left)


@kernel
def predict_by_age(
    workers: IntArray,
    requests: IntArray,
    ring: IntArray,
    handles: IntArray,
    table: FloatArray,
    integral: FloatArray,
    limits: IntArray,
    horizon: int,
) -> None:
    """Set predicted ends from a table of ``P(O > a)`` and its running sum from 0.

    The expected contribution is ``Σ_{h<L} P(O > a + h) / P(O > a)``, L the horizon or what the
    request's own limit leaves of it. `limits` is by identity, empty if there are none.
    """
    one, left = np.empty(1, np.int64), np.empty(1, np.int64)
    last = table.shape[0] - 1
    for i in range(handles.shape[0]):
        handle = handles[i]
        g = requests[R_WORKER, handle]
        if g == NONE:
            continue
        age = requests[R_OFFSET, handle] + workers[W_CLOCK, g] - requests[R_PROMPT, handle]
        ahead = horizon
        if limits.shape[0]:
            ahead = min(horizon, max(1, limits[requests[R_ID, handle]] - age))
        expected = float(ahead)
        if age < last and table[age] > 0.0:
            inside = min(age + ahead, last)
            lived = integral[inside] - integral[age] + (age + ahead - inside) * table[last]
            expected = lived / table[age]
        one[0] = handle
        # Sums that differ from a whole number by rounding alone must not gain a step.
        left[0] = NEVER if expected >= horizon - 1e-9 else int(np.ceil(expected - 1e-9))
        predict(workers, requests, ring, one, left)


@kernel
def running_load(workers: IntArray, g: int) -> int:
    """Return what the running requests of worker g load it with."""
    load: int = workers[W_LOAD, g] + workers[W_REQUEST_TOKENS, g] * workers[W_ACTIVE, g]
    return load


@kernel
def effective_load(workers: IntArray, g: int) -> int:
    """Return what worker g is loaded with: KV tokens, and what each of its requests weighs."""
    queued: int = workers[W_QUEUED_TOKENS, g] + workers[W_REQUEST_TOKENS, g] * workers[W_QUEUED, g]
    return running_load(workers, g) + queued


@kernel
def project(workers: IntArray, ring: IntArray, horizon: int, growth: bool) -> IntArray:
    """Return projected loads, shape (G, horizon + 1); see `ClusterState.projection`."""
    count = workers.shape[1]
    mask = ring.shape[2] - 1
    out = np.empty((count, horizon + 1), np.int64)
    grow = 1 if growth else 0
    for g in range(count):
        # A request ends with its tokens as of now and with what it weighs besides.
        now = workers[W_CLOCK, g] + workers[W_REQUEST_TOKENS, g]
        clock = workers[W_CLOCK, g]
        out[g, 0] = effective_load(workers, g)
        left = workers[W_ACTIVE, g] - workers[W_LATE_COUNT, g]
        tokens = out[g, 0] - workers[W_LATE_OFFSET, g] - workers[W_LATE_COUNT, g] * now
        for h in range(1, horizon + 1):
            slot = (clock + h) & mask
            ending = ring[0, g, slot]
            tokens -= ring[1, g, slot] + ending * now
            left -= ending
            out[g, h] = tokens + grow * h * left
    return out


@kernel
def gather_active(workers: IntArray, requests: IntArray, counters: Counters) -> IntArray:
    """Return handles of all running requests, by worker and order of admission."""
    handles = np.empty(counters[0].active_total, np.int64)
    count = 0
    for g in range(workers.shape[1]):
        handle = workers[W_HEAD, g]
        while handle != NONE:
            handles[count] = handle
            count += 1
            handle = requests[R_NEXT, handle]
    return handles


@kernel
def still_running(requests: IntArray, handles: IntArray) -> IntArray:
    """Return those of the handles whose requests have not ended."""
    out = np.empty(handles.shape[0], np.int64)
    count = 0
    for i in range(handles.shape[0]):
        if requests[R_WORKER, handles[i]] != NONE:
            out[count] = handles[i]
            count += 1
    return out[:count]


@kernel
def describe(workers: IntArray, requests: IntArray, handles: IntArray) -> IntArray:
    """Return rows worker, identity, prompt tokens, KV tokens, age of the given requests."""
    out = np.empty((5, handles.shape[0]), np.int64)
    for i in range(handles.shape[0]):
        handle = handles[i]
        g = requests[R_WORKER, handle]
        kv_tokens = requests[R_OFFSET, handle] + workers[W_CLOCK, g]
        out[0, i] = g
        out[1, i] = requests[R_ID, handle]
        out[2, i] = requests[R_PROMPT, handle]
        out[3, i] = kv_tokens
        out[4, i] = kv_tokens - requests[R_PROMPT, handle]
    return out
