"""The best run in hindsight: the simulator takes as long for it, nothing takes less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import bench_holding
from benchmarks._holding_optimum import AsGiven, Small, best_run
from benchmarks.bench_holding import GOALS, Family, measured, seconds_of
from brsolver import BasePolicy
from brsolver.hardware.step_time import StepTime

MODELS = (
    StepTime(model="loads", base=1.0, per_token=0.01, per_prefill_token=0.5),
    StepTime(
        model="loads", base=0.1, per_sequence=0.2, per_prefill_token=0.3, per_mean_prefill_token=0.3
    ),
    StepTime(model="loads", base=1.0, per_prefill_token=0.1, per_prefill_context=0.02),
)


class AtRandom(BasePolicy):
    """Releases whom it likes, to whom it likes; all it can where nothing runs."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def route(self, cluster, waiting):
        room, found = cluster.room.copy(), []
        idle = not (cluster.running.any() or cluster.queued.any())
        for i in self.rng.permutation(len(waiting)).tolist():
            g = int(self.rng.integers(cluster.workers))
            if room[g] > 0 and (idle or self.rng.random() < 0.5):
                room[g] -= 1
                found.append((i, g))
        return found


@st.composite
def smalls(draw):
    count = draw(st.integers(1, 4))
    numbers = st.integers(1, 5)
    return Small(
        prompts=tuple(draw(st.lists(numbers, min_size=count, max_size=count))),
        outputs=tuple(draw(st.lists(numbers, min_size=count, max_size=count))),
        workers=draw(st.integers(1, 3)),
        slots=draw(st.integers(1, 2)),
        budget=draw(st.integers(3, 6)),
        step_time=draw(st.sampled_from(MODELS)),
    )


@settings(max_examples=60, deadline=None)
@given(smalls(), st.integers(0, 2**32 - 1))
def test_the_best_run_takes_as_long_in_the_simulator_and_nothing_less(small, seed):
    others = [seconds_of(small, policy) for policy in (AtRandom(seed), "br-t", "br-0")]
    for goal in GOALS:
        best = best_run(small, goal)
        assert seconds_of(small, AsGiven(best.given))[goal] == pytest.approx(best.seconds)
        assert best.seconds <= min(other[goal] for other in others) * (1 + 1e-12)


@settings(max_examples=30, deadline=None)
@given(smalls())
def test_the_way_ahead_is_never_rated_dearer_than_it_is(small):
    """A* needs that; with no rating at all the same best is found."""

    class Unrated(Small):
        __slots__ = ()

        def least_s(self, state, goal):
            return 0.0

    names = ("prompts", "outputs", "workers", "slots", "budget", "step_time")
    unrated = Unrated(**{name: getattr(small, name) for name in names})
    for goal in GOALS:
        assert best_run(unrated, goal).seconds == pytest.approx(best_run(small, goal).seconds)


def test_no_best_run_is_shorter_than_the_bound():
    for seed in range(4):
        found = measured(Family(workers=2, slots=1, requests=4, prefill=4.0).instance(seed))
        assert found.bound_s <= found.best["run"] * (1 + 1e-12)
        assert min(own["run"] for own in found.own.values()) >= found.best["run"] * (1 - 1e-12)


def test_tables_are_printed(monkeypatch, capsys):
    families = (Family(workers=2, slots=1, requests=3, prefill=4.0),)
    monkeypatch.setattr(bench_holding, "FAMILIES", families)
    bench_holding.main(["--instances", "2"])
    printed = capsys.readouterr().out
    assert printed.count("| 2 | 1 | 3 | 4 steps |") == 3
    assert "`br-t`, all 2:" in printed
