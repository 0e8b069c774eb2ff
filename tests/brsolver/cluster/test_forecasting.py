"""Forecasts between predictors, state and projections."""

import numpy as np
import pytest

from brsolver.cluster.forecasting import Forecaster, RequestColumns
from brsolver.cluster.state import ClusterState
from brsolver.cluster.view import Waiting
from brsolver.errors import ParameterError, StateError
from brsolver.predictors import Forecast
from brsolver.routers import BRH, BRHParams


class Expecting:
    """Forecasts the same contribution for all, and records what it was asked."""

    def __init__(self, contribution):
        self.contribution = contribution
        self.asked = []

    def predict(self, query, horizon):
        self.asked.append(query)
        count = query.age.size
        return Forecast(
            p_finish=np.ones(count),
            mu_remaining=np.full(count, float(self.contribution)),
            horizon=horizon,
        )


class Curves:
    """Every request survives each step with probability 1/2."""

    def predict(self, query, horizon):
        raise AssertionError("survival projections ask for curves")

    def survival(self, query, horizon):
        return np.tile(0.5 ** np.arange(horizon + 1), (query.age.size, 1))


class Table:
    """``P(O > a)`` of outputs 2 and 4, equally likely."""

    table = np.array([1.0, 1.0, 0.5, 0.5, 0.0])

    def predict(self, query, horizon):
        raise AssertionError("survival projections ask for the table")


def state_of(*prompts, horizon=4):
    state = ClusterState([4], horizon=horizon, refresh_steps=8)
    for serial, prompt in enumerate(prompts):
        state.admit(serial, 0, prompt)
    return state


@pytest.mark.parametrize(
    ("contribution", "expected"),
    [(2, [10, 10, 0, 0, 0]), (1.2, [10, 10, 0, 0, 0]), (4, [10] * 5), (0, [10, 0, 0, 0, 0])],
)
def test_expected_contributions_are_hard_ends(contribution, expected):
    state = state_of(10)
    forecaster = Forecaster(Expecting(contribution), horizon=4, refresh_steps=8)
    forecaster.update(state, state.handles(), step=0)
    assert state.projection(4).tolist() == [expected]


def test_forecasts_age_between_refreshes_and_are_renewed_by_them():
    state = state_of(10)
    predictor = Expecting(3)
    forecaster = Forecaster(predictor, horizon=4, refresh_steps=8)
    forecaster.update(state, state.handles(), step=0)
    state.advance(2)
    forecaster.update(state, state.handles()[:0], step=2)
    assert len(predictor.asked) == 1
    assert state.projection(4).tolist() == [[12, 0, 0, 0, 0]]
    state.advance(6)
    forecaster.update(state, state.handles()[:0], step=8)
    assert predictor.asked[1].age.tolist() == [8]
    assert state.projection(4).tolist() == [[18, 18, 18, 0, 0]]


def test_limits_reach_the_predictor_by_request():
    state = state_of(10, 20)
    predictor = Expecting(1)
    limits = np.array([7, 9])
    Forecaster(
        predictor, horizon=4, refresh_steps=8, columns=RequestColumns(max_tokens=limits)
    ).update(state, state.handles(), step=0)
    assert predictor.asked[0].max_tokens.tolist() == [7, 9]


@pytest.mark.parametrize("growth", [False, True])
def test_survival_projection_weighs_by_probability(growth):
    state = state_of(100, 60)
    forecaster = Forecaster(Curves(), horizon=4, refresh_steps=8)
    projected = forecaster.project(state, 4, growth, True)
    ahead = np.arange(5) * int(growth)
    expected = (160 + 2 * ahead) * 0.5 ** np.arange(5)
    assert projected.tolist() == [np.rint(expected).astype(int).tolist()]


@pytest.mark.parametrize("each", [0, 13])
@pytest.mark.parametrize("growth", [False, True])
def test_table_kernel_equals_the_formula(growth, each):
    rng = np.random.default_rng(5)
    state = ClusterState([6, 6], horizon=5, refresh_steps=8, request_tokens=each)
    for serial in range(9):
        state.admit(serial, serial % 2, int(rng.integers(1, 90)), generated=int(rng.integers(0, 4)))
    state.enqueue(1, 17)
    forecaster = Forecaster(Table(), horizon=5, refresh_steps=8)
    table = Table.table
    expected = np.zeros((2, 6))
    for worker, _, _, kv, age in state.describe(state.handles()).T.tolist():
        for h in range(6):
            later = table[min(age + h, 4)]
            load = kv + each + h * int(growth)
            expected[worker, h] += load * later / table[min(age, 4)]
    expected[1] += 17 + each
    off = np.abs(forecaster.project(state, 5, growth, True) - expected)
    assert off.max() <= 0.5 + 1e-9


@pytest.mark.parametrize("each", [0, 13])
@pytest.mark.parametrize("growth", [False, True])
def test_table_kernel_ends_requests_at_their_own_limits(growth, each):
    rng = np.random.default_rng(6)
    state = ClusterState([8, 8], horizon=5, refresh_steps=8, request_tokens=each)
    limits = rng.integers(1, 12, 14)
    for serial in range(14):
        state.admit(serial, serial % 2, int(rng.integers(1, 90)), generated=int(rng.integers(0, 6)))
    columns = RequestColumns(max_tokens=limits)
    forecaster = Forecaster(Table(), horizon=5, refresh_steps=8, columns=columns)
    table = Table.table
    expected = np.zeros((2, 6))
    for worker, serial, _, kv, age in state.describe(state.handles()).T.tolist():
        for h in range(min(6, max(1, int(limits[serial]) - age))):
            now, later = table[min(age, 4)], table[min(age + h, 4)]
            stays = later / now if now > 0 else 1.0
            expected[worker, h] += (kv + each + h * int(growth)) * stays
    off = np.abs(forecaster.project(state, 5, growth, True) - expected)
    assert off.max() <= 0.5 + 1e-9


def test_predictors_without_curves_are_refused():
    forecaster = Forecaster(Expecting(1), horizon=4, refresh_steps=8)
    with pytest.raises(ParameterError, match="Expecting has no survival curve"):
        forecaster.project(state_of(5), 4, False, True)


def test_a_bare_state_has_no_survival_projection():
    waiting = Waiting(np.array([5]), np.array([0]))
    with pytest.raises(StateError, match="needs a predictor"):
        BRH(BRHParams(horizon=4, projection="survival", guard=False)).route(
            state_of(5).view(), waiting
        )


def test_known_lengths_need_no_survival_curve():
    class Known:
        lengths = np.array([2])

        def predict(self, query, horizon):
            raise AssertionError("lengths are known")

    state = state_of(10)
    forecaster = Forecaster(Known(), horizon=4, refresh_steps=8)
    forecaster.update(state, state.handles(), step=0)
    assert forecaster.project(state, 4, False, True).tolist() == [[10, 10, 0, 0, 0]]


class Weibull:
    """Curves that bend, so that ageing them wrongly shows; counts how often it is asked."""

    def __init__(self):
        self.asked = []

    def predict(self, query, horizon):
        return Forecast(
            p_finish=np.zeros(len(query)), mu_remaining=np.ones(len(query)), horizon=horizon
        )

    def survival(self, query, horizon):
        self.asked.append((query.age.tolist(), horizon))
        ahead = query.age[:, None] + np.arange(horizon + 1)
        return np.exp(-((ahead / 20.0) ** 2) + (query.age[:, None] / 20.0) ** 2)


def expected_loads(state, growth):
    projected = np.zeros((2, 5))
    for worker, _, _, kv, age in state.describe(state.handles()).T.tolist():
        h = np.arange(5)
        stays = np.exp(-(((age + h) / 20.0) ** 2) + (age / 20.0) ** 2)
        projected[worker] += (kv + h * int(growth)) * stays
    projected[1] += 17
    return projected


@pytest.mark.parametrize("growth", [False, True])
def test_curves_age_exactly_and_are_drawn_at_refreshes_only(growth):
    rng = np.random.default_rng(2)
    state = ClusterState([7, 7], horizon=4, refresh_steps=8)
    for serial in range(11):
        state.admit(serial, serial % 2, int(rng.integers(1, 90)), generated=int(rng.integers(0, 9)))
    state.enqueue(1, 17)
    predictor = Weibull()
    forecaster = Forecaster(predictor, horizon=4, refresh_steps=8)
    forecaster.update(state, state.handles(), step=0)
    for step in range(12):
        off = np.abs(forecaster.project(state, 4, growth, True) - expected_loads(state, growth))
        assert off.max() <= 0.5 + 1e-9
        state.advance()
        new = [state.admit(99, 0, 33)] if step == 2 else []
        forecaster.update(state, np.array(new, np.int64), step=step + 1)
    assert [len(ages) for ages, _ in predictor.asked] == [11, 1, 12]
    assert {horizon for _, horizon in predictor.asked} == {12}


def test_requests_without_a_curve_yet_stay():
    state = state_of(10)
    forecaster = Forecaster(Weibull(), horizon=4, refresh_steps=8)
    forecaster.update(state, state.handles(), step=0)
    forecaster.project(state, 4, False, True)
    for serial in range(1, 40):
        state.finish(state.handles()[0])
        state.add_worker(3)
        state.admit(serial, serial, 100)
    assert forecaster.project(state, 4, False, True)[39].tolist() == [100] * 5


def test_a_snapshot_does_not_take_another_requests_curve():
    state = state_of(10)
    snapshot = state.copy()
    forecaster = Forecaster(Weibull(), horizon=4, refresh_steps=8)
    forecaster.update(state, state.handles(), step=0)
    forecaster.project(state, 4, False, True)
    (handle,) = state.handles()
    state.finish(handle)
    assert state.admit(7, 0, 33, generated=30) == handle
    forecaster.update(state, state.handles(), step=1)
    assert forecaster.project(snapshot, 4, False, True).tolist() == [[10] * 5]
    assert forecaster.project(state, 4, False, True)[0, 4] < 63


class Both:
    """Ends and curves of the same geometric lengths; counts how often it is asked for each."""

    def __init__(self):
        self.ends, self.curves, self.told = [], [], []

    def look_ahead(self, horizon):
        self.told.append(horizon)

    def predict(self, query, horizon):
        self.ends.append(len(query))
        stays = 0.9 ** np.arange(horizon)
        return Forecast(
            p_finish=np.ones(len(query)),
            mu_remaining=np.full(len(query), stays.sum()) - query.age / 50,
            horizon=horizon,
        )

    def survival(self, query, horizon):
        self.curves.append(len(query))
        return np.tile(0.9 ** np.arange(horizon + 1), (len(query), 1))


def test_only_what_is_projected_is_forecast_from_the_next_refresh_on():
    state = state_of(10, 20)
    predictor = Both()
    forecaster = Forecaster(predictor, horizon=4, refresh_steps=8)
    forecaster.update(state, state.handles(), step=0)
    for step in range(1, 25):
        forecaster.project(state, 4, False, True)
        state.advance()
        new = [state.admit(9, 0, 33)] if step in (3, 12) else []
        forecaster.update(state, np.array(new, np.int64), step=step)
    assert predictor.ends == [2, 1]
    assert predictor.curves == [2, 1, 3, 1, 4, 4]


def test_idle_refreshes_do_not_change_what_is_forecast():
    state = state_of(10, 20)
    predictor = Both()
    forecaster = Forecaster(predictor, horizon=4, refresh_steps=8)
    forecaster.update(state, state.handles(), step=0)
    forecaster.project(state, 4, False, True)
    for step in range(8, 48, 8):
        forecaster.update(state, state.handles()[:0], step=step)
    assert predictor.ends == [2]


def test_ends_are_forecast_again_once_they_are_projected_again():
    state, always = state_of(10, 20), state_of(10, 20)
    predictor = Both()
    forecaster = Forecaster(predictor, horizon=4, refresh_steps=8)
    other = Forecaster(Both(), horizon=4, refresh_steps=8)
    for step in range(28):
        for each, own in ((state, forecaster), (always, other)):
            new = [each.admit(9, 0, 33)] if step == 19 else []
            own.update(each, np.array(new, np.int64), step=step)
        if step < 16:
            forecaster.project(state, 4, False, True)
        else:
            expected = other.project(always, 4, False, False)
            assert forecaster.project(state, 4, False, False).tolist() == expected.tolist()
        state.advance()
        always.advance()
    # Before anything is asked for, when ends are, with what is new, and at the refresh.
    assert predictor.ends == [2, 2, 1, 3]


def test_routers_that_ask_for_both_get_one_forecast_of_ends_per_refresh():
    state = state_of(10, 20)
    predictor = Both()
    forecaster = Forecaster(predictor, horizon=4, refresh_steps=8)
    for step in range(32):
        forecaster.update(state, state.handles()[:0], step=step)
        forecaster.project(state, 4, False, step % 2 == 0)
        state.advance()
    assert predictor.ends == [2] * 4


def test_predictors_are_told_the_routers_horizon_if_it_has_one():
    predictor = Both()
    Forecaster(predictor, horizon=4, refresh_steps=8)
    Forecaster(predictor, horizon=0, refresh_steps=8)
    assert predictor.told == [4]
