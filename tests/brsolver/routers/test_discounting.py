"""The discount that follows the cluster's turnover, and the one that follows trust."""

import math

import numpy as np
import pytest

from brsolver import SimulationParams, Trace, simulate
from brsolver.cluster.state import ClusterState
from brsolver.cluster.view import QUEUED, RUNNING, Waiting
from brsolver.registry import make_policy
from brsolver.routers import BR0, BRH, BR0Params, BRHParams
from brsolver.routers._br_kernels import census
from brsolver.routers._discounting import Turnover
from brsolver.specs import parse_spec


def steady_trace(output, count=12_000):
    """Lengths that vary by half, so that departures are spread evenly."""
    rng = np.random.default_rng(3)
    outputs = rng.integers(output // 2, output * 3 // 2, count)
    return Trace(prompt_tokens=rng.integers(1, 400, count), output_tokens=outputs)


@pytest.mark.parametrize(
    ("slots", "output", "turnover", "kappa"),
    [(32, 40, None, 1.5), (16, 100, None, 1.5), (16, 100, Turnover(opportunities=2.5), 2.5)],
)
def test_discount_approaches_the_turnover_of_slots(slots, output, turnover, kappa):
    trace = steady_trace(output)
    policy = BRH(BRHParams(projection="expected"), turnover=turnover)
    simulate(trace, policy, SimulationParams(workers=4, slots=slots), predictor="oracle")
    rate = slots / trace.output_tokens.mean()
    assert policy.gamma == pytest.approx(math.exp(-kappa * rate), rel=0.1)


def test_departures_are_counted_and_admissions_are_not():
    state = ClusterState([4, 4])
    turnover = Turnover()
    handles = [state.admit(i, i % 2, 10) for i in range(6)]
    turnover.look(0, *census(state.view_table()))
    turnover.placed(2)
    handles += [state.admit(6, 0, 10), state.admit(7, 1, 10)]
    before = turnover.gamma
    turnover.look(400, *census(state.view_table()))
    assert turnover.gamma > before, "400 steps without an end must lengthen the view"
    for handle in handles:
        state.finish(handle)
    lengthened = turnover.gamma
    turnover.look(401, *census(state.view_table()))
    assert turnover.gamma < lengthened


def test_decisions_at_one_step_count_no_time():
    """Immediate routing decides many times within a step."""
    state = ClusterState([4])
    turnover = Turnover()
    before = turnover.gamma
    for serial in range(4):
        turnover.look(0, *census(state.view_table()))
        state.admit(serial, 0, 5)
        turnover.placed(1)
    assert turnover.gamma == before
    turnover.look(1, *census(state.view_table()))
    assert turnover.gamma > before


def test_a_fixed_discount_stays():
    policy = BRH(BRHParams(gamma=0.7, projection="expected"))
    simulate(
        steady_trace(20, 200), policy, SimulationParams(workers=2, slots=4), predictor="oracle"
    )
    assert policy.gamma == 0.7


def test_automatic_discount_by_name_and_number():
    for spec, gamma in (("br-h", "auto"), ("br-h:gamma=auto", "auto"), ("br-h:gamma=0.5", 0.5)):
        name, values = parse_spec(spec)
        assert make_policy(name, values).params.gamma == gamma


class Crowd:
    """A cluster of two workers, about to route six requests, seen with some trust."""

    def __init__(self):
        self.state = ClusterState([6, 6], horizon=8)
        for serial, (worker, prompt) in enumerate([(0, 90), (0, 30), (1, 50), (1, 20)]):
            self.state.admit(serial, worker, prompt, remaining=2 + serial)
        self.waiting = Waiting(np.array([40, 31, 22, 13, 64, 55]), np.arange(6))

    def routed(self, policy, trust=1.0):
        return policy.route(self.state.view(trust=trust), self.waiting).tolist()


def test_without_trust_br0_decides():
    params = BRHParams(horizon=8, projection="expected", s_greedy=2, r_max=3, guard=False)
    without = BR0(BR0Params(s_greedy=2, guard=False))
    assert Crowd().routed(BRH(params), trust=0.0) == Crowd().routed(without)


def test_trust_shortens_the_discount():
    by_trust = BRH(BRHParams(horizon=8, projection="expected", gamma=0.8, guard=False))
    by_gamma = BRH(BRHParams(horizon=8, projection="expected", gamma=0.4, guard=False))
    assert Crowd().routed(by_trust, trust=0.5) == Crowd().routed(by_gamma)
    assert by_trust._discounts.tolist() == pytest.approx(by_gamma._discounts.tolist())
    Crowd().routed(by_trust, trust=1.0)
    assert by_trust._discounts[1] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("guard", "gamma", "power"), [(True, "auto", 3), (False, "auto", 1), (True, 0.8, 1)]
)
def test_an_arrival_may_correct_any_worker(guard, gamma, power):
    """In immediate routing there are G times the opportunities, where γ follows them."""
    state = ClusterState([4, 4, 4], horizon=5)
    policy = BRH(BRHParams(horizon=5, projection="expected", gamma=gamma, guard=guard))
    policy.route(state.view(immediate=True), Waiting(np.array([10]), np.arange(1)))
    assert policy._discounts[1] == pytest.approx(policy.gamma**power)


def test_departures_are_counted_and_none_is_forgotten():
    turnover = Turnover(prior_steps=0.0)
    assert (turnover.rate, turnover.departures) == (0.0, 0)
    turnover.look(0, 2, 6)
    turnover.look(10, 2, 3)
    assert turnover.departures == 3
    assert turnover.rate == pytest.approx(3 / 20)
    turnover.look(10**7, 2, 2)
    assert turnover.departures == 4
    assert turnover.rate < 1e-6


def test_the_census_counts_live_workers_and_all_their_requests():
    state = ClusterState([4, 4, 4])
    for i in range(5):
        state.admit(i, i % 3, 10)
    state.enqueue(2, 30)
    state.remove_worker(0)
    table = state.view_table()
    assert census(table) == (2, int((table[RUNNING] + table[QUEUED]).sum())) == (2, 4)
