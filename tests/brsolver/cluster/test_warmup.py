"""The miniature that compiles whatever a session needs."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from brsolver import BRH, BRHParams
from brsolver.cluster.forecasting import RequestColumns
from brsolver.cluster.warmup import IDENTITIES, warm_up
from brsolver.policy import as_policy
from brsolver.predictors import BasePredictor, Forecast
from brsolver.registry import PolicySpec, PredictorSpec, policy_names
from brsolver.wiring import warmed_up_with, wire

WITH_SOLVERS = {"milp-step", "lp-round", "local-search"}


class Counting:
    """Places the first request where there is room, and knows how often it was asked."""

    def __init__(self):
        self.asked = []

    def route(self, cluster, _waiting):
        self.asked.append(cluster.immediate)
        return [(0, int(np.argmax(cluster.room)))]


class Locked(BasePredictor):
    """Cannot be copied."""

    def __init__(self):
        self.lock = threading.Lock()
        self.asked = 0

    def predict(self, query, horizon):
        self.asked += 1
        return Forecast(
            p_finish=np.zeros(len(query)), mu_remaining=np.ones(len(query)), horizon=horizon
        )


@pytest.mark.parametrize("name", sorted({*policy_names()} - WITH_SOLVERS))
@pytest.mark.parametrize("predictor", ["survival", "exact", "none"])
def test_what_is_warmed_up_notices_nothing(name, predictor):
    if name in {"phi", "fast-phi"} and predictor != "survival":
        pytest.skip("asks the predictor for a survival table")
    parts = wire(PolicySpec.of(name, {}), PredictorSpec.of(predictor, {}), seed=3)
    drawn = [each.bit_generator.state for each in _generators(parts.policy)]
    table = None if parts.predictor is None else parts.predictor.table
    columns = RequestColumns(
        max_tokens=np.full(IDENTITIES, 9),
        keys={"prompt_hash": np.zeros(IDENTITIES, np.int64)},
    )
    warm_up(parts.policy, parts.predictor, refresh_steps=4, columns=columns)
    assert [each.bit_generator.state for each in _generators(parts.policy)] == drawn
    if parts.predictor is not None:
        assert parts.predictor.table is table


def _generators(policy):
    held = getattr(policy, "__dict__", {}).values()
    return [each for each in held if isinstance(each, np.random.Generator)]


def test_the_policy_itself_is_not_asked():
    plain = Counting()
    warm_up(as_policy(plain), None, refresh_steps=1)
    assert plain.asked == []


def test_who_cannot_be_copied_is_left_alone():
    predictor = Locked()
    warm_up(as_policy(BRH(BRHParams(horizon=4))), predictor, refresh_steps=2)
    assert predictor.asked == 0


def test_who_cannot_be_copied_is_made_anew_where_that_can_be_done():
    predictor, spare = Locked(), Locked()
    policy = as_policy(BRH(BRHParams(horizon=4, projection="expected")))
    warm_up(policy, predictor, refresh_steps=2, anew=lambda: (policy, spare))
    assert (predictor.asked, spare.asked > 0) == (0, True)


def test_br0_is_warmed_up_with_in_place_of_a_stranger(monkeypatch):
    spec = PolicySpec.of("jsq-load", {})
    made = spec.make()
    assert warmed_up_with(spec, made) is made
    monkeypatch.setattr(PolicySpec, "ours", False)
    assert type(warmed_up_with(spec, made)).__name__ == "BR0"
