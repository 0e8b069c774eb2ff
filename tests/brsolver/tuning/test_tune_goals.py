"""Goals, gains with their intervals, and what is recommended by them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.registry import PolicySpec
from brsolver.simulator import Arrivals, StepTime, simulate
from brsolver.simulator.params import SimulationParams
from brsolver.traces import Trace
from brsolver.tuning.candidate import Candidate
from brsolver.tuning.goals import GOALS, Gain, figures_of, goal_of
from brsolver.tuning.importance import pareto
from brsolver.tuning.layouts import read_layouts
from brsolver.tuning.result import TuneResult, Validated
from brsolver.tuning.study import PROJECT, PUBLISHED, TUNED, Tried
from brsolver.tuning.validate import _told_apart, recommended
from brsolver.tuning.wording import sentences

THROUGHPUT, LATENCY, GOODPUT = GOALS["throughput"], GOALS["latency"], GOALS["goodput"]
VALUES = st.lists(st.floats(1, 1e6), min_size=2, max_size=6)


def candidate(policy: str = "vllm") -> Candidate:
    params = SimulationParams()
    (layout,) = read_layouts([], params, slots_given=True)
    return Candidate(policy=PolicySpec.parse(policy), params=params, layout=layout)


def validated(metric: str, **values: list[float]) -> tuple[Validated, ...]:
    goal = next(each for each in GOALS.values() if each.metric == metric)
    figures = {
        role: {at: {metric: value} for at, value in enumerate(found)}
        for role, found in values.items()
    }
    names = {PUBLISHED: "vllm", PROJECT: "br-t", TUNED: "br-t:kappa=2"}
    found, failures = _told_apart({role: candidate(names[role]) for role in values}, figures, goal)
    assert failures == ()
    return found


@given(values=VALUES, others=VALUES)
def test_the_interval_is_students(values: list[float], others: list[float]) -> None:
    count = min(len(values), len(others))
    values, others = values[:count], others[:count]
    gain = Gain.between(THROUGHPUT, values, others)
    base = sum(others) / count
    shares = [(v - o) / base for v, o in zip(values, others, strict=True)]
    assert gain.mean == pytest.approx(sum(shares) / count, rel=1e-9, abs=1e-12)
    if max(shares) > min(shares):
        low, high = stats.t.interval(0.95, count - 1, loc=gain.mean, scale=stats.sem(shares))
        assert (gain.low, gain.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)
    less = Gain.between(LATENCY, values, others)
    assert less.mean == pytest.approx(-gain.mean, abs=1e-12)


def test_a_gain_over_nothing_is_not_told() -> None:
    gain = Gain.between(GOODPUT, [1.0, 2.0], [0.0, 0.0])
    assert math.isnan(gain.mean)
    assert not gain.sure


@pytest.mark.parametrize(
    ("values", "role"),
    [
        ({"published": [100, 101], "project": [120, 121], "tuned": [140, 141.5]}, "tuned"),
        ({"published": [100, 101], "project": [120, 121], "tuned": [119, 123]}, "project"),
        ({"published": [100, 101], "project": [90, 120], "tuned": [99, 108]}, "published"),
        ({"published": [100, 101], "project": [90, 91], "tuned": [110, 111]}, "tuned"),
        ({"published": [100, 101], "tuned": [80, 81]}, "published"),
    ],
)
def test_the_simplest_that_none_beats_for_certain(
    values: dict[str, list[float]], role: str
) -> None:
    assert recommended(validated("bulk_tok_s", **values), THROUGHPUT) == role
    less = {name: [1e4 / each for each in found] for name, found in values.items()}
    assert recommended(validated("e2e_mean_s", **less), LATENCY) == role


def test_some_goodput_is_better_than_none() -> None:
    found = validated("bulk_good_req_s", published=[0.0, 0.0], tuned=[0.5, 0.7])
    assert recommended(found, GOODPUT) == TUNED


def test_goals_ask_for_what_they_need() -> None:
    with pytest.raises(ParameterError, match="must have slo_ttft or slo_tpot"):
        goal_of("goodput", SimulationParams())
    assert goal_of("goodput", SimulationParams(slo_tpot_ms=50)).metric == "bulk_good_req_s"
    with pytest.raises(UnknownNameError, match="unknown goal 'tokens'"):
        goal_of("tokens", SimulationParams())


def result_of(found: tuple[Validated, ...]) -> TuneResult:
    return TuneResult(
        goal=THROUGHPUT,
        trace_name="t",
        trace_fingerprint="f",
        requests=(10, 10),
        base=SimulationParams(),
        arrivals=Arrivals(),
        tried=(),
        validated=found,
        recommended=recommended(found, THROUGHPUT) if found else PUBLISHED,
    )


def test_sentences_say_when_nothing_beats_the_default() -> None:
    result = result_of(
        validated("bulk_tok_s", published=[100, 101], project=[90, 120], tuned=[99, 108])
    )
    first, *others = sentences(result)
    assert first.startswith("Keep the published default, vllm ")
    assert "nothing beats it for certain" in first
    assert sum("not better for certain" in each for each in others) == 3


def test_sentences_of_an_interruption() -> None:
    first, *_ = sentences(replace(result_of(()), interrupted=True))
    assert "the same command goes on" in first


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    tried = [
        Tried(
            number=at,
            role="",
            state="complete",
            policy="p",
            figures={"more": float(more), "less": float(less)},
        )
        for at, (more, less) in enumerate(points)
    ]
    front = {each.number for each in pareto(tried, "more", "less")}
    for at, (more, less) in enumerate(points):
        beaten = any(a >= more and b <= less and (a, b) != (more, less) for a, b in points)
        if at in front:
            assert not beaten
        elif not beaten:
            assert any(points[each] == (more, less) for each in front)


def test_two_that_have_none_are_alike() -> None:
    goal = GOALS["goodput"]
    gain = Gain.between(goal, [0.0, 0.0], [0.0, 0.0])
    assert (gain.mean, gain.half_width, gain.sure) == (0.0, 0.0, False)
    assert "no goodput at all" not in goal.told(gain, "the other")
    assert "no goodput at all, it does" in goal.told(
        Gain.between(goal, [0.0, 1.0], [0.0, 0.0]), "the other"
    )


def figures(
    arrival_s: list[float] | None, step_s: float, outputs: int = 2, **more: Any
) -> dict[str, float | None]:
    """Return the figures of requests on a worker of one slot, on which all steps last as long."""
    columns = more.pop("columns", {})
    requests = more.pop("requests", 4) if arrival_s is None else len(arrival_s)
    trace = Trace(
        prompt_tokens=np.ones(requests, np.int64),
        output_tokens=np.full(requests, outputs),
        arrival_s=None if arrival_s is None else np.array(arrival_s),
        columns=columns,
    )
    params = SimulationParams(
        workers=1, slots=1, step_time=StepTime(model="affine", base=step_s, per_token=0.0),
        arrivals=Arrivals() if arrival_s is None else Arrivals(mode="timestamps"), **more,
    )  # fmt: skip
    return figures_of(simulate(trace, "vllm", params), trace)


QUIET = [0.0, 10.0, 20.0, 30.0]


def test_quiet_seconds_count_for_throughput() -> None:
    # The seventh of eight tokens is the first of the last request.
    assert figures(QUIET, 1.0)["bulk_tok_s"] == pytest.approx(7 / 31)
    assert figures(QUIET, 0.5)["bulk_tok_s"] == pytest.approx(7 / 30.5)
    later = [100.0 + each for each in QUIET]
    assert figures(later, 1.0)["bulk_tok_s"] == pytest.approx(7 / 31)
    assert figures(None, 0.5)["bulk_tok_s"] == pytest.approx(2.0)


@pytest.mark.parametrize("step_s", [0.01, 0.5, 1.0])
def test_all_that_keep_up_and_meet_the_objectives_have_the_same_goodput(step_s: float) -> None:
    found = figures(QUIET, step_s, slo_ttft_ms=1000.5, slo_tpot_ms=1000.5)
    assert found["slo_met_share"] == 1
    assert found["bulk_good_req_s"] == pytest.approx(4 / 30, rel=1e-12)


def test_goodput_is_what_met_the_objectives_while_requests_came() -> None:
    # First tokens come at 1, 3, 11 and 13 s: the second and the fourth waited.
    pairs = [0.0, 0.0, 10.0, 10.0]
    found = figures(pairs, 1.0, slo_ttft_ms=2000)
    assert found["bulk_good_req_s"] == pytest.approx(2 / 10)
    assert figures(pairs, 1.0, slo_ttft_ms=10)["bulk_good_req_s"] == 0
    assert figures(pairs, 1.0)["bulk_good_req_s"] is None


def test_without_an_objective_for_the_first_token_none_may_wait_for_ever() -> None:
    # First tokens come at 1, 5, 9 and 13 s, the last request at 6 s; all run as fast.
    found = figures([0.0, 2.0, 4.0, 6.0], 1.0, 4, slo_tpot_ms=1000.5)
    assert found["slo_met_share"] == 1
    assert found["bulk_good_req_s"] == pytest.approx(2 / 6)


def test_goodput_where_requests_come_as_others_end_is_at_the_rate_served() -> None:
    more = {"slo_ttft_ms": 2000.5, "slo_tpot_ms": 1000.5}
    # Of a pool the first two have their first tokens after 1 and 3 s.
    assert figures(None, 1.0, **more)["bulk_good_req_s"] == pytest.approx(1 / 4 * 1.0 / 2)
    turns = {"session": np.zeros(4, np.int64), "delay_s": np.array([math.nan, 8.0, 8.0, 8.0])}
    for step_s in (0.5, 1.0):
        found = figures([0.0] + [math.nan] * 3, step_s, columns=turns, **more)
        # A turn takes two steps, and the next one comes eight seconds later.
        last_s = 3 * (8 + 2 * step_s) + step_s
        assert found["bulk_tok_s"] == pytest.approx(7 / last_s)
        assert found["bulk_good_req_s"] == pytest.approx(7 / last_s / 2)
