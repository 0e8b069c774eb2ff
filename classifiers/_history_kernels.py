"""Bounded statistics of finished requests by key, and their recent mean, as kernels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from classifiers._key_store import Store, find, insert, touch

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class Counted(NamedTuple):
    """What has been counted.

    Attributes
    ----------
    store : Store
        Entries of the keys.
    totals : ndarray of float64, shape (capacity, 2)
        Number and sum of the lengths of each key.
    recent : ndarray of float64, shape (3,)
        Weight and weighted sum of the recent lengths, and the number of requests ever added.
    """

    store: Store
    totals: FloatArray
    recent: FloatArray


@kernel
def _add_key(counted: Counted, key: int, length: float) -> None:
    entry = find(counted.store, key)
    if entry < 0:
        entry = insert(counted.store, key)
        counted.totals[entry] = 0.0
    else:
        touch(counted.store, entry)
    counted.totals[entry, 0] += 1.0
    counted.totals[entry, 1] += length


@kernel
def _add_request(
    counted: Counted, keys: IntArray, first: int, end: int, length: float, keep: float
) -> None:
    """Count one finished request under all its keys and in the recent mean."""
    recent = counted.recent
    recent[0] = recent[0] * keep + 1.0
    recent[1] = recent[1] * keep + length
    recent[2] += 1.0
    # From the longest prefix to the shortest: the shorter ones outlive it.
    for at in range(end - 1, first - 1, -1):
        _add_key(counted, keys[at], length)


@kernel
def _look_up(counted: Counted, keys: IntArray, first: int, end: int, out: FloatArray) -> None:
    """Write count and mean of the last key that has a history, and the recent mean."""
    recent = counted.recent
    out[0] = 0.0
    out[1] = np.nan
    out[2] = recent[1] / recent[0] if recent[0] > 0 else np.nan
    for at in range(end - 1, first - 1, -1):
        entry = find(counted.store, keys[at])
        if entry >= 0:
            out[0] = counted.totals[entry, 0]
            out[1] = counted.totals[entry, 1] / out[0]
            return


@kernel
def add_batch(
    counted: Counted, offsets: IntArray, keys: IntArray, lengths: FloatArray, keep: float
) -> None:
    """Count finished requests, each with the keys ``keys[offsets[i]:offsets[i + 1]]``."""
    for i in range(lengths.shape[0]):
        _add_request(counted, keys, offsets[i], offsets[i + 1], lengths[i], keep)


@kernel
def look_up_batch(counted: Counted, offsets: IntArray, keys: IntArray, out: FloatArray) -> None:
    """Look up one row of `out` per request."""
    for i in range(out.shape[0]):
        _look_up(counted, keys, offsets[i], offsets[i + 1], out[i])


@kernel
def replay(
    counted: Counted,
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
            first, end = offsets[ended], offsets[ended + 1]
            _add_request(counted, keys, first, end, lengths[ended], keep)
            done += 1
        _look_up(counted, keys, offsets[row[i]], offsets[row[i] + 1], out[i])
