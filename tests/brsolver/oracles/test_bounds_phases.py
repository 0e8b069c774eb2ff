from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from brsolver.errors import ParameterError
from brsolver.oracles.bounds import admissions_bound, fcfs_bound, free_bound, phase_gaps
from brsolver.oracles.bounds.phases import why_invalid
from brsolver.simulator import SimulationParams, simulate
from brsolver.simulator.components import Arrivals, WorkerEvent
from brsolver.traces.trace import Trace

CLUSTER = {"workers": 3, "slots": 4}
PARAMS = SimulationParams(workers=3, slots=4)
IN_ORDER = ("jsq-load", "round-robin", "random", "fcfs")


def make_trace(seed: int = 0, requests: int = 150) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(1, 2000, requests),
        output_tokens=1 + (120 * rng.random(requests) ** 3).astype(np.int64),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", IN_ORDER)
def test_no_policy_in_order_of_arrival_is_below_the_bound(policy: str, seed: int) -> None:
    trace = make_trace(seed)
    run = simulate(trace, policy, PARAMS)
    bound = fcfs_bound(trace, **CLUSTER)
    assert (bound.per_step <= run.steps.load_max).all()
    found = phase_gaps(run, bound)
    assert all(part.lower_bound <= part.barrier_time for part in (*found.phases, found.total))
    assert sum(part.barrier_time for part in found.phases) == found.total.barrier_time
    assert sum(part.lower_bound for part in found.phases) == found.total.lower_bound
    assert sum(part.steps for part in found.phases) == len(run.steps)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", ["br-0", "lpt", *IN_ORDER])
def test_no_policy_is_below_the_free_bound_or_that_of_its_own_admissions(
    policy: str, seed: int
) -> None:
    trace = make_trace(seed)
    run = simulate(trace, policy, PARAMS)
    own = admissions_bound(trace, run.requests.start_step, **CLUSTER)
    assert (own.per_step <= run.steps.load_max).all()
    for bound in (
        own,
        free_bound(trace, **CLUSTER),
        free_bound(trace, **CLUSTER, work_conserving=False),
    ):
        found = phase_gaps(run, bound)
        assert all(part.gap >= 0 for part in (*found.phases, found.total))
        assert found.to_dict()["total"]["barrier_time"] == run.steps.load_max.sum()


def test_the_order_of_admission_decides_which_bound_holds() -> None:
    trace = make_trace()
    run = simulate(trace, "lpt", PARAMS)
    with pytest.raises(ParameterError, match="lpt: the fcfs bound does not hold: request") as no:
        phase_gaps(run, fcfs_bound(trace, **CLUSTER))
    assert "use free_bound" in str(no.value)


class HalfEmpty:
    """Admits one request per step, whatever is free."""

    def route(self, cluster, waiting):  # type: ignore[no-untyped-def]
        return [(0, int(np.argmax(cluster.room)))]


def test_a_run_that_idles_is_found_out() -> None:
    trace = make_trace()
    run = simulate(trace, HalfEmpty(), PARAMS)
    with pytest.raises(ParameterError, match="a slot stayed free while requests waited at step 0"):
        phase_gaps(run, free_bound(trace, **CLUSTER))
    found = phase_gaps(run, free_bound(trace, **CLUSTER, work_conserving=False))
    assert found.total.gap > 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (replace(PARAMS, workers=4), "it is about 3 workers of 4 slots"),
        (replace(PARAMS, slots=(4, 4, 5)), "it is about 3 workers of 4 slots"),
        (replace(PARAMS, capacity=90_000), "KV capacity"),
        (replace(PARAMS, events=(WorkerEvent(kind="fail", worker=0, at_step=3),)), "fail or join"),
        (replace(PARAMS, arrivals=Arrivals(pool=7)), "it is about a pool of 12"),
        (replace(PARAMS, max_steps=5), "some requests did not finish"),
    ],
)
def test_other_runs_are_refused(params: SimulationParams, message: str) -> None:
    trace = make_trace()
    run = simulate(trace, "jsq-load", params)
    with pytest.raises(ParameterError, match=message):
        phase_gaps(run, fcfs_bound(trace, **CLUSTER))


def test_another_trace_is_refused() -> None:
    run = simulate(make_trace(1), "jsq-load", PARAMS)
    with pytest.raises(ParameterError, match="it is about another trace"):
        phase_gaps(run, fcfs_bound(make_trace(2), **CLUSTER))


def test_requests_in_transit_with_immediate_routing_are_not_bounded() -> None:
    """More of them are known at once than the bound's pool holds: it was above such a run."""
    trace = Trace(prompt_tokens=np.full(8, 1000), output_tokens=np.full(8, 40))
    params = SimulationParams(
        workers=2, slots=4, arrivals=Arrivals(pool=1), routing="immediate", transit_steps=1
    )
    run = simulate(trace, "jsq-load", params)
    for conserving in (True, False):
        bound = free_bound(trace, workers=2, slots=4, pool=1, work_conserving=conserving)
        assert "in transit" in why_invalid(run, bound)
