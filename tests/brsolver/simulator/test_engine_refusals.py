"""Decisions and runs that cannot be carried out, and what is said about them."""

import numpy as np
import pytest

from brsolver.errors import ParameterError, PolicyError
from brsolver.simulator import Arrivals, SimulationParams, WorkerEvent, simulate
from brsolver.traces.trace import Trace


class Fixed:
    def __init__(self, decision):
        self.decision = decision

    def route(self, cluster, waiting):
        return self.decision


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        ([(9, 0)], "named waiting request 9, there are 3"),
        ([(0, 0), (0, 1)], "placed waiting request 0 twice"),
        ([(0, 7)], "chose worker 7, which is not there"),
        ([(0, 0), (1, 0)], "gave worker 0 more requests than it has free slots"),
        ([(0.5, 0)], "returned float64 of shape (1, 2)"),
        ([0, 1], "returned int64 of shape (2,)"),
        ([], "at step 0 leaves 3 requests waiting on an idle cluster"),
    ],
)
def test_impossible_decisions_are_explained(decision, words):
    trace = Trace(prompt_tokens=np.full(3, 5), output_tokens=np.full(3, 5))
    with pytest.raises(PolicyError) as caught:
        simulate(trace, Fixed(decision), SimulationParams(workers=2, slots=1))
    assert words in str(caught.value)
    assert "Fixed" in str(caught.value)


def test_kv_overflow_is_explained():
    trace = Trace(prompt_tokens=np.array([30, 30]), output_tokens=np.array([5, 5]))
    params = SimulationParams(workers=2, slots=2, capacity=40)
    with pytest.raises(PolicyError, match="more KV tokens than its capacity"):
        simulate(trace, Fixed([(0, 0), (1, 0)]), params)


def test_immediate_routing_must_place():
    trace = Trace(prompt_tokens=np.array([30]), output_tokens=np.array([5]))
    with pytest.raises(PolicyError, match="placed 0 requests; immediate routing places"):
        simulate(trace, Fixed([]), SimulationParams(routing="immediate"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: simulate(t, 3), "policy is int, must be a name"),
        (
            lambda t: simulate(t, "jsq", SimulationParams(arrivals=Arrivals(mode="timestamps"))),
            "arrivals mode is timestamps, and trace has none",
        ),
        (
            lambda t: simulate(
                t, "jsq", SimulationParams(events=(WorkerEvent(kind="fail", worker=9, at_step=0),))
            ),
            "worker that fails is 9, must be at most 7",
        ),
        (
            lambda t: simulate(
                t, "jsq", SimulationParams(events=(WorkerEvent(kind="join", worker=12, at_step=0),))
            ),
            "must be at most 8, the next new worker's number",
        ),
    ],
)
def test_bad_runs_are_refused(call, words):
    trace = Trace(prompt_tokens=np.array([30]), output_tokens=np.array([5]))
    with pytest.raises(ParameterError) as caught:
        call(trace)
    assert words in str(caught.value)
