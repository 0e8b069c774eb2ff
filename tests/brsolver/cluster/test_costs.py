"""What routers are told of seconds and promises: what it must be, and that it reaches them."""

import math
from dataclasses import fields

import numpy as np
import pytest

from brsolver.cluster.costs import NOTHING_PROMISED, Objectives, StepCosts
from brsolver.cluster.session import ClusterSession
from brsolver.errors import ParameterError
from brsolver.policy import as_policy
from brsolver.simulator import Prefill, SimulationParams, Staleness, StepTime, simulate
from brsolver.traces.trace import Trace


@pytest.mark.parametrize("name", [each.name for each in fields(StepCosts)])
@pytest.mark.parametrize("bad", [-1, -1e-12, math.nan, math.inf])
def test_costs_are_numbers_of_0_or_more(name, bad):
    assert getattr(StepCosts(**{name: 2}), name) == 2
    with pytest.raises(ParameterError) as caught:
        StepCosts(**{name: bad})
    assert str(caught.value) == f"{name} is {bad}, must be a number of 0 or more"


@pytest.mark.parametrize("name", ["ttft_s", "tpot_s"])
@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf])
def test_promises_are_positive_numbers(name, bad):
    assert getattr(Objectives(**{name: 0.5}), name) == 0.5
    with pytest.raises(ParameterError) as caught:
        Objectives(**{name: bad})
    assert str(caught.value) == f"{name} is {bad}, must be a positive number"


@pytest.mark.parametrize(
    ("budget", "prefill_s", "priced"), [(64, 1e-5, True), (0, 1e-5, False), (64, 0.0, False)]
)
def test_prefill_has_a_price_where_ranks_compute_it_and_it_costs_something(
    budget, prefill_s, *, priced
):
    # What all ranks pay is none: it is the same wherever a prompt goes.
    costs = StepCosts(budget=budget, per_prefill_token_s=prefill_s, per_mean_prefill_token_s=1.0)
    assert costs.prices_prefill is priced


def test_nothing_is_known_nor_promised_by_default():
    assert Objectives() == NOTHING_PROMISED
    assert (NOTHING_PROMISED.ttft_s, NOTHING_PROMISED.tpot_s) == (None, None)
    assert StepCosts().budget == 0
    view = ClusterSession(as_policy(First()), None, [2], refresh_steps=1).view(
        0, 0.0, immediate=False
    )
    assert (view.costs, view.objectives) == (None, NOTHING_PROMISED)


class First:
    """Places the first, and keeps what it was told."""

    def __init__(self):
        self.told = set()

    def route(self, cluster, _waiting):
        self.told.add((cluster.costs, cluster.objectives))
        return [(0, int(np.argmax(cluster.room)))]


def test_a_session_tells_what_it_was_given_last():
    session = ClusterSession(as_policy(First()), None, [2], refresh_steps=1)
    costs, promised = StepCosts(base_s=1), Objectives(tpot_s=1)
    session.costs, session.objectives = costs, promised
    view = session.view(0, 0.0, immediate=False)
    assert (view.costs, view.objectives) == (costs, promised)
    seen = view.seen_as(view.table, projection=view.projection, active=view.active)
    assert (seen.costs, seen.objectives) == (costs, promised)


@pytest.mark.parametrize("stale", [0, 2])
@pytest.mark.parametrize(("mode", "budget"), [("colocated", 16), ("none", 0)])
def test_a_run_tells_what_it_charges_and_what_counts_as_good(mode, budget, stale):
    step_time = StepTime(model="loads", base=0.1, per_token=2e-6, per_prefill_token=1e-3)
    params = SimulationParams(
        workers=2,
        slots=2,
        step_time=step_time,
        prefill=Prefill(mode=mode, **({"budget": budget} if budget else {})),
        slo_ttft_ms=300,
        staleness=Staleness(steps=stale),
    )
    policy = First()
    simulate(Trace(prompt_tokens=np.full(9, 30), output_tokens=np.full(9, 3)), policy, params)
    ((costs, promised),) = policy.told
    assert costs == StepCosts(
        base_s=0.1, per_kv_token_s=2e-6, per_prefill_token_s=1e-3, budget=budget
    )
    assert promised == Objectives(ttft_s=0.3)
