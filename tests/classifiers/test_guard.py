"""The guard: what it scores, when it withdraws forecasts, and when they come back."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from brsolver import SimulationParams, Trace, simulate
from brsolver.errors import ParameterError
from brsolver.predictors import BasePredictor, FinishedRequests, Forecast, ForecastQuery, Predictor
from brsolver.stand_ins import PlainPredictor
from classifiers.guard import GuardedPredictor, GuardParams, subset
from classifiers.survival import SurvivalParams, SurvivalPredictor

HORIZON = 80
EVERY = 32


class Biased(BasePredictor):
    """Tells the truth, or its opposite, about requests whose lengths it is given."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.known = lengths
        self.lies = False

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        ends = self.known[query.request] - query.age <= horizon
        told = ends ^ self.lies
        return Forecast(
            p_finish=np.where(told, 0.9, 0.1),
            mu_remaining=np.full(len(query), horizon / 2),
            horizon=horizon,
        )


class Replay:
    """Feeds a guard with `slots` running requests, refreshed every `EVERY` steps."""

    def __init__(self, guard: GuardedPredictor, lengths: np.ndarray, slots: int = 40) -> None:
        self.guard = guard
        self.lengths = lengths
        self.next = slots
        self.request = np.arange(slots)
        self.age = np.zeros(slots, np.int64)

    def refresh(self, count: int = 1) -> None:
        for _ in range(count):
            self.guard.set_running(query_of(self.request, self.age))
            self.age = self.age + EVERY
            over = self.age >= self.lengths[self.request]
            self.guard.observe(finished_of(self.request[over], self.lengths))
            fresh = np.arange(self.next, self.next + over.sum())
            self.next += fresh.shape[0]
            self.request = np.concatenate((self.request[~over], fresh))
            self.age = np.concatenate((self.age[~over], np.zeros(fresh.shape[0], np.int64)))


def query_of(request: np.ndarray, age: np.ndarray) -> ForecastQuery:
    return ForecastQuery(request=request, age=age, prompt_tokens=np.ones_like(age))


def finished_of(
    request: np.ndarray, lengths: np.ndarray, max_tokens: np.ndarray | None = None
) -> FinishedRequests:
    output = lengths[request]
    cut = np.zeros(request.shape[0], bool) if max_tokens is None else output >= max_tokens
    return FinishedRequests(
        request=request,
        prompt_tokens=np.ones_like(output),
        output_tokens=output,
        censored=cut,
        max_tokens=max_tokens,
    )


@pytest.fixture
def replay() -> Replay:
    lengths = np.random.default_rng(1).integers(20, 400, 4000)
    return Replay(GuardedPredictor(Biased(lengths)), lengths)


def test_it_is_a_predictor(replay: Replay) -> None:
    assert isinstance(replay.guard, Predictor)


def test_a_plain_object_can_be_guarded() -> None:
    trace = doubling_trace(0)
    frozen = Frozen(trace)
    guard = GuardedPredictor(frozen)
    assert isinstance(guard.base, PlainPredictor)
    assert guard.base.plain is frozen
    assert guard.learns
    assert not guard.has_survival
    with pytest.raises(ParameterError, match="Frozen has no survival curve"):
        guard.survival(query_of(np.arange(2), np.arange(2)), 5)
    with pytest.raises(ParameterError, match="predictor is int"):
        GuardedPredictor(3)  # type: ignore[arg-type]


def test_good_forecasts_are_never_withdrawn(replay: Replay) -> None:
    replay.refresh(60)
    assert replay.guard.brier == pytest.approx(0.01)
    assert replay.guard.brier_survival > 0.1
    assert replay.guard.trust == 1
    assert not replay.guard.notes()


def test_bad_forecasts_are_withdrawn_step_by_step_and_come_back(
    replay: Replay, caplog: pytest.LogCaptureFixture
) -> None:
    base = replay.guard.base
    assert isinstance(base, Biased)
    replay.refresh(20)
    base.lies = True
    with caplog.at_level(logging.INFO, logger="classifiers.guard"):
        replay.refresh(20)
    assert [s.after for s in replay.guard.switches] == [0.5, 0.0]
    base.lies = False
    replay.refresh(60)
    assert [s.after for s in replay.guard.switches] == [0.5, 0.0, 0.5, 1.0]
    assert replay.guard.trust == 1
    assert "trust in forecasts 1.0 -> 0.5" in caplog.text
    assert "changes of trust in the forecasts: 4" in replay.guard.notes()[0]


def test_alarms_at_a_runs_end_alone_are_not_told() -> None:
    rng = np.random.default_rng(4)
    lengths = np.concatenate((rng.integers(20, 400, 4000), np.full(700, 390)))
    guard = GuardedPredictor(Biased(lengths))
    replay = Replay(guard, lengths)
    while replay.next < 4600:
        replay.refresh()
    assert guard.drift.drifted
    assert not guard.notes()


def test_changes_keep_their_distance(replay: Replay) -> None:
    assert isinstance(replay.guard.base, Biased)
    replay.guard.base.lies = True
    replay.refresh(30)
    at = [switch.refresh for switch in replay.guard.switches]
    assert min(np.diff(at)) >= replay.guard.guard.rest


def test_watching_alone_withdraws_nothing() -> None:
    lengths = np.random.default_rng(1).integers(20, 400, 4000)
    guard = GuardedPredictor(Biased(lengths), GuardParams(withdraw=False))
    assert isinstance(guard.base, Biased)
    guard.base.lies = True
    Replay(guard, lengths).refresh(30)
    assert guard.brier > guard.brier_survival
    assert guard.trust == 1


def test_score_waits_for_forecasts_that_do_not_come_true() -> None:
    """Ends are known first: scoring them at once would flatter whoever expects ends."""
    lengths = np.array([10, 500])
    guard = GuardedPredictor(Biased(lengths))
    guard.set_running(query_of(np.array([0, 1]), np.array([0, 0])))
    guard.observe(finished_of(np.array([0]), lengths))
    guard.set_running(query_of(np.array([1]), np.array([EVERY])))
    assert np.isnan(guard.brier)
    guard.set_running(query_of(np.array([1]), np.array([HORIZON])))
    assert guard.brier == pytest.approx(0.01)


def test_cancelled_requests_decide_nothing_and_cut_ones_do() -> None:
    lengths = np.array([10, 20, 30])
    limits = np.array([1000, 20, 1000])
    guard = GuardedPredictor(Biased(lengths))
    guard.set_running(query_of(np.arange(3), np.zeros(3, np.int64)))
    ended = finished_of(np.arange(3), lengths, limits)
    ended.censored[0] = True
    guard.observe(ended)
    scores = next(guard._pending.decided()).scores()
    assert scores[0].shape == (2,)


def test_pending_forecasts_are_bounded() -> None:
    """Requests that never progress must not pile forecasts up."""
    guard = GuardedPredictor(Biased(np.full(8, 10**6)))
    for _ in range(500):
        guard.set_running(query_of(np.arange(8), np.zeros(8, np.int64)))
    assert len(guard._pending._batches) <= 66


def test_sampling_bounds_a_refresh_and_leaves_nobody_out() -> None:
    lengths = np.full(1000, 10**6)
    guard = GuardedPredictor(Biased(lengths), GuardParams(sample=100))
    seen: set[int] = set()
    for _ in range(10):
        guard.set_running(query_of(np.arange(1000), np.zeros(1000, np.int64)))
        batch = guard._pending._batches[-1]
        assert batch.request.shape[0] <= 100
        seen.update(batch.request.tolist())
    assert len(seen) == 1000


def test_a_subset_keeps_limits_and_keys() -> None:
    query = ForecastQuery(
        request=np.array([7, 8, 9]),
        age=np.array([1, 2, 3]),
        prompt_tokens=np.array([4, 5, 6]),
        max_tokens=np.array([10, 20, 30]),
        keys={
            "session": np.array([1, 2, 3]),
            "hash_offsets": np.array([0, 1, 3, 4]),
            "hash_values": np.array([11, 12, 13, 14]),
        },
    )
    part = subset(query, np.array([1, 2]))
    assert part.request.tolist() == [8, 9]
    assert part.max_tokens is not None
    assert part.max_tokens.tolist() == [20, 30]
    assert part.keys["session"].tolist() == [2, 3]
    assert part.keys["hash_offsets"].tolist() == [0, 2, 3]
    assert part.keys["hash_values"].tolist() == [12, 13, 14]


class Frozen:
    """Survival as learned from the first fifth of a trace, and never again."""

    def __init__(self, trace: Trace) -> None:
        self._learned = SurvivalPredictor(SurvivalParams(train=0.2), trace=trace)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        return self._learned.predict(query, horizon)


def doubling_trace(seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    outputs = rng.gamma(4, 150 / 4, 6000).astype(int) + 1
    outputs[3000:] *= 2
    return Trace(prompt_tokens=rng.integers(50, 4000, 6000), output_tokens=outputs)


def test_when_lengths_double_withdrawal_bounds_the_harm() -> None:
    """[BR]'s projection, lengths doubling half-way: the issue's drift experiment."""
    params = SimulationParams(workers=8, slots=64)
    policy = "br-h:projection=expected,gamma=0.86"
    ratios = []
    for seed in range(6):
        trace = doubling_trace(seed)
        guard = GuardedPredictor(Frozen(trace))
        without, believed, guarded = (
            simulate(trace, name, params, predictor=source).metrics.avg_imbalance_sum
            for name, source in (("br-0", None), (policy, Frozen(trace)), (policy, guard))
        )
        ratios.append((believed / without, guarded / without))
        first = guard.switches[0]
        # Requests that started before the change are still to end when it comes.
        assert 3000 - 512 < first.finished < 3000 + 700
        assert guard.trust == 0
        assert guard.drift.drifted
        assert "recent output lengths differed" in guard.notes()[-1]
    believed, guarded = np.mean(ratios, axis=0)
    assert believed > 1.02
    assert guarded <= 1.02


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": (1.0, 1.0, 0.0)}, "levels"),
        ({"levels": (1.0, 0.5)}, "levels"),
        ({"margin": -0.1}, "margin"),
        ({"certainty": float("nan")}, "certainty"),
        ({"memory": 0.5}, "memory"),
        ({"sample": 0}, "sample"),
    ],
)
def test_parameters_are_checked(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        GuardParams(**wrong)  # type: ignore[arg-type]
