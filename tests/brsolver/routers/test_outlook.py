"""BR-T by loads to come: which of them count, by how much, and what that changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wave_cases import COSTS, ranks, waiting_of

from brsolver.cluster.view import LOAD, ClusterView
from brsolver.errors import ParameterError
from brsolver.routers import BRT, BRRamp, BRTParams
from brsolver.routers._discounting import Turnover
from brsolver.routers._outlook import Outlook
from brsolver.wiring import read_policy, read_predictor, wire

GROWTHS = ("ramp", "survival")


def seen(table, ahead, *, trust=1.0, costs=COSTS, asked=None):
    """A view whose loads will be those of `ahead`, shape (G, H + 1)."""

    def projection(horizon, growth, survival):
        if asked is not None:
            asked.append((horizon, growth, survival))
        return np.array(ahead, np.int64)[:, : horizon + 1]

    return ClusterView(
        table,
        projection=projection,
        active=lambda: None,
        costs=costs,
        trust=trust,
    )


def turnover_of(steps):
    found = Turnover(prior_steps=0.0)
    found.look(0, 1, 1000)
    found.look(steps * 100, 1, 900)
    return found


@given(st.integers(0, 200), st.integers(1, 500), st.floats(0.0, 1.0))
def test_what_a_load_weighs_until_a_departure_is_spread_over_the_steps(horizon, steps, trust):
    turnover, table = turnover_of(steps), ranks((1, 0), (2, 0))
    view = seen(table, np.ones((2, 201)), trust=trust)
    loads, seconds = Outlook(horizon).seconds(view, COSTS, turnover)
    assert loads.shape == ((2, horizon + 1) if horizon else (2,))
    assert seconds.shape == (horizon + 2,)
    assert seconds[0] == COSTS.per_prefill_token_s
    whole_s = COSTS.per_kv_token_s * turnover.steps_between
    assert seconds[1:].sum() == pytest.approx(whole_s)
    assert (np.diff(seconds[1:]) <= 0).all()
    # No belief in forecasts: the present alone.
    _, present = Outlook(horizon).seconds(
        seen(table, np.ones((2, 201)), trust=0.0), COSTS, turnover
    )
    assert present[1] == pytest.approx(whole_s)


def test_a_step_counts_by_the_chance_that_nothing_has_departed_by_then():
    weights = Outlook(9).weights(turnover_of(5), 1.0)
    rate = 1 / turnover_of(5).steps_between
    assert weights[1:] / weights[:-1] == pytest.approx(np.exp(-rate))
    assert Outlook(9).weights(turnover_of(5), 0.5)[1:] / weights[1:] == pytest.approx(
        0.5 ** np.arange(1, 10) * Outlook(9).weights(turnover_of(5), 0.5)[0] / weights[0]
    )


def chosen(growth, view, prompts=(10,)):
    policy = BRT(BRTParams(growth=growth, horizon=20, kappa=0.0))
    return policy.route(view, waiting_of(list(prompts))).tolist()


def test_a_load_that_will_soon_be_gone_is_taken_for_less():
    table = ranks((2, 0), (2, 0))
    table[LOAD] = 1_010, 1_000
    ahead = [[1_010] + [10] * 20, [1_000] * 21]
    assert chosen("ramp", seen(table, ahead)) == [[0, 1]]
    assert chosen("survival", seen(table, ahead)) == [[0, 0]]
    # By forecasts that deserve no belief it stays.
    assert chosen("survival", seen(table, ahead, trust=0.0)) == [[0, 1]]


def test_forecasts_are_asked_for_with_growth_where_prompts_are_computed_and_without_elsewhere():
    table, asked = ranks((2, 0), (2, 0)), []
    ahead = np.ones((2, 21), np.int64)
    for growth in GROWTHS:
        chosen(growth, seen(table, ahead, asked=asked))
        chosen(growth, seen(table, ahead, asked=asked, costs=None))
    assert asked == [(20, True, True), (20, False, True)]


def test_elsewhere_br_ramp_goes_by_the_mean_of_loads_to_come():
    table = ranks((2, 0), (2, 0), (1, 0))
    ahead = np.array([[100, 10, 10], [90, 90, 90], [95, 80, 0]])
    outlook = Outlook(2)
    weights = outlook.weights(turnover_of(5), 1.0)
    found = outlook.expected(seen(table, ahead), turnover_of(5))
    assert found.table[LOAD].tolist() == np.rint(ahead @ weights).astype(int).tolist()
    # All else is as it was, and the view itself too.
    assert np.array_equal(np.delete(found.table, LOAD, 0), np.delete(table, LOAD, 0))
    assert table[LOAD].tolist() == [20, 20, 10]
    policy = BRT(BRTParams(growth="survival", horizon=2))
    view = seen(table, ahead, costs=None)
    expected = policy._outlook.expected(view, policy._turnover)
    waiting = waiting_of([30, 20])
    assert policy.route(view, waiting).tolist() == BRRamp().route(expected, waiting).tolist()


@pytest.mark.parametrize(
    ("growth", "horizon", "used"), [("ramp", 0, "none"), ("survival", 33, "survival")]
)
def test_a_predictor_is_kept_for_survival_alone(growth, horizon, used):
    parts = wire(read_policy(f"br-t:growth={growth},horizon=33"), read_predictor(None), seed=0)
    assert parts.policy.horizon == horizon
    assert parts.predictor_name == used


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"growth": "exact"}, "growth is 'exact', must be ramp or survival"),
        ({"horizon": 0}, "horizon is 0, must be"),
        ({"horizon": 10**6}, "horizon is 1000000, must be"),
    ],
)
def test_what_cannot_be_is_refused(given, told):
    with pytest.raises(ParameterError, match=told):
        BRTParams(**given)
