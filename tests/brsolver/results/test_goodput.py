from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver import SimulationParams, Trace, simulate
from brsolver.results.logs import RequestLog, RequestStatus
from brsolver.results.objectives import goodput, meets, share_inside
from brsolver.simulator import Arrivals, StepTime

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.results.result import SimulationResult

NONE = SimulationParams()
TOKENS = np.array([4, 1, 2, 5])


def by_hand() -> RequestLog:
    """Make a log of a fast request, a slow one, one that came late, and one that did not end."""
    return RequestLog(
        arrival_s=np.zeros(4),
        ready_s=np.zeros(4),
        start_s=np.array([0.0, 0.0, 2.0, 2.0]),
        first_token_s=np.array([1.0, 1.5, 3.0, 3.0]),
        first_token_step=np.array([0, 0, 2, 2]),
        finish_s=np.array([4.0, 1.5, 4.0, math.nan]),
        worker=np.zeros(4, np.int64),
        start_step=np.array([0, 0, 2, 2]),
        finish_step=np.array([3, 0, 3, -1]),
        preemptions=np.zeros(4, np.int64),
        migrations=np.zeros(4, np.int64),
        status=np.array([RequestStatus.FINISHED] * 3 + [RequestStatus.RUNNING]),
        cached_tokens=np.zeros(4, np.int64),
    )


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        ({}, [True] * 4),
        ({"slo_ttft_ms": 1500}, [True, True, False, False]),
        ({"slo_ttft_ms": 1499.0}, [True, False, False, False]),
        ({"slo_tpot_ms": 1000}, [True, False, True, True]),
        ({"slo_tpot_ms": 1000, "slo_ttft_ms": 3000}, [True, False, True, True]),
    ],
)
def test_objectives_must_all_be_met(objectives: dict[str, float], expected: list[bool]) -> None:
    params = replace(NONE, **objectives)
    assert meets(params, by_hand(), TOKENS).tolist() == expected


def test_requests_count_by_the_steps_inside() -> None:
    assert share_inside(by_hand(), slice(1, 3)) == pytest.approx([0.5, 0, 0.5, 0])
    assert share_inside(by_hand(), slice(0, 9)) == pytest.approx([1, 1, 1, 0])


def test_goodput_by_hand(result_maker: Callable[..., SimulationResult]) -> None:
    steps = result_maker().steps
    steps = replace(steps, duration_s=np.ones(len(steps)))
    found = goodput(
        replace(NONE, slo_tpot_ms=1000), requests=by_hand(), steps=steps, output_tokens=TOKENS,
        window=slice(1, 3),
    )  # fmt: skip
    assert found.requests_s == pytest.approx((0.5 + 0.5) / 2)
    assert found.tokens_s == pytest.approx((0.5 * 4 + 0.5 * 2) / 2)
    assert found.share == pytest.approx(2 / 3)


def test_without_objectives_there_is_no_goodput(
    result_maker: Callable[..., SimulationResult],
) -> None:
    found = goodput(
        NONE, requests=by_hand(), steps=result_maker().steps, output_tokens=TOKENS,
        window=slice(0, 3),
    )  # fmt: skip
    assert math.isnan(found.requests_s)
    assert math.isnan(found.tokens_s)
    assert math.isnan(found.share)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 12)), min_size=2, max_size=25),
    st.one_of(st.none(), st.floats(1, 100)),
    st.floats(1, 40),
    st.booleans(),
)
def test_goodput_is_part_of_the_throughput(
    requests: list[tuple[int, int]], ttft_ms: float | None, tpot_ms: float, drained: bool
) -> None:
    prompts, outputs = zip(*requests, strict=True)
    trace = Trace(prompt_tokens=np.array(prompts), output_tokens=np.array(outputs), name="drawn")
    params = SimulationParams(
        workers=2, slots=2, drain="include" if drained else "exclude",
        slo_ttft_ms=ttft_ms, slo_tpot_ms=tpot_ms,
    )  # fmt: skip
    found = simulate(trace, "jsq-load", params).metrics
    assert 0 <= found.goodput_tok_s <= found.throughput_tok_s * (1 + 1e-12)
    easy = simulate(trace, "jsq-load", replace(params, slo_ttft_ms=None, slo_tpot_ms=1e9)).metrics
    assert easy.slo_met_share == 1
    assert easy.goodput_tok_s == pytest.approx(easy.throughput_tok_s)


def test_quiet_seconds_are_seconds() -> None:
    trace = Trace(
        prompt_tokens=np.ones(4, np.int64), output_tokens=np.full(4, 2),
        arrival_s=np.array([0.0, 10.0, 20.0, 30.0]),
    )  # fmt: skip
    for step_s in (1.0, 0.5):
        params = SimulationParams(
            workers=1, slots=1, arrivals=Arrivals(mode="timestamps"), slo_tpot_ms=1000.5,
            step_time=StepTime(model="affine", base=step_s, per_token=0.0),
        )  # fmt: skip
        result = simulate(trace, "vllm", params)
        # Up to the last admission: six tokens, the last of which ends the third request.
        over_s = 20 + 2 * step_s
        assert result.steps.span_s(slice(0, 6)) == pytest.approx(over_s)
        assert result.metrics.throughput_tok_s == pytest.approx(6 / over_s)
        assert result.metrics.goodput_tok_s == pytest.approx(6 / over_s)
        assert result.metrics.goodput_req_s == pytest.approx(3 / over_s)
        whole = simulate(trace, "vllm", replace(params, drain="include")).metrics
        assert whole.throughput_tok_s == pytest.approx(8 / whole.makespan_s)


def test_steps_that_follow_each_other_last_as_long_as_they_do() -> None:
    trace = Trace(prompt_tokens=np.arange(1, 90), output_tokens=np.arange(1, 90) % 11 + 1)
    steps = simulate(trace, "vllm", SimulationParams(workers=2, slots=3)).steps
    assert steps.span_s(slice(2, 50)) == float(steps.duration_s[2:50].sum())
    assert steps.span_s(slice(3, 3)) == 0
