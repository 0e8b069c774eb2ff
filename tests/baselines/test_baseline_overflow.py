"""Φ and Fast-Φ against their formulae in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from baseline_views import Worker, finished, pairs_of, place, view_of, waiting_of
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.fast_phi import FastPhi, FastPhiParams
from baselines.phi import Phi, PhiParams
from brsolver.errors import ParameterError
from classifiers.oracle import OraclePredictor

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Waiting
    from brsolver.predictors import Forecast, ForecastQuery, Predictor

Active = list[tuple[int, int, int]]
Sum = Callable[[Callable[[int], float], list[float]], float]


class Table:
    """A predictor of which only the survival table is asked for."""

    def __init__(self, values: list[float]) -> None:
        self.table = np.array(values)

    def predict(self, query: object, horizon: int) -> None:
        raise AssertionError


def predictor_of(values: list[float]) -> Predictor:
    return Table(values)  # type: ignore[return-value]


def survives(table: list[float], age: int, h: int) -> float:
    now, then = (table[min(a, len(table) - 1)] for a in (age, age + h))
    return then / now if now else 1.0


def exact_sum(f: Callable[[int], float], table: list[float]) -> float:
    return sum(f(h) for h in range(len(table)) if table[h] > 0)


def trapezoid_sum(points: int) -> Sum:
    def total(f: Callable[[int], float], table: list[float]) -> float:
        levels = [j / (points - 1) for j in range(points)]
        last = len(table) - 1
        at = [next((a for a, p in enumerate(table) if p <= 1 - v), last) for v in levels]
        at = sorted(set(at))
        if len(at) == 1:
            return f(at[0])
        pieces = ((b - a + 1) * (f(a) + f(b)) / 2 for a, b in pairwise(at))
        return sum(pieces) - sum(f(h) for h in at[1:-1])

    return total


def expected(
    view: ClusterView, waiting: Waiting, active: Active, table: list[float], total: Sum
) -> list[tuple[int, int]]:
    """Place requests by least ΔΦ, then load, then index, as the formula has it."""
    each = view.request_tokens
    queued = [int(load) for load in view.load]
    for g, kv, _ in active:
        queued[g] -= kv + each
    requests = [(g, kv + each, age) for g, kv, age in active]

    def load(g: int, h: int) -> float:
        return queued[g] + sum(
            (held + h) * survives(table, age, h) for w, held, age in requests if w == g
        )

    def phi(g: int, tokens: int) -> float:
        def summand(h: int) -> float:
            margin = max(load(w, h) for w in range(view.workers)) - load(g, h)
            return survives(table, 0, h) * max(0.0, tokens + h - margin)

        return total(summand, table)

    def choose(workers: list[Worker], k: int) -> Worker:
        tokens = int(waiting.prompt_tokens[k]) + each
        best = min(workers, key=lambda w: (phi(w.index, tokens), w.load))
        requests.append((best.index, tokens, 0))
        return best

    return place(view, waiting, choose)


@st.composite
def tables(draw: st.DrawFn) -> list[float]:
    # Powers of two keep every sum exact, so that ties are ties in both computations.
    halvings = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), max_size=9))
    values = [1.0]
    for halving in halvings:
        values.append(values[-1] / 2**halving)
    return [*values, 0.0] if draw(st.booleans()) else values


@st.composite
def cases(draw: st.DrawFn) -> tuple[ClusterView, Waiting, Active]:
    workers = draw(st.integers(1, 4))
    request = st.tuples(st.integers(0, workers - 1), st.integers(1, 20), st.integers(0, 12))
    active = sorted(draw(st.lists(request, max_size=8)))
    each = draw(st.sampled_from([0, 0, 4]))
    columns = []
    for g in range(workers):
        queued = draw(st.sampled_from([0, 0, 7]))
        load = (queued and queued + each) + sum(kv + each for w, kv, _ in active if w == g)
        columns.append(Worker(g, load=load, room=draw(st.integers(0, 2))))
    waiting = waiting_of(draw(st.lists(st.integers(1, 20), min_size=1, max_size=5)))
    return view_of(columns, active=active, request_tokens=each), waiting, active


@given(case=cases(), table=tables())
@settings(deadline=None)
def test_phi_follows_its_formula(
    case: tuple[ClusterView, Waiting, Active], table: list[float]
) -> None:
    view, waiting, active = case
    found = pairs_of(Phi(predictor=predictor_of(table)).route(view, waiting))
    assert found == expected(view, waiting, active, table, exact_sum)


@pytest.mark.parametrize("k", [2, 3, 5])
@given(case=cases(), table=tables())
@settings(deadline=None)
def test_fast_phi_follows_its_formula(
    k: int, case: tuple[ClusterView, Waiting, Active], table: list[float]
) -> None:
    view, waiting, active = case
    policy = FastPhi(FastPhiParams(k=k), predictor=predictor_of(table))
    found = pairs_of(policy.route(view, waiting))
    assert found == expected(view, waiting, active, table, trapezoid_sum(k))


@given(case=cases())
@settings(deadline=None)
def test_fast_phi_with_every_step_among_its_points_is_phi(
    case: tuple[ClusterView, Waiting, Active],
) -> None:
    view, waiting, _ = case
    predictor = predictor_of([1 - a / 8 for a in range(9)])
    fast = FastPhi(FastPhiParams(k=9), predictor=predictor)
    assert pairs_of(fast.route(view, waiting)) == pairs_of(
        Phi(predictor=predictor).route(view, waiting)
    )


def test_the_points_of_fast_phi_are_quantiles_and_weigh_as_much_as_the_steps_they_stand_for() -> (
    None
):
    points, weights = FastPhi(predictor=predictor_of([1.0]))._make_grid(
        np.array([1 - a / 100 for a in range(101)])
    )
    assert points.tolist() == [0, 25, 50, 75, 100]
    assert weights.tolist() == [13.0, 25.0, 25.0, 25.0, 13.0]


def test_a_margin_that_opens_soon_attracts_a_request() -> None:
    # Worker 0 is lighter now, worker 1 as soon as its old request has ended.
    active = [(0, 50, 0), (1, 60, 8), (2, 100, 0)]
    view = view_of(
        [Worker(0, load=50, room=1), Worker(1, load=60, room=1), Worker(2, load=100)], active=active
    )
    policy = Phi(predictor=predictor_of([1.0] * 9 + [0.5**a for a in range(6, 16)]))
    assert pairs_of(policy.route(view, waiting_of([60]))) == [(0, 1)]


def test_a_horizon_of_one_step_does_not_look_past_it() -> None:
    active = [(0, 50, 0), (1, 60, 8), (2, 100, 0)]
    view = view_of(
        [Worker(0, load=50, room=1), Worker(1, load=60, room=1), Worker(2, load=100)], active=active
    )
    predictor = predictor_of([1.0] * 10 + [0.0])
    short, full = (Phi(PhiParams(horizon=h), predictor=predictor) for h in (1, 0))
    assert pairs_of(short.route(view, waiting_of([60]))) == [(0, 0)]
    assert pairs_of(full.route(view, waiting_of([60]))) == [(0, 1)]


@pytest.mark.parametrize("make", [Phi, FastPhi])
def test_no_overflow_anywhere_sends_to_the_lowest_load(
    make: Callable[..., Phi | FastPhi],
) -> None:
    loads = [30, 20, 20, 500]
    view = view_of(
        [Worker(g, load=load, room=1) for g, load in enumerate(loads)],
        active=[(g, load, 0) for g, load in enumerate(loads)],
    )
    policy = make(predictor=predictor_of([1.0, 0.5, 0.0]))
    assert pairs_of(policy.route(view, waiting_of([10]))) == [(0, 1)]


@pytest.mark.parametrize("make", [Phi, FastPhi])
def test_decisions_follow_the_predictor_as_it_learns(
    make: Callable[..., Phi | FastPhi],
) -> None:
    view = view_of(
        [Worker(0, load=40, room=1), Worker(1, load=50, room=1), Worker(2, load=100)],
        active=[(0, 40, 0), (1, 50, 8), (2, 100, 0)],
    )
    policy = make()
    waiting = waiting_of([60])
    assert pairs_of(policy.route(view, waiting)) == [(0, 0)]
    policy.predictor.observe(finished(range(1, 10)))  # type: ignore[attr-defined]
    assert pairs_of(policy.route(view, waiting)) == [(0, 1)]


@pytest.mark.parametrize("make", [Phi, FastPhi])
def test_a_predictor_without_survival_table_is_refused(
    make: Callable[..., Phi | FastPhi],
) -> None:
    class Bare:
        def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
            raise AssertionError("never asked")

    with pytest.raises(
        ParameterError, match="predictor is Bare, must be one with a survival table"
    ):
        make(predictor=Bare())


@pytest.mark.parametrize("make", [Phi, FastPhi])
def test_an_oracle_serves_the_distribution_of_the_trace(
    make: Callable[..., Phi | FastPhi],
) -> None:
    policy = make(predictor=OraclePredictor(output_tokens=np.arange(1, 10)))
    view = view_of([Worker(0, load=40, room=1), Worker(1, load=50, room=1)])
    assert pairs_of(policy.route(view, waiting_of([60]))) == [(0, 0)]


@pytest.mark.parametrize("horizon", [-1, 4097])
def test_a_horizon_out_of_range_is_refused(horizon: int) -> None:
    with pytest.raises(ParameterError, match=f"horizon is {horizon}"):
        PhiParams(horizon=horizon)


def test_a_single_point_is_refused() -> None:
    with pytest.raises(ParameterError, match="k is 1"):
        FastPhiParams(k=1)
