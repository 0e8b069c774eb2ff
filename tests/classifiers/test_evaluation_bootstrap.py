"""Block bootstrap: what is drawn, and what it is for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from classifiers.evaluation.bootstrap import (
    block_length,
    block_weights,
    percentile_interval,
)


@given(st.integers(1, 300), st.integers(0, 1000))
def test_weights_are_blocks_of_consecutive_requests(requests: int, seed: int) -> None:
    (weights,) = block_weights(requests, 1, np.random.default_rng(seed))
    block = block_length(requests)
    blocks = -(-requests // block)
    expected = np.zeros(requests, int)
    for first in np.random.default_rng(seed).integers(requests, size=blocks):
        expected[(first + np.arange(block)) % requests] += 1
    assert weights.tolist() == expected.tolist()


def test_every_request_counts_once_on_average() -> None:
    drawn = np.array(list(block_weights(95, 4000, np.random.default_rng(0))))
    per_replicate = drawn.sum(axis=1)
    assert set(per_replicate.tolist()) == {100}
    assert np.abs(drawn.mean(axis=0) - 100 / 95).max() < 0.1


def test_blocks_see_that_neighbours_are_alike() -> None:
    # Twenty runs of fifty equal values are twenty observations, not a thousand.
    values = np.repeat(np.random.default_rng(0).normal(size=20), 50)
    rng = np.random.default_rng(1)
    blocked = [w @ values / w.sum() for w in block_weights(1000, 400, rng)]
    single = [values[rng.integers(1000, size=1000)].mean() for _ in range(400)]
    wide, narrow = percentile_interval(blocked), percentile_interval(single)
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert narrow.low < values.mean() < narrow.high


def test_an_undefined_replicate_leaves_no_interval() -> None:
    assert percentile_interval([0.1, float("nan"), 0.2]) is None
    assert percentile_interval([]) is None
    assert percentile_interval([0.5, 0.5]) == (0.5, 0.5)
