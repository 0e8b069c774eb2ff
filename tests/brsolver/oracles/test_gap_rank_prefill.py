"""Prefill on the decode ranks: simulated runs beside the bounds in seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.hardware.model import step_time_of
from brsolver.hardware.step_time import StepTime
from brsolver.oracles.gap import gap
from brsolver.simulator import Arrivals, Prefill, SimulationParams
from brsolver.traces.trace import Trace

MODEL = StepTime(
    model="loads",
    base=0.0256,
    per_sequence=6.3e-5,
    per_token=4.16e-8,
    per_prefill_token=6.5e-5,
    per_mean_prefill_token=1e-5,
    per_prefill_context=1e-9,
)


def trace_of(seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    requests = int(rng.integers(1, 60))
    prompt = rng.integers(1, 400, requests)
    return Trace(
        prompt_tokens=prompt,
        output_tokens=1 + (60 * rng.random(requests) ** 3).astype(np.int64),
        columns={"cached_tokens": rng.integers(0, prompt)},
    )


SCHEDULERS = st.one_of(
    st.fixed_dictionaries(
        {
            "budget": st.integers(8, 300),
            "threshold": st.sampled_from([0, 5, 64]),
            "interval": st.integers(1, 6),
        }
    ),
    st.fixed_dictionaries({"budget": st.integers(4, 300), "scheduler": st.just("sglang")}),
)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 6),
    SCHEDULERS,
    st.sampled_from(["jsq-load", "br-0", "lpt", "fcfs"]),
)
def test_no_run_is_shorter_than_its_bounds(
    seed: int, workers: int, slots: int, scheduler: dict[str, object], policy: str
) -> None:
    prefill = Prefill(mode="colocated", **scheduler)  # type: ignore[arg-type] # by keyword
    found = gap(
        trace_of(seed),
        policy,
        workers=workers,
        slots=slots,
        objective="time",
        params=SimulationParams(slots=slots, prefill=prefill, step_time=MODEL),
    )
    (row,) = found.policies
    assert found.bound.kind == "any"
    assert row.certified
    assert row.own.kind == "steps"
    assert found.lower_bound_s <= min(row.seconds, found.clairvoyant_s) * (1 + 1e-12)
    # The same steps, placed otherwise, are among all runs.
    assert found.lower_bound_s <= row.own.seconds * (1 + 1e-12)
    assert row.own.seconds <= row.seconds * (1 + 1e-12)
    assert row.own.steps == row.steps
    assert row.own.total_work_s <= row.seconds * (1 + 1e-12)
    assert sum(row.beyond) == pytest.approx(row.seconds - found.lower_bound_s, abs=1e-9)


def test_tokens_at_the_barrier_are_no_bound_of_prefill() -> None:
    params = SimulationParams(prefill=Prefill(mode="colocated"))  # type: ignore[arg-type] # see above
    with pytest.raises(ParameterError, match="computed on the decode ranks; objective time"):
        gap(trace_of(1), "jsq-load", workers=2, slots=3, params=params)


def test_hindsight_covers_prefill_elsewhere() -> None:
    params = SimulationParams(prefill=Prefill(mode="colocated"))  # type: ignore[arg-type] # see above
    with pytest.raises(ParameterError, match="must be bounds: hindsight covers prefill"):
        gap(
            trace_of(1),
            "jsq-load",
            workers=2,
            slots=3,
            params=params,
            objective="time",
            oracle="hindsight-fcfs",
        )


def test_steps_that_take_no_time_leave_the_order_of_tokens_as_it_was() -> None:
    trace = Trace(prompt_tokens=np.array([250, 50, 30]), output_tokens=np.array([3, 3, 3]))
    params = SimulationParams(
        prefill=Prefill(mode="colocated", budget=100), step_time=step_time_of("dpr")
    )
    found = gap(trace, "jsq", workers=1, slots=4, objective="time", params=params)
    assert 0 < found.lower_bound_s <= found.policies[0].seconds


def test_runs_that_take_no_time_have_no_gap() -> None:
    trace = Trace(prompt_tokens=np.array([10]), output_tokens=np.array([1]))
    params = SimulationParams(
        prefill=Prefill(mode="colocated", budget=64), step_time=step_time_of("dpr")
    )
    with pytest.raises(ParameterError, match="the least time proven is 0 s"):
        gap(trace, "jsq", workers=1, slots=4, objective="time", params=params)


def test_whoever_knows_all_waits_for_no_prefill_elsewhere() -> None:
    trace = trace_of(3)
    timed = replace(trace, arrival_s=np.arange(len(trace), dtype=float))
    params = SimulationParams(
        arrivals=Arrivals(mode="timestamps"), prefill=Prefill(mode="delay", delay_s=0.5)
    )
    found = gap(timed, "jsq", workers=2, slots=4, objective="time", params=params)
    assert found.lower_bound_s <= found.clairvoyant_s * (1 + 1e-12)
