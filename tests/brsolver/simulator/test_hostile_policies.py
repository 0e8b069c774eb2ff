"""A policy cannot write into the engine's books, whatever it does to what it is given."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver import BRH, BRHParams, SimulationParams, Trace, make_policy, simulate
from brsolver.errors import PolicyError
from brsolver.simulator import Arrivals, Staleness

CAPACITY = 1200


def random_trace(seed, count=80):
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(20, 400, count), output_tokens=rng.integers(1, 60, count)
    )


def vandalise(array, kept):
    """Write into an array now, try to write into whatever it is a part of, and keep it."""
    while array is not None:
        kept.append(array)
        if isinstance(array, np.ndarray):
            array.flags.writeable = True
            array[...] = -7
        array = getattr(array, "base", None)


class Vandal:
    """Decides as another does, and then writes into everything it was given."""

    def __init__(self, inner):
        self.inner = inner
        self.horizon = inner.horizon
        self.kept = []

    def route(self, cluster, waiting):
        # What was given for earlier decisions is written to before this one.
        kept, self.kept = self.kept, []
        for array in kept:
            if isinstance(array, np.ndarray) and array.base is None and array.size < 16:
                array[...] = 3
        pairs = np.array(self.inner.route(cluster, waiting), np.int64).reshape(-1, 2)
        projected = cluster.projection(self.horizon) if self.horizon else cluster.load
        active = cluster.active()
        given = (waiting.prompt_tokens, waiting.request, waiting.since, cluster.table, projected)
        for array in (*given, *(getattr(active, field.name) for field in fields(active))):
            vandalise(array, self.kept)
        cluster.step, cluster.clock_s, cluster.trust = 10**6, -1.0, -5.0
        return pairs


def logs_of(result):
    logs = (result.requests, result.steps, result.samples)
    return {
        f"{type(log).__name__}.{field.name}": getattr(log, field.name)
        for log in logs
        for field in fields(log)
    }


REGIMES = st.sampled_from(
    [
        {},
        {"capacity": CAPACITY},
        {"routing": "immediate", "capacity": CAPACITY},
        {"staleness": Staleness(steps=3, local_correction=True)},
        {"arrivals": Arrivals(mode="utilization", utilization=0.9), "transit_steps": 1},
    ]
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), REGIMES, st.sampled_from(["jsq-load", "br-0", "br-h", "br-ramp"]))
def test_vandals_change_nothing(seed, regime, name):
    trace, params = random_trace(seed), SimulationParams(workers=3, slots=4, **regime)

    def fresh():
        if name == "br-h":
            return BRH(BRHParams(horizon=6, projection="expected"))
        return make_policy(name)

    plain = logs_of(simulate(trace, fresh(), params))
    vandalised = logs_of(simulate(trace, Vandal(fresh()), params))
    for part, expected in plain.items():
        np.testing.assert_array_equal(vandalised[part], expected, err_msg=part)


class SortsInPlace:
    """First come first served as it believes, having sorted the requests by size in place."""

    def route(self, cluster, waiting):
        waiting.prompt_tokens.sort()
        pairs, room, left = [], cluster.room.copy(), cluster.token_room.copy()
        for i, tokens in enumerate(waiting.prompt_tokens):
            fits = np.flatnonzero((room > 0) & (left >= tokens))
            if fits.size:
                pairs.append((i, int(fits[0])))
                room[fits[0]] -= 1
                left[fits[0]] -= tokens
        return pairs


def test_who_sorts_the_requests_in_place_is_refused():
    """It once ran loads of 1,804 KV tokens against a capacity of 1,200, unreported."""
    trace = Trace(prompt_tokens=np.array([900, 880, 40, 30]), output_tokens=np.full(4, 9))
    params = SimulationParams(workers=1, slots=4, capacity=CAPACITY)
    with pytest.raises(PolicyError, match="more KV tokens than its capacity"):
        simulate(trace, SortsInPlace(), params)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["pooled", "immediate"]))
def test_no_load_is_beyond_the_capacity(seed, routing):
    class Liar:
        """Fills every slot, having made all requests small and all workers large."""

        def route(self, cluster, waiting):
            slots = [g for g in range(cluster.workers) for _ in range(cluster.room[g])]
            waiting.prompt_tokens[:] = 1
            cluster.token_room[:] = 10**6
            cluster.room[:] = 10**3
            return list(enumerate(slots[: len(waiting)]))

    params = SimulationParams(workers=2, slots=5, capacity=CAPACITY, routing=routing)
    try:
        result = simulate(random_trace(seed), Liar(), params)
    except PolicyError as error:
        assert "more KV tokens" in str(error)  # noqa: PT017 # either is right
    else:
        assert result.steps.load_max.max() <= CAPACITY
