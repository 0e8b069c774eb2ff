"""What is recorded is what a router would have been told, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver.errors import ParameterError
from brsolver.predictors import FinishedRequests, Forecast, ForecastQuery
from brsolver.simulator import SimulationParams
from brsolver.traces import load_trace
from classifiers.evaluation.climatology import ClimatologyPredictor
from classifiers.evaluation.samples import Samples, collect
from classifiers.oracle import OraclePredictor
from classifiers.survival import SurvivalPredictor

if TYPE_CHECKING:
    from brsolver.traces.trace import Trace

H = 20
CLUSTER = SimulationParams(workers=2, slots=8, refresh_steps=8, seed=3)


@pytest.fixture
def trace() -> Trace:
    return load_trace("preset:chat:n=300,output_median=40,output_max=200,seed=5")


class Witness:
    """Refuses to be asked about, or told of, what it cannot know yet."""

    def __init__(self, output_tokens: np.ndarray) -> None:
        self._output_tokens = output_tokens
        self._gone: set[int] = set()
        self.asked = 0
        self.running: list[int] = []

    def observe(self, finished: FinishedRequests) -> None:
        assert (finished.output_tokens == self._output_tokens[finished.request]).all()
        assert not self._gone.intersection(finished.request.tolist())
        self._gone.update(finished.request.tolist())

    def set_running(self, query: ForecastQuery) -> None:
        assert not self._gone.intersection(query.request.tolist())
        self.running.append(len(query))

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        assert not self._gone.intersection(query.request.tolist())
        assert (query.age < self._output_tokens[query.request]).all()
        self.asked += len(query)
        stay = np.zeros(len(query))
        return Forecast(p_finish=stay, mu_remaining=stay + horizon, horizon=horizon)


def recorded(trace: Trace, *, max_samples: int = 10**9) -> Samples:
    oracle = OraclePredictor(output_tokens=trace.output_tokens)
    return collect(trace, {"oracle": oracle}, horizon=H, params=CLUSTER, max_samples=max_samples)


def test_nothing_is_told_before_it_has_happened(trace: Trace) -> None:
    witness = Witness(trace.output_tokens)
    samples = collect(trace, {"witness": witness}, horizon=H, params=CLUSTER, max_samples=10**9)
    assert len(samples) == witness.asked
    assert max(witness.running) > CLUSTER.workers


def test_outcomes_are_the_true_remaining_lengths(trace: Trace) -> None:
    samples = recorded(trace)
    assert (samples.remaining == trace.output_tokens[samples.request] - samples.age).all()
    assert samples.remaining.min() >= 1
    assert (samples.told["oracle"].p_finish == samples.ends).all()
    # All but those that ended before the next decision, or began with the last one.
    assert np.unique(samples.request).size > 0.9 * len(trace)
    assert len(samples) > 1.5 * len(trace)


def test_a_predictor_is_told_the_same_whoever_listens_with_it(trace: Trace) -> None:
    alone = collect(trace, {"survival": SurvivalPredictor()}, horizon=H, params=CLUSTER)
    others = {
        "survival": SurvivalPredictor(),
        "climatology": ClimatologyPredictor(trace, horizon=H, refresh_steps=8),
    }
    together = collect(trace, others, horizon=H, params=CLUSTER)
    assert (alone.request == together.request).all()
    assert (alone.told["survival"].p_finish == together.told["survival"].p_finish).all()
    assert (alone.told["survival"].survival == together.told["survival"].survival).all()


def test_thinning_keeps_about_as_many_as_asked_for_of_all_ages(trace: Trace) -> None:
    whole, thin = recorded(trace), recorded(trace, max_samples=400)
    assert 250 < len(thin) < 500
    assert abs(thin.ends.mean() - whole.ends.mean()) < 0.1
    pairs = set(zip(whole.request.tolist(), whole.age.tolist(), strict=True))
    assert pairs.issuperset(zip(thin.request.tolist(), thin.age.tolist(), strict=True))


def test_samples_whose_limit_is_within_the_horizon_are_left_out(trace: Trace) -> None:
    limits = np.full(len(trace), 60)
    cut = replace(
        trace,
        output_tokens=np.minimum(trace.output_tokens, 60),
        columns={"max_tokens": limits},
    )
    samples = recorded(cut)
    assert samples.unknown > 0
    assert (samples.age + H < 60).all()
    assert samples.told["oracle"].p_finish.size == len(samples)


def test_a_limit_below_the_horizon_leaves_nothing_to_judge(trace: Trace) -> None:
    cut = replace(
        trace,
        output_tokens=np.minimum(trace.output_tokens, 15),
        columns={"max_tokens": np.full(len(trace), 15)},
    )
    with pytest.raises(ParameterError, match="max_tokens cuts every request sooner"):
        recorded(cut)
    with pytest.raises(ParameterError, match="max_tokens cuts every request sooner"):
        ClimatologyPredictor(cut, horizon=H, refresh_steps=8)


@pytest.mark.parametrize(("horizon", "most"), [(0, 10), (-1, 10), (5, 0)])
def test_what_cannot_be_judged_is_refused(trace: Trace, horizon: int, most: int) -> None:
    with pytest.raises(ParameterError, match="must be at least 1"):
        collect(trace, {}, horizon=horizon, max_samples=most)


def test_climatology_is_the_base_rate_of_the_past(trace: Trace) -> None:
    predictor = ClimatologyPredictor(trace, horizon=H, refresh_steps=1)
    # Asked at every step, a request of length o has o - 1 samples after the admission's.
    remaining = np.concatenate([np.append(np.arange(1, o), o) for o in trace.output_tokens])
    within = remaining[remaining <= H]
    assert predictor.p_finish == pytest.approx(within.size / remaining.size)
    assert predictor.mu_remaining == pytest.approx(within.mean())
    query = ForecastQuery(
        request=np.arange(3), age=np.array([0, 5, 99]), prompt_tokens=np.full(3, 7)
    )
    curve = predictor.survival(query, H)
    assert curve[0] == pytest.approx([(remaining > h).mean() for h in range(H + 1)])
    assert (predictor.predict(query, H).p_finish == predictor.p_finish).all()
    with pytest.raises(ParameterError, match="horizon is 21, must be 20"):
        predictor.predict(query, H + 1)


def test_climatology_is_cut_at_limits(trace: Trace) -> None:
    predictor = ClimatologyPredictor(trace, horizon=H, refresh_steps=8)
    query = ForecastQuery(
        request=np.arange(2),
        age=np.array([0, 90]),
        prompt_tokens=np.full(2, 7),
        max_tokens=np.array([100, 100]),
    )
    assert predictor.predict(query, H).p_finish.tolist() == [predictor.p_finish, 1.0]
    curve = predictor.survival(query, H)
    assert (curve[1, 10:] == 0).all()
    assert (curve[1, :10] == curve[0, :10]).all()
    assert (curve[0] > 0).all()
