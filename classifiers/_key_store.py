"""A bounded map of 64-bit keys to entry numbers that forgets the least recently used.

Payloads live in arrays of the caller's, by entry number. The map is an open-addressing table of
entry numbers; entries form a ring in order of use, through a sentinel, in which those whose keys
were removed come last. All arrays start as zeros: memory is claimed as keys come.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]

MOST_KEYS = 2**30
"""Largest capacity of a map: entries are numbered in 32 bits."""

NO_KEY = 0
"""Stands for no key at all; `mixed` never makes it."""

_PREVIOUS, _NEXT = 0, 1


class Store(NamedTuple):
    """The map's arrays.

    Attributes
    ----------
    places : ndarray of int32, shape (a power of 2)
        Entry number plus 1, or 0 where empty.
    keys : ndarray of int64, shape (capacity,)
        Key of each entry.
    used : ndarray of bool, shape (capacity,)
        Whether an entry holds its key.
    links : ndarray of int32, shape (2, capacity + 1)
        Neighbours in order of use. Column 0 is the sentinel, column e + 1 entry e.
    begun : ndarray of int64, shape (1,)
        Entries that have ever been given away: those from here on are in no ring yet.
    """

    places: NDArray[np.int32]
    keys: IntArray
    used: NDArray[np.bool_]
    links: NDArray[np.int32]
    begun: IntArray


def make_store(capacity: int) -> Store:
    """Make an empty map of at most `capacity` keys, its table at most half full."""
    bits = max(2, int(2 * capacity - 1).bit_length())
    return Store(
        places=np.zeros(1 << bits, np.int32),
        keys=np.zeros(capacity, np.int64),
        used=np.zeros(capacity, np.bool_),
        links=np.zeros((2, capacity + 1), np.int32),
        begun=np.zeros(1, np.int64),
    )


@kernel
def mixed(value: int, salt: int) -> int:
    """Scramble 64 bits one to one (for one salt), SplitMix64's way; never `NO_KEY`."""
    z = np.uint64(value) + np.uint64(salt) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    # 64 bits read as a signed number, like the keys themselves; a plain int to mypy alone.
    return np.int64(z) if z != np.uint64(NO_KEY) else np.int64(1)  # type: ignore[return-value]  # compiled


@kernel
def _home(store: Store, key: int) -> int:
    home: int = mixed(key, 1) & (store.places.shape[0] - 1)
    return home


@kernel
def _place(store: Store, key: int) -> int:
    """Return where in the table `key` is, or the empty place where it would go."""
    mask = store.places.shape[0] - 1
    at = _home(store, key)
    while store.places[at] != 0 and store.keys[store.places[at] - 1] != key:
        at = (at + 1) & mask
    return at


@kernel
def find(store: Store, key: int) -> int:
    """Return the entry of `key`, or -1."""
    entry: int = store.places[_place(store, key)] - 1
    return entry


@kernel
def touch(store: Store, entry: int) -> None:
    """Make an entry the most recently used."""
    _unlink(store.links, entry + 1)
    _link_after(store.links, 0, entry + 1)


@kernel
def insert(store: Store, key: int) -> int:
    """Give a key that the map does not hold an entry: a free one, or the least recently used."""
    entry = _spare(store)
    store.places[_place(store, key)] = entry + 1
    store.keys[entry] = key
    store.used[entry] = True
    _link_after(store.links, 0, entry + 1)
    return entry


@kernel
def _spare(store: Store) -> int:
    """Take an entry that may be given away out of table and ring."""
    last: int = store.links[_PREVIOUS, 0] - 1
    held = last < 0 or store.used[last]
    if held and store.begun[0] < store.keys.shape[0]:
        store.begun[0] += 1
        return int(store.begun[0] - 1)
    if held:
        _vacate(store, _place(store, store.keys[last]))
    _unlink(store.links, last + 1)
    return last


@kernel
def remove(store: Store, key: int) -> None:
    """Forget a key, if the map holds it; its entry is the next to be given away."""
    at = _place(store, key)
    entry = store.places[at] - 1
    if entry < 0:
        return
    _vacate(store, at)
    store.used[entry] = False
    _unlink(store.links, entry + 1)
    _link_after(store.links, store.links[_PREVIOUS, 0], entry + 1)


@kernel
def _vacate(store: Store, hole: int) -> None:
    """Empty a place of the table, and close the gap in the run of places behind it."""
    places = store.places
    mask = places.shape[0] - 1
    at = (hole + 1) & mask
    while places[at] != 0:
        home = _home(store, store.keys[places[at] - 1])
        # Those between the hole and their home would be cut off from it.
        if ((at - home) & mask) >= ((at - hole) & mask):
            places[hole] = places[at]
            hole = at
        at = (at + 1) & mask
    places[hole] = 0


@kernel
def _unlink(links: NDArray[np.int32], own: int) -> None:
    before, after = links[_PREVIOUS, own], links[_NEXT, own]
    links[_NEXT, before] = after
    links[_PREVIOUS, after] = before


@kernel
def _link_after(links: NDArray[np.int32], before: int, own: int) -> None:
    after = links[_NEXT, before]
    links[_PREVIOUS, own], links[_NEXT, own] = before, after
    links[_NEXT, before] = own
    links[_PREVIOUS, after] = own
