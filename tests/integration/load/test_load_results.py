"""Results as files: read again by our own readers, and what they say."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_servers import DONE, Cut, loaded, params, requests, stream, token, usage, whole

from brsolver.traces import load_trace
from integration.load.figures import Spread, as_data, figures_of, peak
from integration.load.kinds import Kind
from integration.load.params import Objectives, Pace
from integration.load.replies import Reply
from integration.load.saving import (
    as_trace,
    vllm_result,
    write_results,
    write_vllm_result,
)


def reply(row=0, *, due=0.0, sent=0.0, first=1.0, last=2.0, tokens=3, **more) -> Reply:
    given = {"kind": Kind.COMPLETE, "wanted": tokens, "end_s": last, "told": True, **more}
    return Reply(
        row=row, due_s=due, sent_s=sent, first_s=first, last_s=last, tokens=tokens, **given
    )


def test_latencies_count_from_when_a_request_was_due():
    late = reply(due=1.0, sent=4.0, first=5.0, last=9.0, tokens=3)
    assert (late.late_s, late.ttft_s, late.e2e_s, late.tpot_s) == (3.0, 4.0, 8.0, 2.0)
    assert math.isnan(reply(tokens=1).tpot_s)
    figures = figures_of([late], requests=2, objectives=Objectives(ttft_s=3.5))
    assert (figures.good, figures.unsent, figures.duration_s) == (0, 1, 8.0)
    assert figures.output_tok_s == 3 / 8


def test_one_token_keeps_any_time_per_token():
    figures = figures_of([reply(tokens=1)], requests=1, objectives=Objectives(tpot_s=1e-6))
    assert figures.good == 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_spreads_are_numpys(values):
    spread = Spread.of(values)
    assert spread.p50 == pytest.approx(np.percentile(values, 50))
    assert spread.p99 == pytest.approx(np.percentile(values, 99))
    assert spread.p50 <= spread.p90 <= spread.p95 <= spread.p99 <= spread.most
    assert spread.mean == pytest.approx(np.mean(values))


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=15))
def test_most_in_flight_is_counted(spans):
    replies = [reply(sent=float(a), last=float(a + d)) for a, d in spans]
    slow = [sum(a <= t < a + d for a, d in spans) for t in range(1, 41)]
    assert peak(replies) == max(slow, default=0)


def test_nothing_at_all_has_figures_too():
    figures = figures_of([], requests=3, objectives=Objectives(tpot_s=1.0))
    assert (figures.complete, figures.unsent, figures.good) == (0, 3, 0)
    assert math.isnan(figures.output_tok_s)
    assert as_data(figures)["ttft_ms"]["count"] == 0


@pytest.fixture
def some():
    """A load of which one request failed, and one was told of more tokens than were asked for."""
    trace = requests(
        5,
        prompt=8,
        output=[2, 3, 4, 5, 6],
        arrival_s=np.array([0.0, 0.0, 0.01, 0.01, 0.02]),
        session=np.array(["a", "b", "a", "c", "b"]),
        hash_offsets=np.arange(0, 11, 2),
        hash_values=np.array([1, 2, 1, 3, 1, 2, 4, 5, 1, 3]),
    )

    def answers(asked, number):
        del number
        if asked.body["max_tokens"] == 4:
            return Cut()
        if asked.body["max_tokens"] == 6:
            return stream(token() * 4, usage(7, 9), DONE)
        return whole(asked)

    return loaded(answers, trace)[0]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_came_is_a_trace(some, tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    assert write_results(some, str(path))
    again = load_trace(path)
    assert again.source_format == "brsolver"
    order = np.argsort(again.output_tokens)
    assert again.output_tokens[order].tolist() == [2, 3, 5, 7]
    assert again.prompt_tokens[order].tolist() == [8, 8, 8, 9]
    assert again.columns["session"][order].tolist() == ["a", "b", "c", "b"]
    assert ("hash_offsets" in again.columns) == (ending != "csv")
    assert again.arrival_s[0] == 0
    due = sorted(each.due_s for each in some.replies if each.complete)
    assert again.arrival_s == pytest.approx(np.array(due) - due[0], abs=1e-6)


def test_what_was_measured_stands_beside_it(some, tmp_path):
    path = tmp_path / "out.parquet"
    write_results(some, str(path))
    table = pq.read_table(path)
    complete = sorted((r for r in some.replies if r.complete), key=lambda r: r.due_s)
    assert table["ttft_s"].to_pylist() == pytest.approx([r.ttft_s for r in complete])
    assert table["e2e_s"].to_pylist() == pytest.approx([r.e2e_s for r in complete])
    assert table["tpot_s"].to_pylist() == pytest.approx([r.tpot_s for r in complete])


def test_turns_stay_turns(tmp_path):
    trace = requests(
        4,
        arrival_s=np.array([0.0, np.nan, 0.0, np.nan]),
        session=np.array([1, 1, 2, 2]),
        delay_s=np.array([np.nan, 0.01, np.nan, 0.02]),
    )
    found, _ = loaded(lambda asked, _: whole(asked), trace)
    path = tmp_path / "turns.jsonl"
    write_results(found, str(path))
    again = load_trace(path)
    assert again.follows.tolist().count(True) == 2
    assert sorted(again.delay_s[again.follows].tolist()) == [0.01, 0.02]


def test_a_turn_whose_first_failed_comes_by_itself():
    trace = requests(
        3,
        output=[2, 3, 4],
        arrival_s=np.array([0.0, np.nan, 0.0]),
        session=np.array([1, 1, 2]),
        delay_s=np.array([np.nan, 0.01, np.nan]),
    )
    found, _ = loaded(lambda a, _: Cut() if a.body["max_tokens"] == 2 else whole(a), trace)
    kept = as_trace(found)
    assert kept.output_tokens.tolist() == [4, 3]
    assert not kept.follows.any()
    assert kept.arrival_s[1] >= 0.01


def test_nothing_complete_is_no_trace(tmp_path):
    found, _ = loaded(lambda asked, _: Cut())
    assert as_trace(found) is None
    assert not write_results(found, str(tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()


def test_vllms_json_is_read_again_and_adds_up(some, tmp_path):
    path = tmp_path / "v.json"
    given = params("http://127.0.0.1:1")
    write_vllm_result(some, given, str(path))
    told = json.loads(path.read_text())
    again = load_trace(path, skip_bad_rows=True)
    assert again.source_format == "vllm-bench"
    assert sorted(again.output_tokens.tolist()) == [2, 3, 5, 7]
    assert again.skipped_rows == 1
    assert (told["completed"], told["failed"]) == (4, 1)
    assert told["total_output_tokens"] == sum(told["output_lens"])
    assert told["p99_ttft_ms"] == pytest.approx(1e3 * some.figures.ttft.p99)
    for ttft, itl, latency, error in zip(
        told["ttfts"], told["itls"], told["latencies"], told["errors"], strict=True
    ):
        assert bool(error) == (latency == 0)
        if not error:
            assert ttft + sum(itl) == pytest.approx(latency)


def test_vllms_json_says_how_requests_came(some):
    closed = vllm_result(some, params("http://127.0.0.1:1", pace=Pace(concurrency=3)))
    assert (closed["request_rate"], closed["max_concurrency"]) == ("inf", 3)
    rated = vllm_result(some, params("http://127.0.0.1:1", pace=Pace(rate=2.0)))
    assert (rated["request_rate"], rated["max_concurrency"]) == (2.0, None)
    recorded = vllm_result(some, params("http://127.0.0.1:1"))
    assert recorded["request_rate"] == pytest.approx(5 / 0.02)
    twice = vllm_result(some, params("http://127.0.0.1:1", pace=Pace(speed=2.0)))
    assert twice["request_rate"] == pytest.approx(2 * 5 / 0.02)
