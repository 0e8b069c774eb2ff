from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from brsolver.results.plain import finite_only

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEYS = [
    *("policy", "workers", "slots", "requests", "steps", "makespan_s", "throughput_tok_s"),
    *("avg_imbalance_sum", "avg_imbalance_range", "idle_rate", "energy_j"),
    *("avg_imbalance_sum_post", "idle_rate_post", "energy_j_post", "tpot_mean_s", "tpot_p95_s"),
    *("step_mean_s", "step_p50_s", "step_p95_s", "step_p99_s"),
    *("time_lost_share", "time_lost_prefill_share", "time_lost_sequences_share"),
    *("time_lost_kv_share", "time_lost_padding_share", "prefill_tokens"),
    *("goodput_req_s", "goodput_tok_s", "slo_met_share", "ttft_p50_s"),
    *("ttft_mean_s", "ttft_p99_s", "max_wait_s", "dispatch_us_p50", "dispatch_us_p99"),
    *("wall_s", "seed", "version"),
]


@pytest.fixture
def facts(brsolver: Callable[..., Any], trace_file: Path) -> Callable[..., dict[str, Any]]:
    """Simulate with ``--json`` and return the object."""

    def call(*options: object, policy: str = "br-0") -> dict[str, Any]:
        outcome = brsolver(
            "simulate", trace_file, "--policy", policy, "--slots", 4, "--workers", 2, "--json",
            *options,
        )  # fmt: skip
        assert (outcome.code, outcome.err) == (0, "")
        return dict(json.loads(outcome.out, parse_constant=refuse_constant))

    return call


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_json_holds_what_was_promised(facts: Callable[..., dict[str, Any]]) -> None:
    found = facts("--limit", 50, "--seed", 3)
    assert not [key for key in KEYS if key not in found]
    assert (found["policy"], found["workers"], found["slots"]) == ("br-0", 2, 4)
    assert (found["requests"], found["finished"], found["seed"]) == (50, 50, 3)


def test_json_says_in_words_what_was_found(facts: Callable[..., dict[str, Any]]) -> None:
    found = facts("--slo-ttft", 5000, "--slo-tpot", 500)
    assert (found["params"]["slo_ttft_ms"], found["params"]["slo_tpot_ms"]) == (5000.0, 500.0)
    (summary,) = found["summary"]
    assert (summary["workers"], summary["regime"], summary["policy"]) == (2, "pooled", None)
    first, *others = summary["sentences"]
    assert first.startswith("br-0 by itself: throughput ")
    assert "goodput" in first
    assert any("Prefill is not modelled: TTFT leaves it out." in line for line in others)
    for name in ("ttft_p90_s", "e2e_mean_s", "e2e_p50_s", "e2e_p99_s", "rank_queue_max"):
        assert found[name] > 0


def test_times_of_requests_go_to_a_file(
    brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "times.jsonl"
    outcome = brsolver(
        "simulate", trace_file, "--policy", "br-0", "--slots", 4, "--workers", 2, "--json",
        "--requests-out", file,
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, f"wrote {file}\n")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["row"] for row in rows] == list(range(80))
    longest = max(row["queue_s"] for row in rows)
    assert longest == json.loads(outcome.out)["max_wait_s"]


def test_what_is_not_a_number_is_null(facts: Callable[..., dict[str, Any]]) -> None:
    assert facts()["params"]["prefill"]["tokens_per_s"] is None
    assert finite_only({"a": [math.nan, (1.5, -math.inf)], "b": "nan"}) == {
        "a": [None, [1.5, None]],
        "b": "nan",
    }


@pytest.mark.parametrize(
    ("options", "path", "value"),
    [
        (["--pool", 3], "arrivals.pool", 3),
        (["--rate", 200], "arrivals.rate", 200.0),
        (["--utilization", 0.8], "arrivals.mode", "utilization"),
        (["--capacity", 100_000], "capacity", 100_000),
        (["--slots", "3,5"], "slots", [3, 5]),
        (["--routing", "immediate"], "routing", "immediate"),
        (["--step-time", "affine:base=0.01,per_token=0"], "step_time.base", 0.01),
        (["--rate", 99, "--prefill", "delay:delay_s=0.5"], "prefill.delay_s", 0.5),
        (["--stale-ms", 20, "--stale-mode", "periodic"], "staleness.mode", "periodic"),
        (["--stale-steps", 2, "--local-correction"], "staleness.local_correction", True),
        (["--stale-steps", 2, "--local-departures"], "staleness.local_departures", True),
        (["--migrate-every", 4, "--migrate-gb-s", 12.5], "migration.gb_s", 12.5),
        (["--fail", "1@5", "--join", "1@9"], "events.0.at_step", 5),
        (["--fail", "1@0.02s", "--join", "1@0.5s"], "events.1.at_s", 0.5),
        (["--refresh-steps", 7], "refresh_steps", 7),
        (["--transit-steps", 1], "transit_steps", 1),
        (["--warmup-steps", 4], "warmup_steps", 4),
        (["--drain"], "drain", "include"),
        (["--max-steps", 9], "max_steps", 9),
    ],
)
def test_options_arrive(
    facts: Callable[..., dict[str, Any]], options: list[object], path: str, value: object
) -> None:
    found: Any = facts(*options)["params"]
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    assert found == value


def test_policy_options_arrive(facts: Callable[..., dict[str, Any]]) -> None:
    found = facts("--horizon", 6, "--gamma", 0.5, "--predictor", "oracle", policy="br-h:gamma=0.7")
    assert found["policy_params"]["horizon"] == 6
    assert found["policy_params"]["gamma"] == 0.7
    assert found["sees_future"] is True
    assert any("oracle" in note for note in found["notes"])


def test_knobs_take_words_and_stay_numbers(facts: Callable[..., dict[str, Any]]) -> None:
    options = ("--gamma", "auto", "--beta", "none", "--patience", "1e3", "--growth")
    found = facts(*options, "--projection", "expected", "--alpha", 2, policy="br-h:horizon=4")
    assert found["policy"] == (
        "br-h:horizon=4,alpha=2.0,beta=none,gamma=auto,patience=1000,growth=true,"
        "projection=expected"
    )
    assert found["policy_params"] == {
        "alpha": 2.0, "beta": None, "gamma": "auto", "horizon": 4, "r_max": 64, "s_greedy": 7,
        "patience": 1000, "guard": True, "growth": True, "projection": "expected",
    }  # fmt: skip


def test_unfinished_requests_are_counted(facts: Callable[..., dict[str, Any]]) -> None:
    found = facts("--max-steps", 4)
    assert found["unfinished"] > 0
    assert sum(found["unfinished_by_reason"].values()) == found["unfinished"]


def test_config_file_is_overridden_by_options(
    brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text("workers = 3\nslots = 5\n[staleness]\nms = 10\n")
    outcome = brsolver(
        "simulate", trace_file, "--policy", "jsq", "--config", config, "--slots", 2,
        "--stale-steps", 1, "--json",
    )  # fmt: skip
    params = json.loads(outcome.out)["params"]
    assert (params["workers"], params["slots"]) == (3, 2)
    assert (params["staleness"]["steps"], params["staleness"]["ms"]) == (1, 0.0)


def test_table_for_people(brsolver: Callable[..., Any], trace_file: Path) -> None:
    outcome = brsolver("simulate", trace_file, "--policy", "br-h", "--predictor", "oracle")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Throughput" in outcome.out
    assert "tok/s" in outcome.out
    assert "note: br-h is given true output lengths (oracle)" in outcome.out


def test_report_of_one_run(brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = brsolver("simulate", trace_file, "--policy", "jsq", "--out", out, "--json")
    assert outcome.code == 0
    assert outcome.err == f"wrote {out}\n"
    assert json.loads(outcome.out)["policy"] == "jsq"
    assert (out / "report.html").is_file()
    assert (out / "figures" / "gantt_G8_01_jsq.png").is_file()


BAD_TRACES = {
    "empty": "",
    "header only": "prompt_tokens,output_tokens\n",
    "zero length": "prompt_tokens,output_tokens\n10,0\n",
    "negative length": "prompt_tokens,output_tokens\n-3,5\n",
    "long": "prompt_tokens,output_tokens\n10,1000000000000\n",
    "NaN": "prompt_tokens,output_tokens\nnan,5\n",
    "NaN time": "arrival_s,prompt_tokens,output_tokens\nnan,10,5\n",
    "out of order": "arrival_s,prompt_tokens,output_tokens\n5,10,5\n1,10,5\n",
}


@pytest.mark.parametrize("text", BAD_TRACES.values(), ids=BAD_TRACES.keys())
def test_bad_traces_are_refused(refused: Callable[..., str], tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    out = tmp_path / "out"
    assert "bad.csv" in refused("simulate", path, "--policy", "br-0", "--out", out)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "br0"], "did you mean 'br-0'"),
        (["--policy", "br-h:horizont=3"], "did you mean 'horizon'"),
        (["--policy", "br-h:horizon=x"], "horizon"),
        (["--policy", "jsq", "--horizon", 3], "jsq has no parameter horizon"),
        (["--policy", "jsq", "--workers", 0], "workers is 0"),
        (["--policy", "jsq", "--workers", -2], "workers is -2"),
        (["--policy", "jsq", "--slots", 0], "slots is 0"),
        (["--policy", "jsq", "--slots", "two"], "slots is 'two'"),
        (["--policy", "jsq", "--slots", "4,4"], "slots has 2 entries for 8 workers"),
        (
            ["--policy", "jsq", "--slots", "4,x"],
            "slots is '4,x', must be a whole number or several",
        ),
        (
            ["--policy", "jsq", "--capacity", 50],
            "must be at most 50, the largest",
        ),
        (["--policy", "jsq", "--rate", "nan"], "rate is 'nan'"),
        (["--policy", "jsq", "--rate", 1, "--pool", 2], "exclude each other"),
        (["--policy", "jsq", "--prefill", "delay:delay_s=1"], "needs arrivals by time"),
        (["--policy", "jsq", "--timestamps"], ""),
        (["--policy", "jsq", "--stale-ms", -1], "staleness: ms is -1"),
        (["--policy", "jsq", "--stale-ms", 1, "--stale-steps", 1], "not both"),
        (["--policy", "jsq", "--fail", "x@3"], "must be WORKER@TIME"),
        (["--policy", "jsq", "--seed", -1], "seed is -1"),
        (["--policy", "jsq", "--limit", 0], "limit is 0"),
        (["--policy", "jsq", "--format", "xml"], "xml"),
        (["--policy", "jsq", "--config", "none.toml"], "none.toml"),
        (["--policy", "br-h", "--predictor", "orcle"], "did you mean 'oracle'"),
        (["--policy", "jsq", "--workers", 10**12], "workers is 1000000000000"),
        (["--policy", "jsq", "--slots", 10**12], "slots is 1000000000000"),
        (["--policy", "jsq", "--refresh-steps", 10**12], "refresh_steps is"),
        (["--policy", "jsq", "--stale-steps", 10**12], "staleness: steps is"),
        (["--policy", "jsq", "--pool", 10**20], "pool is"),
        (["--policy", "jsq", "--max-steps", 10**20], "max_steps is"),
        (["--policy", "jsq", "--seed", 10**30], "seed is"),
        (["--policy", "jsq", "--rate", "1e-320"], "rate is"),
        (["--policy", "jsq", "--utilization", "1e-320"], "utilization is"),
        (["--policy", "jsq", "--rate", 1, "--prefill", "tier:workers=1000000000000"], "workers is"),
        (["--policy", "jsq", "--step-time", "affine:base=1e308"], "base is 1e+308"),
        (["--policy", "jsq", "--fail", f"{'9' * 5000}@1"], "must be WORKER@TIME"),
        (["--policy", "jsq", "--fail", "0@1e999s"], "at_s is inf"),
        (["--policy", "br-h:s_greedy=1e20"], "s_greedy is"),
        (["--policy", "br-h:patience=1e20"], "patience is"),
        (["--policy", "br-h:alpha=1e308"], "alpha is 1e+308"),
        (["--policy", "br-h:beta=1e308"], "beta is 1e+308"),
        (["--policy", "atom-least-tokens:request_tokens=1e23"], "request_tokens"),
        (["--policy", "fast-phi:k=1000000000000"], "k is 1000000000000"),
    ],
)
def test_bad_options_are_refused(
    refused: Callable[..., str],
    trace_file: Path,
    tmp_path: Path,
    options: list[object],
    message: str,
) -> None:
    assert message in refused("simulate", trace_file, *options, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [trace_file]


def test_impossible_folder_is_refused(refused: Callable[..., str], trace_file: Path) -> None:
    out = trace_file / "out"
    assert "cannot be written" in refused("simulate", trace_file, "--policy", "jsq", "--out", out)


def test_empty_folder_name_is_refused(
    refused: Callable[..., str], trace_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "empty" in refused("simulate", trace_file, "--policy", "jsq", "--out", "")
    assert "empty" in refused("compare", trace_file, "--policies", "jsq", "--out", "")
    assert list(tmp_path.iterdir()) == [trace_file]


def test_requests_that_move_are_counted(brsolver: Callable[..., Any]) -> None:
    preset = "preset:uniform:n=80,s_high=400,o_high=40"
    run = ("simulate", preset, "--policy", "jsq-load", "--workers", 2, "--slots", 6)
    moved = brsolver(*run, "--migrate-every", 2, "--migrate-kv-bytes", 0, "--json")
    facts = json.loads(moved.out)
    assert facts["migrations"] > 0
    assert facts["migrated_tokens"] > facts["migrations"]
    shown = brsolver(*run, "--migrate-every", 2)
    assert "Running requests moved" in shown.out
    still = json.loads(brsolver(*run, "--json").out)
    assert (still["migrations"], still["migrated_tokens"]) == (0, 0)


@pytest.mark.parametrize("command", ["simulate", "explain"])
def test_a_policy_that_raises_is_one_line(
    refused: Callable[..., str], trace_file: Path, quitting_policy: str, command: str
) -> None:
    line = refused(command, trace_file, "--policy", quitting_policy, "--workers", 2, "--slots", 2)
    assert line == "brsolver: error: quits: RuntimeError: had enough\n"
