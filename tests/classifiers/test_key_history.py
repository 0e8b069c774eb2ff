"""Histories of keys against an ordered dictionary."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from classifiers.key_history import KeyHistory

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHAINS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


def columns_of(chains: list[list[int]]) -> dict[str, NDArray[np.int64]]:
    return {
        "hash_offsets": np.cumsum([0, *map(len, chains)]),
        "hash_values": np.array([block for chain in chains for block in chain], np.int64),
    }


def add_plainly(
    held: OrderedDict[int, list[int]], chain: list[int], length: int, capacity: int
) -> None:
    """Count a request under its keys; the longest prefix is the first to go."""
    for block in reversed(chain):
        lengths = held.pop(block, [])
        if len(held) == capacity:
            held.popitem(last=False)
        held[block] = [*lengths, length]


@given(st.lists(CHAINS, max_size=5), CHAINS, st.integers(1, 12))
@settings(deadline=None, max_examples=200)
def test_it_knows_the_keys_that_an_ordered_dictionary_of_bounded_size_would(
    batches: list[list[list[int]]], asked: list[list[int]], capacity: int
) -> None:
    history, held = KeyHistory(capacity=capacity), OrderedDict[int, list[int]]()
    for number, chains in enumerate(batches):
        lengths = 1 + 10 * number + np.arange(len(chains))
        history.add(columns_of(chains), lengths)
        for chain, length in zip(chains, lengths.tolist(), strict=True):
            add_plainly(held, chain, length, capacity)
    assert history.finished == sum(map(len, batches))
    found = history.look_up(columns_of(asked), len(asked))
    for chain, (count, mean, _) in zip(asked, found.tolist(), strict=True):
        known = next((held[block] for block in reversed(chain) if block in held), [])
        assert count == len(known)
        assert mean == pytest.approx(np.mean(known) if known else np.nan, nan_ok=True)


def test_columns_with_gaps_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"session holds .* without gaps"):
        KeyHistory(capacity=8).look_up({"session": np.array(["a", None])}, 2)
