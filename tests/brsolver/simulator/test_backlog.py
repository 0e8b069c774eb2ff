"""The prefill backlog that policies see: what each worker was given and has not computed yet."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from test_colocated import reference_run, scenarios

from brsolver.simulator import Prefill, SimulationParams, Staleness, StepTime, simulate
from brsolver.traces.trace import Trace


class LeastBacklog:
    """Gives whoever is first to the worker with least to compute, and keeps what it saw."""

    def __init__(self):
        self.seen = []

    def route(self, cluster, waiting):
        self.seen.append((cluster.step, *cluster.backlog.tolist()))
        for i, tokens in enumerate(waiting.prompt_tokens):
            fits = (cluster.room > 0) & (cluster.token_room >= tokens)
            if fits.any():
                return [(i, int(np.argmin(np.where(fits, cluster.backlog, 1 << 60))))]
        return []


@settings(max_examples=300, deadline=None)
@given(scenarios())
def test_the_backlog_is_what_queued_and_prefilling_requests_have_not_computed(scenario):
    """The reference adds it up from its lists for every decision, the kernels keep account."""
    trace, params, _ = scenario
    ours, plain = LeastBacklog(), LeastBacklog()
    simulate(trace, ours, params)
    reference_run(trace, params, plain)
    assert ours.seen == plain.seen
    assert all(backlog >= 0 for _, *each in ours.seen for backlog in each)


@settings(max_examples=50, deadline=None)
@given(scenarios())
def test_there_is_none_where_prompts_are_computed_elsewhere(scenario):
    trace, params, _ = scenario
    policy = LeastBacklog()
    simulate(trace, policy, replace(params, prefill=Prefill(), step_time=StepTime()))
    # Where the only worker fails at once, nobody is ever asked.
    assert policy.seen or params.events
    assert not any(backlog for _, *each in policy.seen for backlog in each)


def seen_by(prompts, outputs, *, columns=None, **regime):
    policy = LeastBacklog()
    trace = Trace(
        prompt_tokens=np.array(prompts), output_tokens=np.array(outputs), columns=columns or {}
    )
    simulate(trace, policy, SimulationParams(**regime))
    return policy.seen


def test_a_backlog_falls_by_what_is_computed():
    prefill = Prefill(mode="colocated", budget=8)
    seen = seen_by([20, 9, 5], [2, 2, 2], workers=2, slots=2, prefill=prefill)
    assert seen[:3] == [(0, 0, 0), (1, 12, 0), (2, 4, 1)]


def test_cached_tokens_are_none():
    prefill = Prefill(mode="colocated", budget=4)
    columns = {"cached_tokens": np.array([14, 0])}
    seen = seen_by([20, 9], [3, 2], columns=columns, workers=1, slots=2, prefill=prefill)
    # 6 of 20 are to be computed, 4 of them in the first step.
    assert seen == [(0, 0), (1, 2)]


def test_old_news_of_a_backlog_are_corrected_by_what_was_placed_since():
    prefill = Prefill(mode="colocated", budget=4)
    regime = {"workers": 1, "slots": 3, "prefill": prefill}
    found = [
        seen_by(
            [20, 9, 5],
            [3, 2, 2],
            staleness=Staleness(steps=2, local_correction=corrected),
            **regime,
        )
        for corrected in (False, True)
    ]
    # What is told is two steps old, from before anything was placed.
    assert found[0][:3] == [(0, 0), (1, 0), (2, 0)]
    assert found[1][:3] == [(0, 0), (1, 20), (2, 29)]


def test_nothing_is_corrected_where_prompts_are_computed_elsewhere():
    staleness = Staleness(steps=2, local_correction=True)
    seen = seen_by([20, 9, 5], [3, 2, 2], workers=1, slots=3, staleness=staleness)
    assert seen == [(0, 0), (1, 0), (2, 0)]
