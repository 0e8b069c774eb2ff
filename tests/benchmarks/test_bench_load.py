"""What clients say of a load, held against what the server wrote down of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import bench_load
from benchmarks._load_clients import Seen, _of_aiperf, _of_guidellm
from benchmarks._load_truth import Log, beside, lateness, served
from integration.engines.journal import Journal


def seen(prompts, outputs, ttft, e2e):
    ttft, e2e, outputs = np.array(ttft), np.array(e2e), np.array(outputs)
    return Seen(
        told={},
        prompt_tokens=np.array(prompts),
        output_tokens=outputs,
        ttft_s=ttft,
        tpot_s=np.where(outputs > 1, (e2e - ttft) / np.maximum(outputs - 1, 1), np.nan),
        e2e_s=e2e,
    )


def row(prompt, output, came, first, last):
    return {
        "prompt_tokens": prompt,
        "output_tokens": output,
        "came_s": came,
        "first_s": first,
        "last_s": last,
        "complete": True,
    }


def test_requests_are_joined_by_their_lengths_and_warm_up_is_left_out():
    rows = [
        row(7, 3, 0.0, 1.0, 2.0),
        row(7, 3, 5.0, 5.5, 6.5),
        row(9, 1, 5.1, 5.4, 5.4),
        row(7, 3, 5.2, 6.2, 7.2),
    ]
    client = seen([9, 7, 7], [1, 3, 3], [0.31, 0.51, 1.02], [0.31, 1.53, 2.03])
    truth = served(reversed(rows), client, 3)
    np.testing.assert_allclose(truth.came_s, [5.0, 5.1, 5.2])
    np.testing.assert_allclose(truth.ttft_s, [0.3, 0.5, 1.0])
    np.testing.assert_allclose(truth.tpot_s, [np.nan, 0.5, 0.5])
    found = beside(client, truth)
    assert found["ttft_p50_ms"] == pytest.approx(500)
    assert found["ttft_more_p50_ms"] == pytest.approx(10)
    assert found["e2e_more_p99_ms"] == pytest.approx(30, rel=0.01)


def test_a_request_that_the_server_never_had_is_told_of():
    with pytest.raises(ValueError, match="no request of 7 and 3 tokens"):
        served([row(7, 2, 0.0, 1.0, 2.0)], seen([7], [3], [1.0], [2.0]), 1)


def test_what_a_client_does_not_tell_of_came_all_the_same():
    rows = [row(n, 2, float(n), n + 1.0, n + 2.0) for n in (3, 4, 5)]
    truth = served(rows, seen([5, 3], [2, 2], [1.0] * 2, [2.0] * 2), 3)
    np.testing.assert_allclose(truth.came_s, [3.0, 4.0, 5.0])
    assert truth.ttft_s.size == 2


def test_lateness_is_from_the_one_that_was_least_late():
    rows = [row(n, 2, came, 9.0, 9.5) for n, came in enumerate((100.2, 101.0, 103.7), 3)]
    truth = served(rows, seen([3, 4, 5], [2, 2, 2], [1.0] * 3, [2.0] * 3), 3)
    np.testing.assert_allclose(lateness(truth, np.array([0.0, 1.0, 3.0])), [0.2, 0.0, 0.7])


def test_a_log_is_read_on_from_where_it_was_and_has_what_was_answered(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(row(1, 2, 0.0, 1.0, 2.0)) + "\n")
    log = Log(path)
    log.skip()
    later, broken = row(3, 4, 0.0, 1.0, 2.0), row(5, 6, 0.0, 1.0, 2.0) | {"complete": False}
    with path.open("a") as stream:
        stream.writelines(json.dumps(each) + "\n" for each in (later, broken))
    journal = Journal(str(path))
    journal.refused(503, None)
    journal.close()
    assert log.rows() == [later]


def test_the_requests_come_at_their_rate_and_no_two_are_alike(tmp_path):
    path = tmp_path / "requests.jsonl"
    due = bench_load.write_requests(path, 300, 6.0, 0, lead_s=3.0)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({each["input_length"] for each in rows}) == len(rows) == due.size == 300
    assert [each["timestamp"] for each in rows] == np.round(1000 * due).astype(int).tolist()
    assert due[0] == 0
    assert due[1] > 3
    assert due[-1] == pytest.approx(50, rel=0.3)
    ids = [block for each in rows for block in each["hash_ids"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("pace", [["--concurrency", "4"], ["--rate", "200", "--lead", "0.1"]])
def test_ours_encloses_what_the_server_wrote_down(pace):
    options = ["--rounds", "2", "--requests", "12", "--speed", "50", "--tokenizer", "unused"]
    given = bench_load.parser().parse_args(["agree", *options, *pace])
    found = bench_load.measured(given)
    assert list(found) == ["brsolver load"]
    for each in found["brsolver load"]:
        assert each.seen.ttft_s.size == each.truth.came_s.size == 12
        assert (each.seen.ttft_s >= each.truth.ttft_s).all()
        assert (each.seen.e2e_s >= each.truth.e2e_s).all()
        assert set(each.seen.figures) == set(bench_load.FIGURES) == set(each.seen.told)


def test_percentiles_of_others_are_found_again():
    values = [{"p50": 2.0, "p99": 3.0}]
    guidellm = {
        "metrics": {
            name: {"successful": {"percentiles": values[0], "count": 2, "total_sum": 6, "mean": 3}}
            for name in (
                "time_to_first_token_ms",
                "inter_token_latency_ms",
                "request_latency",
                "output_token_count",
                "prompt_token_count",
            )
        },
        "scheduler_metrics": {"request_start_time": 10.0, "request_end_time": 14.0},
        "requests": {
            "successful": [
                {
                    "prompt_tokens": 5,
                    "output_tokens": tokens,
                    "inter_token_latency_ms": 500.0 if tokens > 1 else None,
                    "info": {
                        "timings": {
                            "request_start": 10.0,
                            "first_token_iteration": 11.0,
                            "last_token_iteration": 11.0 + (tokens - 1) / 2,
                        }
                    },
                }
                for tokens in (1, 5)
            ]
        },
    }
    one = _of_guidellm(guidellm)
    assert one.told["requests_per_s"] == 0.5
    assert one.told["e2e_p99_ms"] == 3000.0
    np.testing.assert_allclose(one.ttft_s, [1.0, 1.0])
    np.testing.assert_allclose(one.e2e_s, [1.0, 3.0])
    np.testing.assert_allclose(one.tpot_s, [np.nan, 0.5])
    names = ("time_to_first_token", "inter_token_latency", "request_latency")
    summary = dict.fromkeys(names, values[0])
    rates = ("request_throughput", "output_token_throughput", "input_sequence_length")
    summary |= {name: {"avg": 4.0} for name in rates}
    lengths = {"input_sequence_length": {"value": 5}, "output_sequence_length": {"value": 2}}
    two = _of_aiperf(summary, [lengths | {name: {"value": 1500.0} for name in names}])
    assert two.told["tpot_p50_ms"] == 2.0
    assert (two.ttft_s[0], two.prompt_tokens[0], two.output_tokens[0]) == (1.5, 5, 2)


@pytest.mark.parametrize(
    ("mine", "apart"),
    [([1.0, 1.01, 1.02], False), ([1.05, 1.051, 1.052], True), ([0.9, 0.901], True)],
)
def test_figures_that_are_further_apart_than_they_may_be_are_marked(mine, apart):
    told = bench_load._to(mine, [1.0] * len(mine))
    assert told.endswith(bench_load.APART) == apart


def test_figures_of_which_nobody_can_be_sure_are_not_marked():
    assert not bench_load._to([1.05, 1.2], [1.0, 1.0]).endswith(bench_load.APART)
