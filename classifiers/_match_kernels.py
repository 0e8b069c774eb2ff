"""Kernels of exact match: which key a request goes by, what is known of it, what follows.

Output lengths of a key are kept in a ring of its latest, negative where censored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from classifiers._curve_kernels import alive, lived, settle
from classifiers._key_store import NO_KEY, Store, find, insert, mixed, remove, touch

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

CLASSES = 48
"""Keys are classed by the binary logarithm of their number of observations."""

MOST_TRIALS = 64
"""Ages, or one more, at which a finished request is used to try shrinkages."""


class Known(NamedTuple):
    """What is known of keys.

    Attributes
    ----------
    store : Store
        Entries of the keys.
    seen : ndarray of int64, shape (capacity,)
        Observations of each key, ever.
    samples : ndarray of int32, shape (capacity, k)
        Its latest output lengths, at ``seen % k``.
    """

    store: Store
    seen: IntArray
    samples: NDArray[np.int32]


@kernel
def join_candidates(
    before: IntArray,
    chain_offsets: IntArray,
    chain_values: IntArray,
    salt: int,
    blocks: int,
    after: IntArray,
    rows: IntArray,
) -> tuple[IntArray, IntArray]:
    """Line up the keys of the requests at `rows`, most particular first: a ragged pair.

    First the columns of `before`, then the `blocks` last of the prefix chain from the longest
    prefix to the shortest, then the columns of `after`. No chains: empty `chain_offsets`.
    """
    plain = before.shape[1] + after.shape[1]
    offsets = np.zeros(rows.shape[0] + 1, np.int64)
    for i in range(rows.shape[0]):
        deep = 0
        if chain_offsets.shape[0]:
            deep = chain_offsets[rows[i] + 1] - chain_offsets[rows[i]]
        offsets[i + 1] = offsets[i] + plain + min(deep, blocks)
    keys = np.empty(offsets[-1], np.int64)
    for i in range(rows.shape[0]):
        at = offsets[i]
        for j in range(before.shape[1]):
            keys[at + j] = before[rows[i], j]
        at += before.shape[1]
        for j in range(offsets[i + 1] - at - after.shape[1]):
            keys[at + j] = mixed(chain_values[chain_offsets[rows[i] + 1] - 1 - j], salt)
        for j in range(after.shape[1]):
            keys[offsets[i + 1] - after.shape[1] + j] = after[rows[i], j]
    return offsets, keys


@kernel
def fnv_all(texts: NDArray[np.uint32]) -> IntArray:
    """Return FNV-1a of each row's code points, zeros at its end left out, shape (n,)."""
    out = np.empty(texts.shape[0], np.int64)
    for i in range(texts.shape[0]):
        end = texts.shape[1]
        while end > 0 and texts[i, end - 1] == 0:
            end -= 1
        digest = np.uint64(0xCBF29CE484222325)
        for j in range(end):
            digest = (digest ^ np.uint64(texts[i, j])) * np.uint64(0x100000001B3)
        out[i] = np.int64(digest)
    return out


@kernel
def mix_all(values: IntArray, salt: int) -> IntArray:
    """Scramble every value, shape (n,)."""
    out = np.empty(values.shape[0], np.int64)
    for i in range(values.shape[0]):
        out[i] = mixed(values[i], salt)
    return out


@kernel
def _sample_alive(sample: int, table: FloatArray, age: int) -> float:
    """Return ``P(O > age)`` after one observation: 0 or 1 unless it was censored before."""
    if sample > 0:
        return 1.0 if sample > age else 0.0
    if age <= -sample:
        return 1.0
    then = alive(table, -sample)
    return 1.0 if then <= 0.0 else alive(table, age) / then


@kernel
def class_of(count: int) -> int:
    """Return the class of a key with `count` observations."""
    at = 0
    while count > 1 and at < CLASSES - 1:
        count >>= 1
        at += 1
    return at


@kernel
def choose_key(known: Known, keys: IntArray, first: int, end: int, rule: IntArray) -> int:
    """Return the position of the first of ``keys[first:end]`` that counts as known, or -1.

    `rule` holds the least and the most observations of a known key, and how many of a request's
    first keys are free of the latter.
    """
    for at in range(first, end):
        entry = find(known.store, keys[at])
        if entry < 0 or known.seen[entry] < rule[0]:
            continue
        if at - first < rule[2] or known.seen[entry] <= rule[1]:
            return at
    return -1


@kernel
def resolve(
    known: Known,
    pending: Store,
    chosen: IntArray,
    request: IntArray,
    rows: IntArray,
    offsets: IntArray,
    keys: IntArray,
    rule: IntArray,
    out: IntArray,
) -> int:
    """Decide which key each request goes by, and remember it; return how many are known keys.

    Decided are those of ``request[rows]``, whose keys go to ``out[rows]`` too: not all may find
    room among the pending ones. A request none of whose keys is known goes by the most
    particular, which may become known.
    """
    hits = 0
    for i in range(rows.shape[0]):
        at = choose_key(known, keys, offsets[i], offsets[i + 1], rule)
        key = NO_KEY
        if at >= 0:
            hits += 1
            key = keys[at]
            touch(known.store, find(known.store, key))
        elif offsets[i + 1] > offsets[i]:
            key = keys[offsets[i]]
        entry = find(pending, request[rows[i]])
        if entry < 0:
            entry = insert(pending, request[rows[i]])
        chosen[entry] = key
        out[rows[i]] = key
    return hits


@kernel
def recall(pending: Store, chosen: IntArray, request: IntArray, out: IntArray) -> IntArray:
    """Write the keys of requests that have been resolved; return the positions of the others."""
    missing = np.empty(request.shape[0], np.int64)
    count = 0
    for i in range(request.shape[0]):
        entry = find(pending, request[i])
        if entry < 0:
            out[i] = NO_KEY
            missing[count] = i
            count += 1
        else:
            out[i] = chosen[entry]
    return missing[:count].copy()


@kernel
def learn(
    known: Known,
    offsets: IntArray,
    keys: IntArray,
    lengths: IntArray,
    censored: NDArray[np.bool_],
) -> None:
    """Add each output length to what is known of all keys of its request."""
    # Once, outside the loop: numba counts references to all arrays of a tuple taken out of another.
    store, seen, samples = known
    for i in range(lengths.shape[0]):
        # From the longest prefix to the shortest: the shorter ones outlive it.
        for at in range(offsets[i], offsets[i + 1]):
            entry = find(store, keys[at])
            if entry < 0:
                entry = insert(store, keys[at])
                seen[entry] = 0
            else:
                touch(store, entry)
            place = seen[entry] % samples.shape[1]
            samples[entry, place] = -lengths[i] if censored[i] else lengths[i]
            seen[entry] += 1


@kernel
def try_shrinkages(
    known: Known,
    offsets: IntArray,
    keys: IntArray,
    lengths: IntArray,
    censored: NDArray[np.bool_],
    rule: IntArray,
    table: FloatArray,
    horizon: int,
    grid: FloatArray,
    losses: FloatArray,
) -> None:
    """Add up the squared errors that each shrinkage of `grid` would have made.

    Judged are forecasts of "ends within `horizon`" at ages ``0, H/2, H, …`` of requests that
    have ended by themselves and have a known key. `losses`, shape (CLASSES, len(grid) + 1), is
    by class of key; the last column counts forecasts.
    """
    for i in range(lengths.shape[0]):
        at = choose_key(known, keys, offsets[i], offsets[i + 1], rule)
        if at < 0 or censored[i]:
            continue
        entry = find(known.store, keys[at])
        row = losses[class_of(known.seen[entry])]
        held = min(known.seen[entry], known.samples.shape[1])
        for age in range(0, lengths[i], max((horizon + 1) // 2, lengths[i] // MOST_TRIALS)):
            now, then = 0.0, 0.0
            for j in range(held):
                now += _sample_alive(known.samples[entry, j], table, age)
                then += _sample_alive(known.samples[entry, j], table, age + horizon)
            ends = 1.0 if lengths[i] <= age + horizon else 0.0
            row[-1] += 1.0
            for k in range(grid.shape[0]):
                alive_now = now + grid[k] * alive(table, age)
                alive_then = then + grid[k] * alive(table, age + horizon)
                p = 1.0 - alive_then / alive_now if alive_now > 0.0 else 0.0
                row[k] += (p - ends) ** 2


@kernel
def forget(pending: Store, request: IntArray) -> None:
    """Forget which keys requests go by."""
    for i in range(request.shape[0]):
        remove(pending, request[i])


@kernel
def _sample_lived(sample: int, table: FloatArray, tail: FloatArray, age: int, steps: int) -> float:
    """Sum `_sample_alive` over ``age + h``, h < steps."""
    if sample > 0:
        return float(min(max(sample - age, 0), steps))
    whole = min(max(-sample - age + 1, 0), steps)
    then = alive(table, -sample)
    if then <= 0.0:
        return float(steps)
    return whole + lived(table, tail, age + whole, steps - whole) / then


@kernel
def _held(known: Known, key: int) -> tuple[int, int]:
    """Return the entry of a key, and how many of its output lengths are held."""
    entry = -1 if key == NO_KEY else find(known.store, key)
    return entry, 0 if entry < 0 else min(known.seen[entry], known.samples.shape[1])


@kernel
def forecast_by_key(
    known: Known,
    key: IntArray,
    weight: FloatArray,
    table: FloatArray,
    tail: FloatArray,
    age: IntArray,
    left: IntArray,
    horizon: int,
    p_finish: FloatArray,
    mu_remaining: FloatArray,
) -> None:
    """Write forecasts; `weight` is κ by class of key."""
    for i in range(key.shape[0]):
        entry, held = _held(known, key[i])
        share = weight[class_of(known.seen[entry])] if held else 1.0
        a, steps = age[i], min(left[i], horizon)
        now, then = share * alive(table, a), share * alive(table, a + horizon)
        area = share * lived(table, tail, a, steps)
        for j in range(held):
            sample = known.samples[entry, j]
            now += _sample_alive(sample, table, a)
            then += _sample_alive(sample, table, a + horizon)
            area += _sample_lived(sample, table, tail, a, steps)
        settle(p_finish, mu_remaining, i, now, then, area, left[i], horizon)


@kernel
def _add_samples(
    known: Known,
    entry: int,
    held: int,
    table: FloatArray,
    age: int,
    ending: FloatArray,
    out: FloatArray,
) -> None:
    """Add to ``out[h]`` how many of a key's output lengths exceed ``age + h``.

    `ending`, one longer than `out`, is for scratch.
    """
    horizon = out.shape[0] - 1
    ending[:] = 0.0
    for j in range(held):
        sample = known.samples[entry, j]
        if sample > age:
            ending[0] += 1.0
            ending[min(sample - age, horizon + 1)] -= 1.0
        elif sample < 0:
            for h in range(horizon + 1):
                out[h] += _sample_alive(sample, table, age + h)
    still = 0.0
    for h in range(horizon + 1):
        still += ending[h]
        out[h] += still


@kernel
def curves_by_key(
    known: Known,
    key: IntArray,
    weight: FloatArray,
    table: FloatArray,
    age: IntArray,
    left: IntArray,
    horizon: int,
    out: FloatArray,
) -> None:
    """Write ``P(O > a + h | O > a)`` for h = 0..horizon, shape (n, horizon + 1)."""
    ending = np.empty(horizon + 2)
    for i in range(key.shape[0]):
        entry, held = _held(known, key[i])
        share = weight[class_of(known.seen[entry])] if held else 1.0
        for h in range(horizon + 1):
            out[i, h] = share * alive(table, age[i] + h)
        if held:
            _add_samples(known, entry, held, table, age[i], ending, out[i])
        now = out[i, 0]
        for h in range(horizon + 1):
            ahead = 1.0 if now <= 0.0 else out[i, h] / now
            out[i, h] = ahead if h < left[i] else 0.0
