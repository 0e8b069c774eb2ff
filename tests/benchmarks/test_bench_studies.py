"""Studies of growth: what is measured, what is fitted, and that a study goes on where it was."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.studies import __main__ as studies
from benchmarks.studies import measure, plan
from benchmarks.studies.growth import exponent, slope
from benchmarks.studies.tables import Results, inner_of
from brsolver import simulate
from brsolver.errors import BrsolverError
from brsolver.results.comparison import mean_and_half_width

RUN = plan.Run(
    prefill=plan.ELSEWHERE,
    source="preset:uniform",
    workers=2,
    policy="br-0",
    seed=3,
    requests=1500,
)


@pytest.mark.parametrize("power", [0.0, 1.3, -0.5])
def test_the_exponent_of_a_power_is_found(power):
    assert slope([16, 64, 256], [7 * g**power for g in (16, 64, 256)]) == pytest.approx(power)


def test_an_interval_covers_seeds_and_leaves_out_those_not_complete():
    by_seed = {seed: {g: g ** (1.0 + 0.1 * seed) for g in (4, 16)} for seed in range(3)}
    found = exponent({**by_seed, 3: {4: 1.0}})
    assert (found.seeds, found.value) == (3, pytest.approx(1.1))
    # Student's t at 97.5 % for two degrees of freedom is 4.303.
    assert found.half_width == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert str(found) == "1.10 ± 0.25"
    assert str(exponent({0: by_seed[0]})) == "1.00"
    assert math.isnan(exponent({0: {4: -1.0, 16: 2.0}}).value)
    assert math.isnan(exponent({**by_seed, 3: {4: -1.0, 16: 2.0}}).value)
    assert exponent({}).seeds == 0


def test_figures_are_those_of_the_steady_window():
    result = simulate(measure.trace_of(RUN), RUN.policy, measure.params_of(RUN))
    window, found = measure.window_of(result), measure.figures_of(result)
    started = np.sort(result.requests.start_step)
    assert (window.start, window.stop) == (started[375], started[1350])
    steps = result.steps
    rows = list(range(window.start, window.stop))
    worst = [int(steps.alive[k] * steps.load_max[k]) for k in rows]
    idle = [most - int(steps.load_sum[k]) for most, k in zip(worst, rows, strict=True)]
    assert found["imbalance"] == pytest.approx(sum(idle) / len(rows))
    assert found["imbalance_share"] == pytest.approx(sum(idle) / sum(worst))
    seconds = sum(float(steps.duration_s[k]) for k in rows)
    tokens = sum(int(steps.active[k]) for k in rows)
    assert found["tokens_s"] == pytest.approx(tokens / seconds)
    assert 0 < found["lost_share"] < 1
    assert found["lost_share"] == pytest.approx(
        sum(float(steps.lost_s()[k]) for k in rows) / seconds
    )


@pytest.mark.parametrize("policy", ["p2c", "br-h:horizon=8", "cells:size=1,inner=p2c"])
def test_taking_the_time_changes_no_decision(policy):
    run = replace(RUN, policy=policy)
    plain = simulate(measure.trace_of(run), policy, measure.params_of(run))
    found = measure.measured(run)
    for name, figure in measure.figures_of(plain).items():
        assert found[name] == figure, name


def test_a_run_in_a_process_of_its_own_has_the_same_figures():
    here = measure.measured(RUN)
    there = measure.alone(asdict(RUN), {})
    assert here.keys() == there.keys()
    assert there["peak_mib"] > 50
    for name in here.keys() - measure.CLOCKED:
        assert there[name] == here[name], name


def test_requests_of_a_file_are_drawn_by_seed(tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("prompt_tokens,output_tokens\n" + "".join(f"{10 * i},{i}\n" for i in (1, 2, 3)))
    run = plan.Run(
        prefill=plan.COLOCATED, source=str(path), workers=2, policy="vllm", seed=1, requests=500
    )
    trace, again = measure.trace_of(run), measure.trace_of(run)
    assert run.trace == "few"
    assert sorted(set(trace.prompt_tokens.tolist())) == [10, 20, 30]
    assert (trace.prompt_tokens == 10 * trace.output_tokens).all()
    assert (trace.prompt_tokens == again.prompt_tokens).all()


def test_a_files_requests_travel_with_the_campaign(tmp_path):
    """Another node computes as well, and has no such file."""
    path = tmp_path / "few.csv"
    path.write_text("prompt_tokens,output_tokens\n" + "".join(f"{10 * i},{i}\n" for i in (1, 2, 3)))
    run = plan.Run(
        prefill=plan.COLOCATED, source=str(path), workers=2, policy="vllm", seed=1, requests=500
    )
    here = measure.measured(run)
    shared = plan.campaign_of([run]).shared
    path.unlink()
    there = measure.alone(asdict(run), shared)
    for name in here.keys() - measure.CLOCKED:
        assert there[name] == here[name], name


def test_runs_of_a_file_that_is_none_say_so(tmp_path):
    run = plan.Run(
        prefill=plan.COLOCATED, source=str(tmp_path / "no.csv"), workers=2, policy="vllm", seed=1,
        requests=500,
    )  # fmt: skip
    campaign = plan.campaign_of([run])
    with pytest.raises(BrsolverError, match=r"ended with status 1.*no\.csv"):
        measure.alone(asdict(run), campaign.shared)


def test_a_run_that_ends_otherwise_says_why():
    bad = {**asdict(RUN), "policy": "br-00"}
    with pytest.raises(BrsolverError, match=r"ended with status 1.*br-00"):
        measure.alone(bad, {})


def study(tmp_path, *more):
    images = tmp_path / "images"
    status = studies.main(
        ["preset:uniform", "--out", str(tmp_path / "out"), "--images", str(images),
         "--workers", "2,4", "--requests", "600", "--policies", "vllm,br-t", *more]
    )  # fmt: skip
    assert status == 0
    return pq.read_table(tmp_path / "out" / "results.parquet").to_pylist(), images


def test_a_study_goes_on_where_it_was_and_shows_all(tmp_path, capsys):
    rows, images = study(tmp_path, "--parts", "colocated")
    assert [(row["workers"], row["policy"]) for row in rows] == [
        (g, policy) for g in (2, 4) for policy in ("vllm", "br-t")
    ]
    assert all(row["failed"] is None and 50 < row["peak_mib"] < 1000 for row in rows)
    printed = capsys.readouterr()
    assert "time lost, %" in printed.out
    assert "Wall time and memory" in printed.out
    assert printed.err.splitlines() == [f"{n} of 4 runs" for n in range(5)]
    (picture,) = images.iterdir()
    assert picture.name == "studies-colocated-uniform.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    again, _ = study(tmp_path, "--parts", "colocated")
    for first, second in zip(rows, again, strict=True):
        assert {name: second[name] for name in first} == first
    assert capsys.readouterr().err.splitlines() == ["4 of 4 runs"]


def test_several_seeds_have_intervals(tmp_path, capsys):
    rows, _ = study(tmp_path, "--seeds", "3")
    assert sorted({row["seed"] for row in rows}) == [0, 1, 2]
    shares = [100 * row["lost_share"] for row in rows if row["workers"] == 4]
    mean, half, _ = mean_and_half_width(shares)
    table = capsys.readouterr().out.partition("time lost, %")[2]
    line = next(line for line in table.splitlines() if "vllm" in line)
    assert f"{mean:.2f} ± {half:.2f}" in line


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("cells-by-time", "600 requests, prompts elsewhere, interval 1, pooled, by time at 0.9"),
        ("cells-at-once", "600 requests, prompts elsewhere, interval 1, immediate, by time at 0.9"),
    ],
)
def test_cells_are_run_otherwise_as_well(tmp_path, capsys, part, said):
    out = str(tmp_path / "out")
    asked = ["preset:uniform", "--out", out, "--workers", "64", "--requests", "600"]
    assert studies.main([*asked, "--parts", part]) == 0
    rows = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    inner = {inner_of(row["policy"]) for row in rows}
    assert inner <= {row["policy"] for row in rows}
    printed = capsys.readouterr().out
    assert said in printed
    assert "TPOT P50, ms" in printed
    for row in rows:
        run = plan.Run(
            **{name: row[name] for name in plan.Run.__dataclass_fields__ if name != "source"},
            source="preset:uniform",
        )
        params = measure.params_of(run)
        assert params.routing == ("immediate" if part == "cells-at-once" else "pooled")
        assert params.arrivals.utilization == plan.LOAD


@pytest.mark.parametrize("part", plan.CELLS)
def test_cells_come_with_what_they_are_held_against(part):
    planned = plan.cell_runs(part, "preset:uniform", 4, [0], plan.Sized())
    ran = {(run.policy, run.interval) for run in planned}
    assert ran >= {(inner_of(policy), interval) for policy, interval in ran}
    assert (plan.BASELINE, 1) in ran
    both = "elsewhere,cells" if part == plan.ELSEWHERE else "colocated,colocated-cells"
    options = studies.parsed(["preset:uniform", "--parts", both, "--workers", "4"])
    assert len(planned) <= len(studies.planned_by(options)) == len(set(studies.planned_by(options)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts", "celsl"], "celsl"),
        (["--workers", "many"], "--workers='many' must be whole numbers"),
        (["--seeds", "0"], "seeds is 0, must be at least 1"),
        (["--policies", "fcfs"], "must be of vllm, jsq-load, br-0, br-h, br-ramp"),
    ],
)
def test_what_cannot_be_run_is_one_line(tmp_path, capsys, arguments, said):
    assert studies.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_run_that_fails_is_named_and_told_by_the_status(tmp_path, capsys):
    missing = str(tmp_path / "missing.csv")
    out = str(tmp_path / "out")
    assert studies.main([missing, "--workers", "2", "--policies", "vllm", "--out", out]) == 1
    assert "missing.csv: no such file" in capsys.readouterr().err


def row_of(policy, workers, tokens_s, **more):
    return {
        "prefill": plan.ELSEWHERE, "trace": "t", "file": "", "workers": workers, "policy": policy,
        "seed": 0, "requests": 9, "per_slot": 0, "interval": 1, "routing": plan.POOLED, "load": 0.0,
        "tokens_s": tokens_s, "failed": None, **more,
    }  # fmt: skip


def test_gains_are_over_vllms_rule_on_the_same_requests():
    found = Results(
        [
            row_of("vllm", 2, 10.0),
            row_of("vllm", 2, 99.0, interval=32),
            row_of("br-0", 2, 11.0),
            row_of("br-0", 4, 30.0),
            row_of("cells:size=1,inner=br-0", 2, 10.5),
            {**row_of("br-h", 2, None), "failed": "had enough"},
        ]
    )
    assert found.mean("gain", policy="br-0", workers=2) == pytest.approx(0.1)
    assert math.isnan(found.mean("gain", policy="br-0", workers=4))
    assert math.isnan(found.mean("gain", policy="br-h", workers=2))
    assert found.sizes(prefill=plan.ELSEWHERE, trace="t") == [2, 4]


def test_traces_of_one_name_are_told_apart_by_what_is_in_them(tmp_path, capsys):
    out, files = tmp_path / "out", [tmp_path / each / "few.csv" for each in ("one", "other")]
    for lengths, path in enumerate(files, start=1):
        path.parent.mkdir()
        path.write_text(f"prompt_tokens,output_tokens\n{100 * lengths},{10 * lengths}\n")
    asked = ["--workers", "2,4", "--policies", "vllm", "--requests", "600", "--out", str(out)]
    steps = []
    for given in (files[:1], files[1:], files):
        assert studies.main([*map(str, given), *asked]) == 0
        steps.append([row["steps"] for row in pq.read_table(out / "results.parquet").to_pylist()])
    assert steps[0] != steps[1]
    assert steps[2] == steps[0] + steps[1]
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == "4 of 4 runs"
    for path in files:
        assert f"few {plan.print_of_file(str(path))}, 600 requests" in printed.out


def test_a_preset_and_a_file_of_its_name_have_tables_of_their_own():
    rows = [row_of("vllm", 2, 10.0), row_of("vllm", 2, 20.0, file="abc"), row_of("br-0", 2, 30.0)]
    found = Results(rows)
    assert [each["trace"] for each in found.settings()] == ["t preset", "t abc"]
    assert found.mean("gain", policy="br-0") == pytest.approx(2.0)


def test_the_policy_within_cells_is_told():
    assert inner_of("cells:size=64,d=2,inner=jsq-load") == "jsq-load"
    assert inner_of("cells") == "br-ramp"
    assert inner_of("br-h:horizon=4") == "br-h:horizon=4"
