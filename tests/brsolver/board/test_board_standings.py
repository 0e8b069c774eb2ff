"""The summary of a board, from rows that are made up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.board.standings import geometric, standings

BASE = ("base", "immediate")


def row(policy, regime, **figures):
    routing = "immediate" if policy == "base" else "pooled"
    return {
        "trace": "t", "prefill": "p", "regime": regime, "hardware": "h", "seed": 0,
        "policy": policy, "routing": routing, "failed": None,
        "rate_req_s": None if regime == "full" else 3.0,
        "throughput_tok_s": 100.0, "e2e_p95_s": 10.0, "tpot_mean_s": 0.1, "ttft_p99_s": 1.0,
        "gap": 0.1, "routing_gap": 0.05, "certified": True, "time_lost_share": 0.2,
        "dispatch_us_p50": 5.0, **figures,
    }  # fmt: skip


def test_a_cell_is_scored_by_what_its_regime_leaves_to_routing():
    rows = [
        row("base", "full"), row("base", "0.5"),
        row("new", "full", throughput_tok_s=120.0, e2e_p95_s=99.0),
        row("new", "0.5", throughput_tok_s=1.0, e2e_p95_s=8.0),
    ]  # fmt: skip
    first, second = standings(rows, BASE, "failed")
    assert (first.policy, second.policy) == ("new", "base")
    assert first.score == pytest.approx(math.sqrt(1.2 * 1.25))
    assert second.score == 1.0
    assert first.part("p", "saturated").score == pytest.approx(1.2)
    assert first.part("p", "by arrivals").score == pytest.approx(1.25)
    assert first.part("q", "saturated") is None
    assert (first.worst, first.worst_in) == (pytest.approx(1.2), "t, p, full, h")
    assert first.losses == 0


def test_what_the_mean_hides_is_said():
    rows = [
        row("base", "full"), row("base", "0.5"),
        row("new", "full", throughput_tok_s=300.0), row("new", "0.5", e2e_p95_s=20.0),
    ]  # fmt: skip
    first = standings(rows, BASE, "failed")[0]
    assert first.score == pytest.approx(math.sqrt(1.5))
    assert first.worst == pytest.approx(0.5)
    assert first.losses == 1
    assert first.loses_in == ("t, p, 0.5",)


def test_a_policy_with_failures_comes_last_whatever_its_mean():
    rows = [
        row("base", "full"), row("base", "0.5"),
        row("new", "full", throughput_tok_s=900.0),
        {**row("new", "0.5"), "failed": "why"},
    ]  # fmt: skip
    first, last = standings(rows, BASE, "failed")
    assert first.policy == "base"
    assert (last.policy, last.failed, last.cells) == ("new", 1, 2)
    assert last.score == pytest.approx(9.0)


def test_without_the_baseline_there_is_no_score_but_a_gap():
    rows = [{**row("base", "full"), "failed": "why"}, row("new", "full", gap=0.3)]
    found = {one.policy: one for one in standings(rows, BASE, "failed")}
    assert math.isnan(found["new"].score)
    assert found["new"].part("p", "saturated").gap == pytest.approx(0.3)
    assert found["base"].parts == ()


@given(st.lists(st.floats(min_value=1e-3, max_value=1e3), min_size=1, max_size=20))
def test_a_geometric_mean_lies_between_and_turns_with_its_values(values):
    mean = geometric(values)
    assert min(values) * (1 - 1e-9) <= mean <= max(values) * (1 + 1e-9)
    assert geometric(1 / value for value in values) == pytest.approx(1 / mean)


def test_several_seeds_give_scores_intervals():
    def seeds(*scores, policy="new"):
        return [
            row(policy, "full", throughput_tok_s=100.0 * s, seed=k) for k, s in enumerate(scores)
        ]

    rows = seeds(1.0, 1.0, 1.0, policy="base") + seeds(1.1, 1.2, 1.3)
    found = {one.policy: one for one in standings(rows, BASE, "failed")}
    # Student's t at 97.5 % for two degrees of freedom is 4.303.
    half = pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert found["new"].score_half_width == half
    assert found["new"].part("p", "saturated").score_half_width == half
    assert found["base"].score_half_width == 0.0
    # A seed that lacks a cell is a mean of something else.
    more = [row(each, "0.5", seed=k) for each in ("base", "new") for k in (0, 1)]
    found = {one.policy: one for one in standings(rows + more, BASE, "failed")}
    means = [math.sqrt(1.1), math.sqrt(1.2)]
    assert found["new"].score_half_width == pytest.approx(
        12.7062 * abs(means[1] - means[0]) / 2, rel=1e-4
    )
    # So is one of as many cells that are others.
    mixed = [row(each, regime, seed=k) for each in ("base", "new") for k, regime in
             enumerate(("full", "0.5"))]  # fmt: skip
    found = {one.policy: one for one in standings(mixed, BASE, "failed")}
    assert math.isnan(found["new"].score_half_width)
    single = standings([row("base", "full"), row("new", "full")], BASE, "failed")
    assert all(math.isnan(one.score_half_width) for one in single)
