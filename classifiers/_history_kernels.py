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


# Kernels take the arrays out of `Counted` once, outside their loops: numba counts references to
# every array of a tuple that is taken out of another, which costs more than a look-up.


@kernel
def _add_key(store: Store, totals: FloatArray, key: int, length: float) -> None:
    entry = find(store, key)
    if entry < 0:
        entry = insert(store, key)
        totals[entry, 0] = totals[entry, 1] = 0.0
    else:
        touch(store, entry)
    totals[entry, 0] += 1.0
    totals[entry, 1] += length


@kernel
def _add_recent(recent: FloatArray, length: float, keep: float) -> None:
    recent[0] = recent[0] * keep + 1.0
    recent[1] = recent[1] * keep + length
    recent[2] += 1.0


@kernel
def _last_known(store: Store, keys: IntArray, first: int, end: int) -> int:
    """Return the entry of the last of ``keys[first:end]`` that has a history, or -1."""
    for at in range(end - 1, first - 1, -1):
        entry: int = find(store, keys[at])
        if entry >= 0:
            return entry
    return -1


@kernel
def _write(totals: FloatArray, recent: FloatArray, entry: int, out: FloatArray, i: int) -> None:
    """Write count and mean of an entry, if it is one, and the recent mean."""
    out[i, 0] = totals[entry, 0] if entry >= 0 else 0.0
    out[i, 1] = totals[entry, 1] / totals[entry, 0] if entry >= 0 else np.nan
    out[i, 2] = recent[1] / recent[0] if recent[0] > 0 else np.nan


@kernel
def add_batch(
    counted: Counted, offsets: IntArray, keys: IntArray, lengths: FloatArray, keep: float
) -> None:
    """Count finished requests, each with the keys ``keys[offsets[i]:offsets[i + 1]]``."""
    store, totals, recent = counted
    for i in range(lengths.shape[0]):
        _add_recent(recent, lengths[i], keep)
        # From the longest prefix to the shortest: the shorter ones outlive it.
        for at in range(offsets[i + 1] - 1, offsets[i] - 1, -1):
            _add_key(store, totals, keys[at], lengths[i])


@kernel
def look_up_batch(counted: Counted, offsets: IntArray, keys: IntArray, out: FloatArray) -> None:
    """Look up one row of `out` per request, by the last of its keys that has a history."""
    store, totals, recent = counted
    for i in range(out.shape[0]):
        _write(totals, recent, _last_known(store, keys, offsets[i], offsets[i + 1]), out, i)


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
    store, totals, recent = counted
    done = 0
    for i in range(asked_s.shape[0]):
        while done < finished.shape[0] and finish_s[finished[done]] <= asked_s[i]:
            ended = finished[done]
            _add_recent(recent, lengths[ended], keep)
            for at in range(offsets[ended + 1] - 1, offsets[ended] - 1, -1):
                _add_key(store, totals, keys[at], lengths[ended])
            done += 1
        own = row[i]
        _write(totals, recent, _last_known(store, keys, offsets[own], offsets[own + 1]), out, i)
