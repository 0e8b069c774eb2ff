"""The parts of a trace that are searched on and validated with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.simulator.arrivals import arrival_times
from brsolver.simulator.components import Arrivals
from brsolver.simulator.params import SimulationParams
from brsolver.traces import Trace
from brsolver.tuning.split import FEWEST, FILLINGS, for_any, settled, split


def trace_of(requests: int, *, timed: bool = False) -> Trace:
    lengths = np.arange(1, requests + 1)
    return Trace(
        prompt_tokens=lengths,
        output_tokens=np.full(requests, 7),
        arrival_s=0.5 * np.arange(requests) if timed else None,
        name="counted",
    )


@given(
    requests=st.integers(1, 3000),
    slots=st.integers(1, 40),
    share=st.floats(0.1, 0.9),
    starts=st.integers(2, 9),
)
def test_parts_cover_the_trace_in_order(
    requests: int, slots: int, share: float, starts: int
) -> None:
    trace, params = trace_of(requests), SimulationParams(workers=2, slots=slots)
    least = max(FEWEST, FILLINGS * 2 * slots)
    cut = round(requests * share)
    if cut < least or requests - cut < 2 * least:
        with pytest.raises(ParameterError, match=f"has {requests:,} requests, must have at least"):
            split(trace, params, validate_from=share, starts=starts)
        return
    found = split(trace, params, validate_from=share, starts=starts)
    both = [*found.tuning.prompt_tokens, *found.validation.prompt_tokens]
    assert both == list(trace.prompt_tokens)
    assert found.rungs[-1] == len(found.tuning) >= least
    assert list(found.rungs) == sorted(set(found.rungs))
    edges = [first for first, _ in found.blocks] + [found.blocks[-1][1]]
    assert edges[0] == 0
    assert edges[-1] == len(found.validation)
    assert 2 <= len(found.blocks) <= starts
    assert all(end - first >= least for first, end in found.blocks)
    assert found.most_slots >= 2 * slots


def test_a_utilization_becomes_times_once() -> None:
    params = SimulationParams(
        workers=2, slots=8, arrivals=Arrivals(mode="utilization", utilization=0.5)
    )
    trace, fixed = settled(trace_of(400), params)
    assert fixed.arrivals.mode == "timestamps"
    assert trace.arrival_s is not None
    assert np.array_equal(trace.arrival_s, arrival_times(trace_of(400), params))
    more = arrival_times(trace, replace(fixed, slots=64))
    assert np.array_equal(more, trace.arrival_s), "more slots must not bring more traffic"


def test_a_pool_is_as_large_for_any_hardware() -> None:
    _, fixed = settled(trace_of(400), SimulationParams(workers=3))
    assert fixed.arrivals.pool == 12
    trace = trace_of(400, timed=True)
    assert settled(trace, SimulationParams(arrivals=Arrivals(mode="timestamps")))[0] is trace


@pytest.mark.parametrize("timed", [False, True])
def test_a_utilization_is_told_as_a_rate_that_means_the_same_for_any_server(timed: bool) -> None:
    given = Arrivals(mode="utilization", utilization=0.5)
    params = SimulationParams(workers=2, slots=8, arrivals=given, seed=3)
    trace = trace_of(400, timed=timed)
    told = for_any(trace, params)
    assert told.mode == "rate"
    other = replace(params, workers=4, slots=64, arrivals=told)
    assert np.array_equal(arrival_times(trace, other), arrival_times(trace, params))
    assert for_any(trace, replace(params, arrivals=told)) == told
    assert for_any(trace, SimulationParams(workers=3)).pool == 12
