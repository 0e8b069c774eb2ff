"""What is said of each kind of comparison."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from brsolver.results.comparison import Failure
from brsolver.results.deciding import change, short, times
from brsolver.results.notes import failures_told
from brsolver.results.regime import Regime, regime_of, without_direction
from brsolver.results.verdict import Summary, identical, paragraphs, summaries
from brsolver.simulator.components import Arrivals
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.results.comparison import Comparison

POOL = SimulationParams(slots=4, prefill=Prefill(mode="colocated"))
BY_TIME = replace(POOL, arrivals=Arrivals(mode="rate", rate=5.0))
USUAL = {
    "throughput_tok_s": 1000.0,
    "goodput_tok_s": math.nan,
    "tpot_p95_s": 0.05,
    "ttft_p99_s": 1.0,
    "e2e_p95_s": 20.0,
    "max_wait_s": 2.0,
    "time_lost_share": 0.3,
    "slot_utilization": 0.25,
    "ttft_early_s": 0.5,
    "ttft_late_s": 0.5,
    "ttft_growth": 0.0,
}
KEEPS_UP = {"ttft_late_s": 0.5, "ttft_growth": 0.0}
FALLS_BEHIND = {"ttft_late_s": 40.0, "ttft_growth": 0.4}
NOISE = (0.99, 1.0, 1.01)


@pytest.fixture
def made(comparison_maker: Callable[..., Comparison]) -> Callable[..., Comparison]:
    """Make a comparison of policies with given figures: factors of the usual ones, and noise."""

    def make(
        figures: dict[str, dict[str, float]],
        params: SimulationParams = POOL,
        seeds: int = 3,
        workers: int = 2,
    ) -> Comparison:
        plain = comparison_maker(tuple(figures), (workers,), seeds)
        runs = [
            replace(run, metrics=replace(run.metrics, **values(figures[run.policy], run.seed)))
            for run in plain.runs
        ]
        return replace(plain, runs=tuple(runs), params=params)

    def values(figures: dict[str, float], seed: int) -> dict[str, float]:
        given = USUAL | figures
        # Each figure has noise of its own, the same for all policies: ratios have little.
        return {name: value * NOISE[seed % 3] for name, value in given.items()} | {
            "tpot_p95_s": given["tpot_p95_s"] * NOISE[(seed + 1) % 3],
            "makespan_s": 100.0 + figures.get("throughput_tok_s", 0.0),
        }

    return make


def told(comparison: Comparison) -> Summary:
    (summary,) = summaries(comparison)
    return summary


def jittered(comparison: Comparison, policy: str) -> Comparison:
    """Give a policy's figures a little noise of its own, as runs have."""
    runs = [
        replace(
            run,
            metrics=replace(
                run.metrics,
                **{
                    name: getattr(run.metrics, name) * (1 + 0.002 * (run.seed - 1) * (-1) ** at)
                    for at, name in enumerate(USUAL)
                },
            ),
        )
        if run.policy == policy
        else run
        for run in comparison.runs
    ]
    return replace(comparison, runs=tuple(runs))


def test_the_better_policy_with_what_it_buys_and_costs(made: Callable[..., Comparison]) -> None:
    found = made({"vllm": {}, "br-t": {"throughput_tok_s": 1480.0, "ttft_p99_s": 1.2}})
    summary = told(jittered(found, "br-t"))
    assert summary.policy == "br-t"
    first = summary.sentences[0]
    assert first.startswith("For this traffic br-t: against vllm throughput ×1.48 (1,480 instead")
    assert "it costs TTFT P99 ×1.20 (1.20 instead of 1.00 s)." in first
    assert "The ratio of throughput is between ×1.4" in summary.sentences[1]


def test_a_gain_that_costs_latency_does_not_lead(made: Callable[..., Comparison]) -> None:
    dear = {"throughput_tok_s": 1150.0, "ttft_p99_s": 8.5, "e2e_p95_s": 22.0, "max_wait_s": 46.0}
    summary = told(jittered(made({"vllm": {}, "br-0": dear}), "br-0"))
    assert summary.policy == "vllm"
    first, trade, *_ = summary.sentences
    assert first.startswith("For this traffic vllm, the baseline")
    assert "beyond noise (95 % intervals of 3 runs each, with" in first
    assert trade.startswith("Against vllm br-0 buys throughput ×1.15 (1,150 instead of 1,000 tok/s")
    # All that is worse is told, not only what makes the choice another.
    assert "but costs TTFT P99 ×8.50 (8.50 instead of 1.00 s), end-to-end P95 ×1.10 (22.0" in trade
    assert trade.endswith("and longest wait ×23 (46.0 instead of 2.00 s).")


def test_gains_begin_with_what_decides_and_only_that_has_its_values(
    made: Callable[..., Comparison],
) -> None:
    good = {"throughput_tok_s": 1480.0, "tpot_p95_s": 0.04, "e2e_p95_s": 15.0}
    pooled = told(jittered(made({"vllm": {}, "br-t": good}), "br-t")).sentences[0]
    assert "throughput ×1.48 (1,480 instead of 1,000 tok/s), TPOT P95 ×0.80 and end" in pooled
    by_time = told(jittered(made({"vllm": {}, "br-t": good}, BY_TIME), "br-t")).sentences[0]
    assert "end-to-end P95 ×0.75 (15.0 instead of 20.0 s) and TPOT P95 ×0.80; none" in by_time


def test_the_best_without_such_a_cost_is_taken(made: Callable[..., Comparison]) -> None:
    figures = {
        "vllm": {},
        "br-0": {"throughput_tok_s": 1300.0, "ttft_p99_s": 8.5},
        "br-t": {"throughput_tok_s": 1100.0},
    }
    summary = told(jittered(jittered(made(figures), "br-0"), "br-t"))
    assert summary.policy == "br-t"
    assert summary.sentences[0].startswith("For this traffic br-t: against vllm throughput ×1.10")
    assert "Against vllm br-0 buys throughput ×1.30" in summary.sentences[1]


def test_policies_within_noise_are_not_told_apart(made: Callable[..., Comparison]) -> None:
    summary = told(jittered(made({"vllm": {}, "jsq": {"makespan_s": 7.0}}), "jsq"))
    assert summary.policy is None
    assert "any of them will do" in summary.sentences[0]
    assert "beyond noise (95 % intervals of 3 runs each, with" in summary.sentences[0]


def test_pooled(made: Callable[..., Comparison]) -> None:
    summary = told(made({"vllm": {"slot_utilization": 0.995}, "jsq": {}}))
    assert summary.regime is Regime.POOLED
    assert any(s.startswith("Pooled: 100 % of slots in use") for s in summary.sentences)


def test_arrival_bound(made: Callable[..., Comparison]) -> None:
    figures = {"vllm": {}, "br-t": {"throughput_tok_s": 1100.0, "e2e_p95_s": 15.0}}
    summary = told(jittered(made(figures, BY_TIME), "br-t"))
    assert summary.regime is Regime.ARRIVAL_BOUND
    assert summary.policy == "br-t"
    assert "throughput ×" not in summary.sentences[0]
    assert "end-to-end P95 ×0.75 (15.0 instead of 20.0 s)" in summary.sentences[0]
    assert (
        "Arrival-bound: 25 % of slots in use, and all that arrives is served, so routing cannot "
        "buy throughput, only latency." in summary.sentences
    )


def test_requests_that_did_not_finish_are_told(made: Callable[..., Comparison]) -> None:
    summary = told(made({"vllm": {"unfinished": 2000.0}, "jsq": {}}, BY_TIME))
    words = " ".join(summary.sentences)
    assert "all that arrives is served" not in words
    assert "Requests that did not finish are in no latency: 2,000 under vllm." in words


def test_overloaded(made: Callable[..., Comparison]) -> None:
    summary = told(made({"vllm": FALLS_BEHIND, "jsq": FALLS_BEHIND}, BY_TIME))
    assert summary.regime is Regime.OVERLOADED
    (line,) = [s for s in summary.sentences if s.startswith("Overloaded: ")]
    assert "waits grow without end (mean TTFT under vllm: 0.500 s in the second quarter" in line
    assert "40.0 s in the last)" in line


def test_overloaded_under_some(made: Callable[..., Comparison]) -> None:
    figures = {"vllm": FALLS_BEHIND, "jsq": FALLS_BEHIND, "br-t": {"e2e_p95_s": 10.0}}
    summary = told(jittered(made(figures, BY_TIME), "br-t"))
    assert summary.regime is Regime.MIXED
    assert summary.policy == "br-t"
    (line,) = [s for s in summary.sentences if s.startswith("Overloaded under vllm and jsq")]
    assert line.endswith("br-t keeps up with the arrivals.")


def test_a_pool_is_never_called_overloaded(made: Callable[..., Comparison]) -> None:
    assert regime_of(made({"vllm": FALLS_BEHIND}), 2) is Regime.POOLED


def test_closed_loop(made: Callable[..., Comparison]) -> None:
    params = replace(POOL, arrivals=Arrivals(mode="closed", concurrency=64))
    summary = told(made({"vllm": {}}, params))
    assert "Closed loop of 64 clients: 25 % of slots in use." in summary.sentences


def test_goodput_decides_where_something_is_promised(made: Callable[..., Comparison]) -> None:
    figures = {
        "vllm": {"goodput_tok_s": 500.0, "slo_met_share": 0.25},
        "jsq": {"goodput_tok_s": 900.0, "slo_met_share": 0.5, "throughput_tok_s": 900.0},
    }
    summary = told(jittered(made(figures), "jsq"))
    assert summary.policy == "jsq"
    goodput = "goodput ×1.80 (900 instead of 500 tok/s, 50.0 instead of 25.0 % of requests)"
    assert f"against vllm {goodput}" in summary.sentences[0]
    assert "it costs throughput ×0.90" in summary.sentences[0]


def test_one_worker(made: Callable[..., Comparison]) -> None:
    summary = told(made({"vllm": {}, "jsq": {}}, workers=1))
    assert "One worker: policies can choose the order" in " ".join(summary.sentences)


@pytest.mark.parametrize(
    ("prefill", "free"),
    [
        (Prefill(), True),
        (Prefill(mode="colocated"), False),
        (Prefill(mode="delay", delay_s=0.1), False),
    ],
)
def test_prefill_that_is_not_modelled_is_told(
    made: Callable[..., Comparison], prefill: Prefill, free: bool
) -> None:
    summary = told(made({"vllm": {}}, replace(BY_TIME, prefill=prefill)))
    said = any("Prefill is not modelled: TTFT leaves it out." in s for s in summary.sentences)
    assert said == free


def test_identical_policies_are_named(comparison_maker: Callable[..., Comparison]) -> None:
    comparison = comparison_maker(("fcfs", "jsq-load", "jsq"), (2,), 2)
    assert identical(comparison) == {"jsq": "jsq-load"}
    assert "jsq gave the same runs as jsq-load." in told(comparison).sentences


def test_identical_policies_are_one_sentence(made: Callable[..., Comparison]) -> None:
    longer = {"e2e_p95_s": 25.0}
    figures = {"a": {}, "b": longer, "c": longer, "d": longer, "e": {}, "f": {}}
    last = told(made(figures)).sentences[-1]
    assert last == "c and d gave the same runs as b; f gave the same runs as e."


def test_one_seed_says_nothing_of_noise(made: Callable[..., Comparison]) -> None:
    summary = told(made({"vllm": {}, "br-t": {"throughput_tok_s": 1480.0}}, seeds=1))
    assert summary.policy == "br-t"
    assert "One seed says nothing of noise" in summary.sentences[1]


def test_one_policy_by_itself(made: Callable[..., Comparison]) -> None:
    summary = told(made({"vllm": {}}, seeds=1))
    assert summary.policy is None
    assert summary.sentences[0].startswith("vllm by itself: throughput 990 tok/s, TPOT P95 50.0 ms")
    assert "goodput" not in summary.sentences[0]


def test_what_holds_for_all_numbers_of_workers_is_said_once() -> None:
    def summary(workers: int, *sentences: str) -> Summary:
        return Summary(workers=workers, regime=Regime.POOLED, policy=None, sentences=sentences)

    assert paragraphs([summary(2, "a", "b")]) == (("", ("a", "b")),)
    assert paragraphs([summary(2, "a", "b"), summary(4, "c", "b")]) == (
        ("G = 2", ("a",)),
        ("G = 4", ("c",)),
        ("Everywhere", ("b",)),
    )
    assert paragraphs([summary(2, "a"), summary(4, "a")]) == (("G = 2", ("a",)), ("G = 4", ("a",)))


def test_failures_are_one_line_each(comparison: Comparison) -> None:
    failures = (
        Failure(policy="a", workers=1, seed=0, reason="broken"),
        Failure(policy="a", workers=2, seed=0, reason="other"),
        Failure(policy="b", workers=2, seed=1, reason="lost"),
    )
    assert failures_told(replace(comparison, failures=failures)) == (
        "a failed in 2 runs and is left out; the first, on 1 worker with seed 0: broken",
        "b failed in 1 run and is left out; the first, on 2 workers with seed 1: lost",
    )


def test_same_runs_same_words(made: Callable[..., Comparison]) -> None:
    figures = {"vllm": {}, "br-t": {"throughput_tok_s": 1480.0}}
    assert told(made(figures)).to_dict() == told(made(figures)).to_dict()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (math.nan, "–"), (math.inf, "inf"), (0.012345, "0.0123"), (1.0, "1.00"),
     (99.95, "100.0"), (1234.5, "1,234"), (-12.3, "-12.3"), (4e-9, "4.00e-09")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert short(value) == text


def test_ratios_have_two_decimals_below_ten() -> None:
    assert (times(1.145), times(23.04), times(0.5)) == ("×1.15", "×23", "×0.50")


def test_change_needs_an_interval_and_a_direction(comparison: Comparison) -> None:
    estimate = replace(comparison.estimate("jsq-load", 2, "makespan_s"), ratio=0.8)
    assert change(replace(estimate, ratio_half_width=0.1), "lower") == "better"
    assert change(replace(estimate, ratio_half_width=0.1), "higher") == "worse"
    assert change(replace(estimate, ratio_half_width=0.3), "lower") == ""
    assert change(replace(estimate, ratio_half_width=0.1), "") == ""
    assert change(replace(estimate, ratio_half_width=math.nan), "lower") == ""
    assert change(replace(estimate, ratio_half_width=0.0), "lower") == ""
    assert change(replace(estimate, ratio=0.997, ratio_half_width=0.001), "lower") == ""
    assert change(replace(estimate, ratio=math.nan, ratio_half_width=0.1), "lower") == ""


def test_directions_go_by_the_regime() -> None:
    assert "throughput_tok_s" in without_direction(Regime.ARRIVAL_BOUND)
    assert "throughput_tok_s" not in without_direction(Regime.POOLED)
    assert "queue_mean_s" in without_direction(Regime.POOLED)
    assert "queue_mean_s" not in without_direction(Regime.ARRIVAL_BOUND)
    assert all("slot_utilization" in without_direction(regime) for regime in Regime)
