"""Which predictor goes with which policy: one rule for every front."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from brsolver import BR0, BRH
from brsolver.errors import ParameterError, UnknownNameError
from brsolver.policy import BasePolicy, PlainPolicy
from brsolver.registry import PolicySpec, PredictorSpec
from brsolver.wiring import read_policy, read_predictor, wire


def parts_of(policy, predictor="survival", **context):
    return wire(read_policy(policy), read_predictor(predictor), seed=3, **context)


@pytest.mark.parametrize(
    ("policy", "predictor", "used", "name"),
    [
        ("br-h", "survival", True, "survival"),
        ("br-h:horizon=0", "survival", False, "none"),
        ("br-0", "survival", False, "none"),
        ("br-h", "none", False, "none"),
        ("phi", "survival", True, "survival"),
    ],
)
def test_forecasts_are_kept_for_who_uses_them(policy, predictor, used, name):
    parts = parts_of(policy, predictor)
    assert (parts.predictor is not None) == used
    assert parts.predictor_name == name
    assert parts.policy_name == policy
    assert (parts.made is None) == (predictor == "none")


def test_who_asks_a_predictor_is_made_from_the_one_that_is_kept_up_to_date():
    parts = parts_of("phi")
    assert parts.policy.predictor is parts.predictor


def test_objects_are_taken_as_they_are():
    class Plain:
        def route(self, cluster, waiting):
            return []

    router = BRH()
    assert parts_of(router).policy is router
    plain = parts_of(Plain())
    assert isinstance(plain.policy, PlainPolicy)
    assert plain.policy_name == "Plain"
    assert plain.predictor is None


def test_a_predictor_is_told_the_horizon_of_the_router_that_was_made():
    told = {}

    class Ahead(BasePolicy):
        def __init__(self):
            self.horizon = 7

        def route(self, cluster, waiting):
            return []

    lengths = np.array([5, 6])

    class Told(type(parts_of("br-h").predictor)):
        def __init__(self, *, horizons, output_tokens):
            super().__init__()
            told["horizons"], told["lengths"] = horizons, output_tokens

    spec = PredictorSpec.parse("survival")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brsolver.registry.predictor_class", lambda _: Told)
        wire(Ahead(), PredictorSpec(name=spec.name, text=spec.text), seed=0, output_tokens=lengths)
    assert told == {"horizons": [7], "lengths": lengths}


@pytest.mark.parametrize(
    ("spec", "horizon"),
    [("br-h", 80), ("br-h:horizon=12", 12), ("br-0", 0), ("phi:horizon=9", 0), ("bf-io", 20)],
)
def test_a_specification_tells_its_horizon_before_anything_is_made(spec, horizon):
    assert PolicySpec.parse(spec).horizon == horizon


def test_settings_fill_what_a_specification_leaves_open():
    spec = PolicySpec.parse("br-h: gamma=0.5").set_where_free({"gamma": 0.9, "horizon": 12, "k": 1})
    assert (spec.params.gamma, spec.params.horizon) == (0.5, 12)
    assert spec.text == "br-h:gamma=0.5,horizon=12"
    same = PolicySpec.parse("br-0")
    assert same.set_where_free({"gamma": 0.9}) is same


def test_specifications_are_compared_by_meaning_and_travel_between_processes():
    one, other = (
        PolicySpec.parse("br-h:horizon=10,beta=1"),
        PolicySpec.parse("br-h:beta=1,horizon=1e1"),
    )
    assert one.meaning == other.meaning
    assert one.meaning != PolicySpec.parse("br-h:horizon=10").meaning
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 # what was pickled here
    assert isinstance(pickle.loads(pickle.dumps(PolicySpec.parse("br-0"))).make(), BR0)  # noqa: S301


@pytest.mark.parametrize(
    ("policy", "error", "words"),
    [
        ("br-x", UnknownNameError, "unknown policy 'br-x'"),
        ("br-h:horizon=-1", ParameterError, "horizon is -1, must be"),
        ("jsq:k=1", UnknownNameError, "unknown parameter of jsq 'k'"),
        (3, ParameterError, "policy is int, must be a name or an object with route()"),
    ],
)
def test_bad_policies_are_refused_when_they_are_read(policy, error, words):
    with pytest.raises(error) as caught:
        read_policy(policy)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("predictor", "trained"),
    [("none", False), ("oracle", False), ("survival", True), ("exact", True)],
)
def test_predictors_say_whether_a_trace_trains_them(predictor, trained):
    assert PredictorSpec.parse(predictor).trained == trained


def stranger(monkeypatch, kind):
    monkeypatch.setattr("brsolver.registry.policy_class", lambda _: kind)
    return PolicySpec.of("odd", {})


def test_a_strangers_constructor_gets_what_was_given_and_nothing_else(monkeypatch):
    class Odd:
        def __init__(self, rng="its own"):
            self.rng = rng

        def route(self, cluster, waiting):
            return []

    spec = stranger(monkeypatch, Odd)
    assert spec.make(clients=3).rng == "its own"
    assert spec.make(rng=7).rng == 7


def test_a_stranger_is_asked_for_its_horizon(monkeypatch):
    class Odd:
        def __init__(self):
            self.horizon = 12

        def route(self, cluster, waiting):
            return []

    assert stranger(monkeypatch, Odd).horizon == 12


def test_a_policy_is_given_the_plain_predictor_itself(monkeypatch):
    class Plain:
        def predict(self, query, horizon):
            raise AssertionError

    class Odd:
        def __init__(self, predictor):
            self.predictor = predictor

        def route(self, cluster, waiting):
            return []

    plain = Plain()
    parts = wire(stranger(monkeypatch, Odd), read_predictor(plain), seed=0)
    assert parts.policy.plain.predictor is plain
    assert parts.predictor.plain is plain


def test_specifications_travel_whatever_their_parameters_are_made_of(monkeypatch):
    params = dataclasses.make_dataclass("Hidden", [("depth", int, 3)], frozen=True, kw_only=True)

    class Odd:
        Params = params

        def __init__(self, params):
            self.params = params

        def route(self, cluster, waiting):
            return []

    monkeypatch.setattr("brsolver.registry.policy_class", lambda _: Odd)
    spec = PolicySpec.parse("odd:depth=5")
    again = pickle.loads(pickle.dumps(spec))  # noqa: S301 # what was pickled here
    assert (again.params.depth, again.text, again.meaning) == (5, "odd:depth=5", spec.meaning)
