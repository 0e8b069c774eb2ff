"""What is held beside free slots, and what workers have yet to prefill, as runs log it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from brsolver import SimulationParams, simulate
from brsolver.report.style import styled
from brsolver.report.wave_figures import backlog_over_time, told
from brsolver.results.curves import WAVE_STEPS, curves_of
from brsolver.routers import BRT
from brsolver.simulator import Arrivals
from brsolver.simulator.prefill import Prefill
from brsolver.traces.presets import preset_trace
from brsolver.traces.trace import Trace

COLOCATED = SimulationParams(
    workers=4, slots=16, prefill=Prefill(mode="colocated", budget=512), arrivals=Arrivals(pool=64)
)


@pytest.fixture(scope="module")
def trace():
    return preset_trace("chat", n=600)


def test_held_time_is_what_the_router_itself_counts(trace):
    router = BRT()
    steps = simulate(trace, router, COLOCATED).steps
    tally = router._holding.tally
    assert tally.waves > 5
    assert float(steps.held @ steps.duration_s) == pytest.approx(tally.held_s)


def test_nobody_is_held_by_a_policy_that_fills_what_is_free(trace):
    result = simulate(trace, "jsq-load", COLOCATED)
    assert not result.steps.held.any()
    assert result.metrics.held_mean == 0
    assert result.samples.backlog.any()


def test_the_largest_backlog_of_steps_taken_together_is_kept(trace):
    result = simulate(trace, "br-t", COLOCATED)
    samples, steps = result.samples, result.steps
    # Every step that computes prompts had at least as many tokens to compute before it.
    edges = np.append(samples.step, len(steps))
    for at, (first, end) in enumerate(itertools.pairwise(edges)):
        assert samples.backlog[at].max() >= steps.prefill_max[first:end].max()
        assert bool(samples.backlog[at].any()) == bool(steps.prefill_tokens[first:end].any())


def test_no_backlog_is_logged_where_prompts_are_computed_elsewhere(trace):
    result = simulate(trace, "br-t", SimulationParams(workers=4, slots=16))
    assert not result.samples.backlog.any()
    assert curves_of(result, trace.prompt_tokens, trace.output_tokens).waves is None


def test_waves_are_not_looked_for_where_all_that_is_left_is_decoded():
    # Ninety requests come and go in a few hundred steps; one goes on for thousands.
    outputs = np.full(90, 20)
    outputs[0] = 20_000
    long = Trace(prompt_tokens=np.full(90, 300), output_tokens=outputs)
    result = simulate(long, "jsq-load", replace(COLOCATED, arrivals=Arrivals(pool=8), slots=2))
    assert not result.samples.backlog[result.samples.step.size // 2 :].any()
    waves = curves_of(result, long.prompt_tokens, long.output_tokens).waves
    assert waves is not None
    assert waves.backlog.any()


def test_waves_are_drawn_from_the_middle_and_told(trace):
    curves = {
        name: curves_of(simulate(trace, name, COLOCATED), trace.prompt_tokens, trace.output_tokens)
        for name in ("jsq-load", "br-t")
    }
    waves = curves["br-t"].waves
    assert waves is not None
    assert waves.backlog.shape == (waves.time_s.size, 4)
    assert 0 < waves.time_s.size <= WAVE_STEPS
    with styled():
        drawn = backlog_over_time(curves)
    # A panel of those held and one of backlogs for each, and the bar of colours.
    assert len(drawn.axes) == 5
    first, second = told(curves)
    assert first.startswith("jsq-load: ")
    assert "up to 0 requests waited" in first
    assert second.startswith("br-t: ")
    assert "up to 0 requests waited" not in second
