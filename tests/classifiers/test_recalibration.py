"""The shift of log odds that follows outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from brsolver.predictors import Forecast, ForecastQuery
from classifiers._recalibration import Recalibration
from classifiers.guard import GuardedPredictor, GuardParams

PROBABILITIES = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=60)


@given(PROBABILITIES, st.randoms(use_true_random=False))
def test_shift_minimises_the_penalised_loss(p: list[float], random) -> None:  # type: ignore[no-untyped-def] # of hypothesis
    happened = np.array([random.random() < 0.5 for _ in p])
    found = Recalibration(memory=20, variance=0.5)
    found.learn(np.array(p), happened)
    weights = 0.5 ** (np.arange(len(p))[::-1] / 20)
    odds = logit(np.array(p))

    def loss(b: float) -> float:
        chance = expit(odds + b)
        return float(-(weights @ np.log(np.where(happened, chance, 1 - chance))) + b * b)

    best = minimize_scalar(loss, bounds=(-20, 20), method="bounded", options={"xatol": 1e-9})
    assert found.shift == pytest.approx(best.x, abs=1e-4)


def test_bias_is_removed_and_ranking_kept() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.05, 0.95, 4000)
    biased = expit(logit(truth) + 1.0)
    calibration = Recalibration()
    calibration.learn(biased, rng.random(4000) < truth)
    mended = calibration.apply(biased)
    assert abs(mended - truth).mean() < 0.03 < abs(biased - truth).mean()
    assert (np.argsort(mended) == np.argsort(biased)).all()


def test_what_is_certain_stays_certain() -> None:
    calibration = Recalibration()
    calibration.learn(np.full(200, 0.5), np.ones(200, bool))
    assert calibration.apply(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert calibration.exponents(np.array([0.0, 1.0])).tolist() == [1.0, 1.0]


@given(PROBABILITIES)
def test_exponents_make_curves_end_where_forecasts_do(p: list[float]) -> None:
    calibration = Recalibration()
    calibration.learn(np.full(50, 0.3), np.arange(50) % 2 == 0)
    told = np.array(p)
    shifted = 1 - (1 - told) ** calibration.exponents(told)
    assert shifted == pytest.approx(calibration.apply(told), abs=1e-9)


def test_little_is_learnt_from_little() -> None:
    calibration = Recalibration()
    calibration.learn(np.array([0.2]), np.array([True]))
    assert 0 < calibration.shift < 0.1


def test_memory_is_a_window() -> None:
    calibration = Recalibration(window=100, memory=30)
    calibration.learn(np.full(5000, 0.5), np.ones(5000, bool))
    calibration.learn(np.full(100, 0.5), np.zeros(100, bool))
    assert calibration._odds.shape == (100,)
    assert calibration.shift < 0


class Optimist:
    """Expects every request to end with probability 0.9, by curves that agree."""

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        return Forecast(
            p_finish=np.full(len(query), 0.9),
            mu_remaining=np.full(len(query), horizon / 2),
            horizon=horizon,
        )

    def survival(self, query: ForecastQuery, horizon: int) -> np.ndarray:
        return np.tile(0.1 ** (np.arange(horizon + 1) / 80), (len(query), 1))


@pytest.mark.parametrize("recalibrate", [True, False])
def test_a_guard_shifts_forecasts_and_curves_alike(recalibrate: bool) -> None:
    guard = GuardedPredictor(Optimist(), GuardParams(recalibrate=recalibrate))
    request, age = np.arange(100), np.zeros(100, np.int64)
    for _ in range(12):
        query = ForecastQuery(request=request, age=age, prompt_tokens=np.ones(100, np.int64))
        guard.set_running(query)
        age = age + 40
    p = guard.predict(query, 80).p_finish
    assert (p < 0.5).all() if recalibrate else (p == 0.9).all()
    curves = guard.survival(query, 112)
    assert 1 - curves[:, 80] == pytest.approx(p)
    assert (np.diff(curves, axis=1) < 0).all()
    assert (curves[:, 0] == 1).all()
