"""Bounded statistics of finished requests by key, and their recent mean, as kernels.

The store is set-associative: a key lives in one of the 8 places of its bucket, and a full bucket
drops the key that was touched least recently. ``names[b, w]`` is the key in place w of bucket b,
``seen[b, w]`` when it was last touched (0: free place), ``stats[b, w]`` count and sum of its
lengths. ``recent`` holds weight, weighted sum and the number of requests added.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

WAYS = 8


@kernel
def bucket_of(key: int, buckets: int) -> int:
    """Return the bucket of a key: splitmix64's finaliser, `buckets` a power of two."""
    mixed = np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.int64(mixed & np.uint64(buckets - 1))  # type: ignore[return-value]  # an int to numba


@kernel
def find(names: IntArray, seen: IntArray, key: int) -> tuple[int, int]:
    """Return bucket and place of a key, place -1 if it is not held."""
    bucket = bucket_of(key, names.shape[0])
    for way in range(names.shape[1]):
        if seen[bucket, way] > 0 and names[bucket, way] == key:
            return bucket, way
    return bucket, -1


@kernel
def add_key(
    names: IntArray, seen: IntArray, stats: FloatArray, key: int, length: float, now: int
) -> None:
    """Count one finished request of a key, in place of the least recent if there is no room."""
    bucket, way = find(names, seen, key)
    if way < 0:
        way = int(np.argmin(seen[bucket]))
        names[bucket, way] = key
        stats[bucket, way, 0] = 0.0
        stats[bucket, way, 1] = 0.0
    seen[bucket, way] = now
    stats[bucket, way, 0] += 1.0
    stats[bucket, way, 1] += length


@kernel
def add_request(
    names: IntArray,
    seen: IntArray,
    stats: FloatArray,
    recent: FloatArray,
    keys: IntArray,
    length: float,
    keep: float,
) -> None:
    """Count one finished request under all its keys and in the recent mean."""
    recent[0] = recent[0] * keep + 1.0
    recent[1] = recent[1] * keep + length
    recent[2] += 1.0
    now = int(recent[2])
    for key in keys:
        add_key(names, seen, stats, key, length, now)


@kernel
def look_up(
    names: IntArray,
    seen: IntArray,
    stats: FloatArray,
    recent: FloatArray,
    keys: IntArray,
    out: FloatArray,
) -> None:
    """Write count and mean of the last key that has a history, and the recent mean."""
    out[0] = 0.0
    out[1] = np.nan
    out[2] = recent[1] / recent[0] if recent[0] > 0 else np.nan
    for at in range(keys.shape[0] - 1, -1, -1):
        bucket, way = find(names, seen, keys[at])
        if way >= 0:
            out[0] = stats[bucket, way, 0]
            out[1] = stats[bucket, way, 1] / out[0]
            return


@kernel
def add_batch(
    names: IntArray,
    seen: IntArray,
    stats: FloatArray,
    recent: FloatArray,
    offsets: IntArray,
    keys: IntArray,
    lengths: FloatArray,
    keep: float,
) -> None:
    """Count finished requests, each with the keys ``keys[offsets[i]:offsets[i + 1]]``."""
    for i in range(lengths.shape[0]):
        own = keys[offsets[i] : offsets[i + 1]]
        add_request(names, seen, stats, recent, own, lengths[i], keep)


@kernel
def look_up_batch(
    names: IntArray,
    seen: IntArray,
    stats: FloatArray,
    recent: FloatArray,
    offsets: IntArray,
    keys: IntArray,
    out: FloatArray,
) -> None:
    """Look up one row of `out` per request."""
    if keys.shape[0] == 0 and out.shape[0] > 0:
        look_up(names, seen, stats, recent, keys, out[0])
        out[1:] = out[0]
        return
    for i in range(out.shape[0]):
        own = keys[offsets[i] : offsets[i + 1]]
        look_up(names, seen, stats, recent, own, out[i])


@kernel
def replay(
    names: IntArray,
    seen: IntArray,
    stats: FloatArray,
    recent: FloatArray,
    offsets: IntArray,
    keys: IntArray,
    lengths: FloatArray,
    keep: float,
    finish_s: FloatArray,
    finished: IntArray,
    asked_s: FloatArray,
    row: IntArray,
    out: FloatArray,
) -> None:
    """Look requests up in order of time, each after all that had finished by then.

    ``finished`` lists requests by finish time ``finish_s``; samples come in order of
    ``asked_s``, sample i asking about request ``row[i]``.
    """
    done = 0
    for i in range(asked_s.shape[0]):
        while done < finished.shape[0] and finish_s[finished[done]] <= asked_s[i]:
            ended = finished[done]
            own = keys[offsets[ended] : offsets[ended + 1]]
            add_request(names, seen, stats, recent, own, lengths[ended], keep)
            done += 1
        own = keys[offsets[row[i]] : offsets[row[i] + 1]]
        look_up(names, seen, stats, recent, own, out[i])
