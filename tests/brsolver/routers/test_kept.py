"""Shares of promises kept, as br-t weighs a first token against times per token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.routers._kept import Kept

PROMISED_S = 0.05


def watched(durations, *, length=10.0, idle=()):
    """What is known after steps that last so long."""
    kept, clock_s = Kept(), 0.0
    for step, lasts in enumerate((*durations, 0.0)):
        now = {"length": length, "promised_s": PROMISED_S, "idle": step in idle}
        kept.look(step, clock_s, **now)
        clock_s += lasts
    return kept


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0), max_size=100),
    st.lists(st.lists(st.booleans(), min_size=1, max_size=9), max_size=20),
    st.floats(0.0, 1e6),
)
def test_shares_are_shares_and_their_exchange_is_bounded(durations, releases, length):
    kept = watched(durations, length=length)
    for late in releases:
        kept.release(np.array(late))
    assert 0.0 <= kept.token <= 1.0
    assert 0.0 <= kept.first <= 1.0
    assert 0.02 <= kept.exchange <= 50.0


def test_long_steps_lower_the_share_of_times_per_token_and_short_ones_raise_it_again():
    assert watched([0.04] * 300).token == 1.0
    assert watched([0.06] * 300).token < 0.05
    assert watched([0.06] * 300 + [0.04] * 300).token > 0.9


def test_a_time_per_token_is_that_of_as_many_steps_as_a_request_takes():
    # Every tenth step is long: a request of ten steps keeps its promise, one of three does not.
    steps = ([0.02] * 9 + [0.2]) * 40
    assert watched(steps, length=10.0).token == 1.0
    assert watched(steps, length=3.0).token < 0.9


def test_times_are_none_before_requests_could_have_ended():
    assert watched([9.0] * 25, length=400.0).token == 1.0
    assert watched([9.0] * 8, length=10.0).token == 1.0


def test_time_in_which_nothing_ran_counts_for_no_request():
    steps = [0.04] * 40 + [3600.0] + [0.04] * 40
    assert watched(steps, idle={41}).token == 1.0
    assert watched(steps).token < 1.0


def test_a_release_in_time_raises_the_share_of_first_tokens():
    kept = Kept()
    kept.release(np.ones(50, np.bool_))
    assert kept.first == pytest.approx(np.exp(-1))
    kept.release(np.zeros(50, np.bool_))
    assert kept.first == pytest.approx(1 - np.exp(-1) + np.exp(-2))
