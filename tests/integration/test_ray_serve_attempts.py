"""Requests at replicas of Ray Serve: each ends once, in whatever order completions come."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray.serve", reason="Ray Serve is not installed")

from integration.fronts import Seat
from integration.ray_serve.attempts import Attempts


class Pending:
    """A request of the library's."""


def test_a_completion_of_what_was_turned_away_ends_nobody_else():
    attempts = Attempts[Pending]()
    pending = Pending()
    attempts.begin(pending, "r", Seat("first", "w"))
    turned = attempts.turned_away(pending)
    assert turned is not None
    assert turned.seat.name == "first"
    attempts.begin(pending, "r", Seat("second", "w"), rejections=1)
    assert attempts.completed("w", "r") is None
    found = attempts.completed("w", "r")
    assert found is not None
    assert (found.seat.name, found.rejections) == ("second", 1)
    assert len(attempts) == 0
    assert attempts.completed("w", "r") is None


def test_what_was_accepted_is_over_when_its_result_says_so():
    attempts = Attempts[Pending]()
    pending = Pending()
    attempts.begin(pending, "r", Seat("first", "w"))
    found = attempts.accepted(pending)
    assert found is not None
    assert attempts.turned_away(pending) is None
    assert attempts.completed("w", "r") is None
    assert attempts.over(found)
    assert not attempts.over(found)
    assert attempts.accepted(pending) is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.lists(st.integers(0, 1), min_size=1, max_size=4),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_each_ends_once_whatever_the_order(given_requests, random):
    """Requests, some of one call, each turned away by some replicas before the last takes it."""
    attempts = Attempts[Pending]()
    ended: Counter[str] = Counter()
    begun = 0
    late: list[tuple[str, str, object]] = []
    for number, (call, replicas, accepts) in enumerate(given_requests):
        pending, request = Pending(), f"call-{call}"
        for at, replica in enumerate(replicas):
            begun += 1
            attempts.begin(pending, request, Seat(f"{number}-{at}", f"w{replica}"), rejections=at)
            if at < len(replicas) - 1:
                turned = attempts.turned_away(pending)
                ended[turned.seat.name] += 1
                late.append((f"w{replica}", request, None))
        attempt = attempts.accepted(pending) if accepts else None
        late.append((f"w{replicas[-1]}", request, attempt))
    random.shuffle(late)
    for replica, request, attempt in late:
        found = attempts.completed(replica, request)
        if found is not None:
            ended[found.seat.name] += 1
        if attempt is not None and attempts.over(attempt):
            ended[attempt.seat.name] += 1
    assert len(attempts) == 0
    assert len(ended) == begun
    assert set(ended.values()) == {1}
    assert not attempts._at
    assert not +attempts._owed
