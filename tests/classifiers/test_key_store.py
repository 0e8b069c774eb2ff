"""The bounded map of keys against an ordered dictionary."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers._key_store import NO_KEY, Store, find, insert, make_store, mixed, remove, touch

# Multiples of a large power of two, and neighbours: hard on careless hashing.
KEYS = st.integers(-6, 6).flatmap(lambda k: st.sampled_from([k, k << 40, k << 58]))
ACTIONS = st.lists(st.tuples(st.sampled_from(["use", "use", "use", "remove"]), KEYS), max_size=80)


def use(store: Store, key: int) -> int:
    entry = int(find(store, key))
    if entry < 0:
        return int(insert(store, key))
    touch(store, entry)
    return entry


def held(store: Store) -> set[int]:
    return set(store.keys[store.used].tolist())


@given(ACTIONS, st.integers(1, 9))
@settings(deadline=None, max_examples=300)
def test_it_holds_what_an_ordered_dictionary_of_bounded_size_would(
    actions: list[tuple[str, int]], capacity: int
) -> None:
    store, plain = make_store(capacity), OrderedDict[int, int]()
    for action, key in actions:
        if action == "remove":
            remove(store, key)
            plain.pop(key, None)
            continue
        entry = use(store, key)
        if key in plain:
            assert plain[key] == entry
            plain.move_to_end(key)
        else:
            if len(plain) == capacity:
                plain.popitem(last=False)
            plain[key] = entry
        assert len(set(plain.values())) == len(plain)
    assert held(store) == set(plain)
    for key, entry in plain.items():
        assert find(store, key) == entry
    for _, key in actions:
        assert (find(store, key) >= 0) == (key in plain)


@given(st.lists(KEYS, min_size=1, max_size=60), st.integers(1, 6))
@settings(deadline=None)
def test_the_table_holds_each_entry_once_and_nothing_else(keys: list[int], capacity: int) -> None:
    store = make_store(capacity)
    for key in keys:
        use(store, key)
    there = sorted((store.places[store.places > 0] - 1).tolist())
    assert there == sorted(np.flatnonzero(store.used).tolist())
    assert 2 * len(there) <= len(store.places)


def test_a_hundred_thousand_keys_in_a_tenth_of_the_room_leave_the_latest() -> None:
    store = make_store(10_000)
    for key in range(100_000):
        use(store, key)
    assert held(store) == set(range(90_000, 100_000))


@pytest.mark.parametrize("value", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_scrambled_keys_are_never_the_one_that_stands_for_none(value: int) -> None:
    assert mixed(value, 17) != NO_KEY


def test_scrambling_keeps_values_and_salts_apart() -> None:
    values = {int(mixed(value, salt)) for value in range(-500, 500) for salt in range(1, 6)}
    assert len(values) == 5000
