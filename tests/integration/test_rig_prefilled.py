"""The simulator against a server that computes prompts itself: figures and comparison."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver.errors import TraceError
from brsolver.hardware.step_time import StepTime
from brsolver.traces.trace import Trace
from integration.bench.arms import parse_arm
from integration.bench.client import Outcome
from integration.bench.prefilled import (
    JUDGED,
    TOLD,
    Setting,
    as_table,
    compare,
    fit_of,
    foretell,
    longer_in_sum,
    measured_figures,
    missed,
    outside_of_steps,
    simulated_figures,
    step_time_of,
)
from integration.bench.steps import Steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

A_SECOND = StepTime(model="loads", base=1.0, per_token=0.0)
ALONE = Setting(ranks=1, slots=1, budget=4, capacity=None, concurrency=1)


def requests(prompt: list[int], output: list[int]) -> Trace:
    return Trace(prompt_tokens=np.array(prompt), output_tokens=np.array(output), name="made")


def logged(seconds: NDArray[np.float64], **loads: NDArray[np.int64]) -> Steps:
    prefill, decoding = loads["prefill_tokens"], loads["decoding"]
    return Steps(
        run=np.zeros(len(seconds), dtype=np.int64),
        end_s=np.nancumsum(seconds),
        duration_s=seconds,
        running=decoding,
        waiting=np.zeros_like(decoding),
        scheduled=decoding + prefill,
        kv_tokens=loads["decode_kv"],
        **loads,
    )


def served(seed: int = 0, n: int = 400) -> Steps:
    """Steps of two ranks, a fifth of them with chunks on one or both."""
    rng = np.random.default_rng(seed)
    decoding = rng.integers(1, 17, (n, 2))
    kv = decoding * rng.integers(50, 900, (n, 2))
    chunk = rng.integers(8, 512, (n, 2)) * (rng.random((n, 2)) < 0.5) * (rng.random((n, 1)) < 0.4)
    context = chunk * rng.integers(1, 600, (n, 2)) + chunk * (chunk + 1) // 2
    mine = 1e-3 * decoding + 4e-6 * kv + 2e-4 * chunk + 1e-7 * context
    return logged(
        0.02 + mine.max(axis=1),
        decoding=decoding,
        decode_kv=kv,
        prefill_tokens=chunk,
        prefill_context=context,
    )


def test_chunks_and_decode_steps_of_each_request_are_simulated() -> None:
    # Chunks of 4, 4 and 2 tokens, the last of which brings a token, and two steps for the others.
    trace = requests([10, 10], [3, 3])
    result = foretell(trace, parse_arm("off"), A_SECOND, ALONE)
    figures = simulated_figures(result, trace, before_first_s=0.5)
    assert figures["steps"] == 10
    assert figures["prefill_steps"] == pytest.approx(0.6)
    assert figures["throughput_tok_s"] == pytest.approx(0.6)
    assert figures["tpot_p50_ms"] == figures["tpot_p95_ms"] == pytest.approx(1000)
    assert figures["ttft_p50_ms"] == pytest.approx(3500)
    assert figures["at_engines"] == pytest.approx(1)
    for name in ("step_p50_ms", "step_p95_ms", "step_mean_ms", "decode_step_p50_ms"):
        assert figures[name] == pytest.approx(1000)


def test_requests_of_one_token_have_no_time_per_token() -> None:
    trace = requests([4, 4], [1, 3])
    result = foretell(trace, parse_arm("off"), A_SECOND, ALONE)
    assert simulated_figures(result, trace)["tpot_p50_ms"] == pytest.approx(1000)
    outcomes = [
        Outcome(sent_s=5.0, first_s=6.0, last_s=6.0, tokens=1),
        Outcome(sent_s=6.0, first_s=7.0, last_s=9.0, tokens=3),
    ]
    measured = measured_figures(outcomes, served())
    assert measured["tpot_p50_ms"] == pytest.approx(1000)
    assert measured["ttft_p50_ms"] == pytest.approx(1000)
    assert measured["throughput_tok_s"] == pytest.approx(1.0)


def test_the_first_step_of_a_wave_and_empty_steps_do_not_count() -> None:
    nothing = np.zeros((4, 2), np.int64)
    decoding, chunk = nothing.copy(), nothing.copy()
    decoding[[0, 1, 3], 0], chunk[3, 1] = 1, 8
    steps = logged(
        np.array([math.nan, 0.1, 7.0, 0.3]),
        decoding=decoding,
        decode_kv=10 * decoding,
        prefill_tokens=chunk,
        prefill_context=nothing,
    )
    outcomes = [Outcome(sent_s=0.0, first_s=1.0, last_s=2.0, tokens=2)]
    figures = measured_figures(outcomes, steps)
    assert figures["steps"] == 2
    assert figures["prefill_steps"] == pytest.approx(0.5)
    assert figures["at_engines"] == pytest.approx(1)
    assert figures["step_mean_ms"] == pytest.approx(200)
    assert figures["decode_step_p50_ms"] == pytest.approx(100)
    with pytest.raises(TraceError, match="no step of this run was logged"):
        measured_figures(outcomes, steps.where(np.zeros(4, np.bool_)))


def test_the_fit_finds_what_made_the_steps() -> None:
    step_time = step_time_of(fit_of(served()))
    assert step_time.base == pytest.approx(0.02, rel=1e-3)
    assert step_time.per_sequence == pytest.approx(1e-3, rel=1e-3)
    assert step_time.per_token == pytest.approx(4e-6, rel=1e-3)
    assert step_time.per_prefill_token == pytest.approx(2e-4, rel=1e-3)
    assert step_time.per_prefill_context == pytest.approx(1e-7, rel=1e-3)
    assert step_time.per_mean_prefill_token == 0


def test_steps_that_were_held_up_count_in_the_sum() -> None:
    steps = served()
    assert longer_in_sum(fit_of(steps)) == pytest.approx(1, abs=1e-3)
    steps.duration_s[::20] *= 3
    fit = fit_of(steps)
    assert longer_in_sum(fit) == pytest.approx(1.1, rel=0.05)
    typical, longer = step_time_of(fit), step_time_of(fit, factor=1.5)
    assert longer.base == pytest.approx(1.5 * typical.base)
    assert longer.per_prefill_token == pytest.approx(1.5 * typical.per_prefill_token)


def test_what_first_tokens_take_beyond_steps_is_never_negative() -> None:
    result = foretell(requests([4], [2]), parse_arm("off"), A_SECOND, ALONE)
    slow, fast = (
        Outcome(sent_s=0.0, first_s=first, last_s=first + 1, tokens=2) for first in (1.2, 0.9)
    )
    assert outside_of_steps([slow], result) == pytest.approx(0.2)
    assert outside_of_steps([fast], result) == 0


def test_only_judged_figures_are_missed_and_they_are_marked() -> None:
    measured = dict.fromkeys((*JUDGED, *TOLD), 200.0)
    simulated = {**measured, "tpot_p50_ms": 231.0, "tpot_p95_ms": 228.0, "ttft_p95_ms": 400.0}
    compared = compare([measured], simulated)
    assert [each.name for each in missed(compared)] == ["tpot_p50_ms"]
    table = as_table(compared)
    assert "| TPOT, P50, ms | 200 | 231 | **+15.5%** |" in table
    assert "| TPOT, P95, ms | 200 | 228 | +14.0% |" in table
    assert "| TTFT, P95, ms | 200 | 400 | +100.0% |" in table


def test_rounds_are_told_apart_and_their_mean_is_judged() -> None:
    figures = dict.fromkeys((*JUDGED, *TOLD), 100.0)
    rounds = [{**figures, "tpot_p50_ms": value} for value in (90.0, 110.0)]
    (found,) = (x for x in compare(rounds, figures) if x.name == "tpot_p50_ms")
    assert (found.measured, found.error) == (100, 0)
    assert "| TPOT, P50, ms | 90, 110 | 100 | +0.0% |" in as_table([found])


def test_a_figure_that_could_not_be_measured_is_missed() -> None:
    measured = dict.fromkeys((*JUDGED, *TOLD), 1.0)
    unknown = {**measured, "step_p95_ms": math.nan}
    assert [each.name for each in missed(compare([unknown], measured))] == ["step_p95_ms"]
    assert math.isnan(compare([{**measured, "steps": 0.0}], measured)[-1].error)
