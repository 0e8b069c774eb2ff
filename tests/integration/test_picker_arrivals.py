"""Whether pins are kept, told by what came to each rank: what is found, and what is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arriving import Server, Traffic
from hypothesis import given, settings
from hypothesis import strategies as st

from integration.picker.arrivals import ASTRAY, REQUESTS, TELLINGS, Arrivals, Told

LONG = 300
"""Tellings of a run in which nothing may be found: five minutes at one a second."""
SOON = 240
"""Tellings within which ignored pins must be found."""
TROUBLE = {
    "none": {},
    "clients leave": {"leave": 0.3},
    "clients read slowly": {"slow": 0.3},
    "clients leave and read slowly": {"leave": 0.2, "slow": 0.2},
    "others send as much": {"others": 1.0},
    "others send a little, and leave": {"others": 0.1, "leave": 0.3},
    "not all is counted": {"short": 0.2},
    "polls take longer than their interval": {"late_s": 1.4},
    "requests are long on their way": {"transit_s": 0.9},
}
SIGHTED = ("none", "clients read slowly", "requests are long on their way")
"""Of these, those that leave ignored pins to be seen."""


def drawn(seed, *, kept, **more):
    """Return traffic of some shape."""
    rng = np.random.default_rng([seed, 7])
    shape = {
        "ranks": int(rng.choice([2, 4, 8])),
        "slots": int(rng.choice([2, 4, 8])),
        "rate": float(rng.choice([0.3, 0.8, 1.5])),
        "spread": float(rng.choice([0.2, 0.7, 1.2])),
    }
    return Traffic(kept=kept, **shape, **more)


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_where_pins_are_kept(seed, trouble):
    server = Server(drawn(seed, kept=True, **TROUBLE[trouble]), seed).run(LONG)
    assert not server.found
    assert server.tellings == LONG
    assert server.sent > 2 * REQUESTS


@pytest.mark.parametrize("trouble", SIGHTED)
@pytest.mark.parametrize("seed", range(6))
def test_ignored_pins_are_found_before_full_slots(seed, trouble):
    traffic = replace(drawn(seed, kept=False, **TROUBLE[trouble]), rate=1.5)
    server = Server(traffic, seed).run(SOON)
    assert server.found, server.sent
    # As many are missing as there are too many, but for what is not certain.
    assert min(server.found.values()) < 0 < max(server.found.values())


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    ranks=st.integers(2, 4),
    most=st.integers(1, 9),
    others=st.sampled_from([0, 0, 2]),
    lost=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_no_telling_that_keeps_to_the_bounds_is_taken_for_ignored_pins(
    seed, ranks, most, others, lost
):
    rng = np.random.default_rng(seed)
    arrivals = Arrivals()
    # By rank, of the telling before the last, the last, and this one.
    sent, gone = (np.zeros((3, ranks), int) for _ in "12")
    more = np.zeros(ranks, int)
    for _ in range(20 * TELLINGS):
        sent = np.vstack([sent[1:], sent[-1] + rng.integers(0, most, ranks, endpoint=True)])
        gone = np.vstack([gone[1:], gone[-1] + rng.binomial(sent[-1] - sent[-2], lost)])
        more += rng.integers(0, others, ranks, endpoint=True)
        came = rng.integers(sent[0], sent[2], endpoint=True)
        out = rng.integers(gone[0], gone[2], endpoint=True)
        for rank in range(ranks):
            present = int(came[rank] - out[rank] + more[rank]) + 100
            told = Told(present, 0, int(sent[2, rank]), int(gone[2, rank]))
            assert not arrivals.told(rank, told, range(ranks))


def told_of(arrivals, came, sent):
    """Let as much time pass as a block takes, and these have come and been sent by its end."""
    found = {}
    for _ in range(TELLINGS + 2):
        for rank in range(len(sent)):
            told = Told(0, came[rank], sent[rank], 0)
            found = arrivals.told(rank, told, range(len(sent))) or found
    return found


@pytest.mark.parametrize(
    ("astray", "reported"),
    [
        ((ASTRAY, -ASTRAY), True),
        ((ASTRAY - 1, 1 - ASTRAY), False),
        ((ASTRAY, ASTRAY), False),
        ((-ASTRAY, -ASTRAY), False),
        ((2 * ASTRAY, -ASTRAY), True),
        ((2 * ASTRAY + 1, -ASTRAY), False),
        ((ASTRAY, -2 * ASTRAY - 1), False),
    ],
)
def test_as_many_must_be_missing_as_there_are_too_many(astray, reported):
    arrivals, found = Arrivals(), {}
    for turn in range(1, 12):
        sent = turn * REQUESTS
        came = [sent + (each if turn > 4 else 0) for each in astray]
        found = told_of(arrivals, came, [sent] * len(astray)) or found
    assert bool(found) is reported
    if reported:
        assert found == dict(enumerate(astray))


def test_one_block_alone_reports_nothing():
    arrivals = Arrivals()
    for turn in range(1, 12):
        sent = turn * REQUESTS
        odd = ASTRAY if turn % 4 == 0 else 0
        assert not told_of(arrivals, [sent + odd, sent - odd], [sent] * 2)


def test_a_server_that_began_anew_has_no_past():
    arrivals, found = Arrivals(), {}
    for turn in range(1, 12):
        sent = turn * REQUESTS
        came = [sent, sent] if turn < 5 else [sent - 4 * REQUESTS + 9, sent - 4 * REQUESTS - 9]
        found = told_of(arrivals, came, [sent] * 2) or found
    assert not found
