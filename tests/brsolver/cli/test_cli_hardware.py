"""``brsolver hardware``, and ``--hardware`` of commands that run something."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brsolver.cli.hardware import parse_experts, parse_range
from brsolver.errors import ParameterError
from brsolver.hardware import preset_names, read_hardware
from brsolver.options import parameter
from brsolver.simulator.params import SimulationParams

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROMISED = {
    *("rows", "base_s", "per_sequence_s", "per_kv_token_s", "per_prefill_token_s"),
    *("median_error", "p95_error"),
}
MINE = """name = "mine"
[step_time]
model = "loads"
base = 0.02
per_sequence = 6e-5
per_token = 4e-8
per_prefill_token = 3e-5
"""


@pytest.fixture
def passes(tmp_path: Path) -> Path:
    """Forward passes of two servers that cost 20 ms + 50 µs + 40 ns + 60 µs + 2 ns."""
    rows = [
        {"model_path": "org/Mini-1", "parallel_strategy": "dep", "dp": dp, "tp": 1}
        | {"batch_size": n, "total_prefill_tokens": p, "total_kv_read_tokens": kv}
        | {"kv_seed_regime": "real_kv", "latency_ms": milliseconds(n, p, kv)}
        for dp in (2, 4)
        for n, p, kv in [
            *((n, 0, n * s) for n in (32, 64, 128, 256) for s in (10, 100, 1000)),
            *((2, p, kv) for p in (512, 1024, 2048) for kv in (0, 8192, 32768)),
        ]
    ]
    path = tmp_path / "passes.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def milliseconds(n: int, prefill: int, kv: int) -> float:
    if prefill:
        return 20 + 0.06 * prefill + 2e-6 * prefill * (kv / n + (prefill / n + 1) / 2)
    return 20 + 0.05 * n + 4e-5 * kv


def test_presets_are_listed(brsolver: Callable[..., Any]) -> None:
    outcome = brsolver("hardware", "list")
    assert (outcome.code, outcome.err) == (0, "")
    for name in preset_names():
        assert name in outcome.out
    assert "25.5 ms" in outcome.out
    rows = json.loads(brsolver("hardware", "list", "--json").out)
    assert [row["name"] for row in rows] == list(preset_names())
    assert all(row["licence"] and row["source"] and row["conditions"] for row in rows)


def test_one_is_shown(brsolver: Callable[..., Any]) -> None:
    outcome = brsolver("hardware", "show", "minimax-m2.7-h200-dp4")
    assert outcome.code == 0
    for text in ("Apache-2.0", "63.2 µs", "1,522 KV tokens", "1.5%; 3.7%", "not identified"):
        assert text in outcome.out
    facts = json.loads(brsolver("hardware", "show", "bfio", "--json").out)
    assert facts["step_time"] == {"model": "affine", "base": 0.005, "per_token": 1e-7}


def test_tables_are_shown(brsolver: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(
        'name = "t"\n[step_time]\nmodel = "table"\nloads = [0, 10]\nseconds = [0.01, 0.02]\n'
    )
    assert "2 values, 0.01 to 0.02" in brsolver("hardware", "show", tmp_path / "t.toml").out


def test_fits_are_printed_as_json(brsolver: Callable[..., Any], passes: Path) -> None:
    outcome = brsolver("hardware", "fit", passes, "--dp", 4, "--sequences", "32:256", "--json")
    assert outcome.code == 0
    facts = json.loads(outcome.out)
    assert set(facts) >= PROMISED
    assert facts["rows"] == 12
    assert facts["prefill_rows"] == 9
    assert facts["base_s"] == pytest.approx(0.02)
    assert facts["per_sequence_s"] == pytest.approx(50e-6)
    assert facts["per_kv_token_s"] == pytest.approx(40e-9)
    assert facts["per_prefill_token_s"] == pytest.approx(60e-6)
    assert facts["per_prefill_context_s"] == pytest.approx(2e-9)
    assert facts["request_tokens"] == 1250
    assert facts["median_error"] == pytest.approx(0, abs=1e-6)
    assert facts["model"] == "org/Mini-1"


def test_fits_are_drawn_and_written(
    brsolver: Callable[..., Any], passes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.toml"
    outcome = brsolver(
        "hardware", "fit", passes, "--dp", 2, "--shared", 0.25, "--out", out, "--name", "mine",
        "--licence", "CC0",
    )  # fmt: skip
    assert outcome.code == 0
    assert outcome.err == f"wrote {out}\n"
    for text in ("decode, by sequences", "25% ←", "Do not believe it", "25% shared is assumed"):
        assert text in outcome.out
    found = read_hardware(str(out))
    assert (found.name, found.licence) == ("mine", "CC0")
    assert found.step_time.per_mean_prefill_token == pytest.approx(15e-6)
    assert "org/Mini-1, dep, dp 2, tp 1" in found.conditions


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("mine.txt", "must end in .toml"),
        ("not/there/mine.toml", "cannot be written: there is no such folder"),
        ("folder.toml", "cannot be written: it is a folder"),
    ],
)
def test_where_it_cannot_be_written_nothing_is_read(
    brsolver: Callable[..., Any], tmp_path: Path, out: str, message: str
) -> None:
    (tmp_path / "folder.toml").mkdir()
    # What was measured is not there either, but is not looked for yet.
    outcome = brsolver("hardware", "fit", tmp_path / "none.csv", "--out", tmp_path / out)
    assert outcome.code == 2
    assert "--out " in outcome.err
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("name", ["rack 7", "-x", "a/b", " "])
def test_a_bad_name_is_refused_before_anything_is_read(
    refused: Callable[..., str], name: str
) -> None:
    text = refused("hardware", "fit", "none.csv", f"--name={name}")
    assert f"--name is {name!r}, must be letters, digits and . _ + -" in text


def test_what_a_reader_leaves_out_is_a_note(brsolver: Callable[..., Any], tmp_path: Path) -> None:
    header = "wave,step,end_s,kv_tokens,running,waiting,scheduled"
    rows, end = [], 0.0
    for step in range(24):
        n, kv = 1 + step % 5, 100 * (1 + step % 7)
        end += 0.01 + 0.001 * n + 1e-6 * kv
        rows.append(f"0,{step},{end},{kv},{n},0,{n}")
    (tmp_path / "rank-0.csv").write_text("\n".join([header, *rows, "0,30,99,1,1,0,1"]) + "\n")
    outcome = brsolver("hardware", "fit", tmp_path, "--json")
    assert outcome.code == 0
    assert "left out 2 steps that begin a wave or follow a gap" in outcome.err
    facts = json.loads(outcome.out)
    assert facts["per_sequence_s"] == pytest.approx(1e-3, rel=1e-6)
    assert facts["per_prefill_token_s"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "holds 2 servers, one must be chosen by --model, --parallel, --dp, --tp"),
        (["--dp", 3], "dp is 3, must be one of 2, 4"),
        (["--parallel", "tep"], "unknown parallel"),
        (["--dp", 4, "--sequences", "64:64"], "sequences is 64 in every decode step, must vary"),
        (["--dp", 4, "--sequences", "64"], "sequences is '64', must be LOW:HIGH"),
        (["--dp", 4, "--sequences", "1:8"], "sequences 1:8 holds no decode step"),
        (["--dp", 4, "--experts", "8/256"], "experts is 0.03125, must be 0 where every step reads"),
        (["--dp", 4, "--shared", 2], "shared is 2, must be from 0 to 1"),
    ],
)
def test_bad_fits_are_refused(
    refused: Callable[..., str], passes: Path, options: list[Any], message: str
) -> None:
    assert message in refused("hardware", "fit", passes, *options)


def test_unknown_hardware_is_refused(refused: Callable[..., str]) -> None:
    assert "unknown hardware 'bfoi': did you mean 'bfio'" in refused("hardware", "show", "bfoi")
    assert "no.toml: cannot be read" in refused("hardware", "show", "no.toml")
    assert "no.csv: cannot be read" in refused("hardware", "fit", "no.csv")


@pytest.mark.parametrize(
    ("text", "value"), [("64:512", (64, 512)), ("64:", (64, float("inf"))), (" : 5", (0, 5))]
)
def test_ranges(text: str, value: tuple[float, float]) -> None:
    assert parse_range("x", text) == value


@pytest.mark.parametrize("text", ["", ":", "1:2:3", "a:b", "-1:2"])
def test_bad_ranges(text: str) -> None:
    with pytest.raises(ParameterError, match="must be LOW:HIGH"):
        parse_range("x", text)


@pytest.mark.parametrize(("text", "value"), [("8/256", 1 / 32), ("", 0), (" 1 / 4 ", 0.25)])
def test_experts(text: str, value: float) -> None:
    assert parse_experts(text) == value


@pytest.mark.parametrize("text", ["8", "8/0", "0/8", "9/8", "a/b", "-1/4", "/"])
def test_bad_experts(text: str) -> None:
    with pytest.raises(ParameterError, match="must be K/N"):
        parse_experts(text)


def test_shown_experts(brsolver: Callable[..., Any]) -> None:
    text = brsolver("hardware", "show", "minimax-m2.7-h200-dp4-experts").out
    assert "16.9 ms" in text
    assert "3.1%" in text


def run(brsolver: Callable[..., Any], trace: Path, *options: object) -> dict[str, Any]:
    outcome = brsolver(
        "simulate", trace, "--policy", "br-0", "--workers", 2, "--slots", 4, "--json", *options
    )
    assert outcome.code == 0, outcome.err
    return dict(json.loads(outcome.out))


def test_runs_take_hardware_by_name_and_from_files(
    brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    named = run(brsolver, trace_file, "--hardware", "minimax-m2.7-h200-dp4")
    assert named["params"]["step_time"]["base"] == 0.025511
    assert named["params"]["step_time"]["hardware"] == "minimax-m2.7-h200-dp4"
    assert named["tpot_mean_s"] > 0.0255
    (tmp_path / "mine.toml").write_text(MINE)
    filed = run(brsolver, trace_file, "--hardware", tmp_path / "mine.toml")
    assert filed["params"]["step_time"]["hardware"] == "mine"


def test_bfio_is_the_step_time_of_old_bit_for_bit(
    brsolver: Callable[..., Any], trace_file: Path
) -> None:
    own = run(brsolver, trace_file, "--step-time", "affine:base=0.005,per_token=1e-7")
    named = run(brsolver, trace_file, "--hardware", "bfio")
    for key in ("makespan_s", "throughput_tok_s", "tpot_p95_s", "avg_imbalance_sum", "energy_j"):
        assert own[key] == named[key]


def test_configuration_files_name_hardware(
    brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    config = tmp_path / "run.toml"
    config.write_text('hardware = "mine.toml"\nworkers = 3\n')
    found = run(brsolver, trace_file, "--config", config)
    assert found["params"]["step_time"]["hardware"] == "mine"
    found = run(brsolver, trace_file, "--config", config, "--hardware", "dpr")
    assert found["params"]["step_time"]["model"] == "max-mean"
    found = run(brsolver, trace_file, "--config", config, "--step-time", "affine:base=0.01")
    assert found["params"]["step_time"]["hardware"] == ""
    params = SimulationParams.from_toml(config)
    assert SimulationParams.from_dict(params.to_dict()) == params


def test_hardware_and_step_time_exclude_each_other(
    refused: Callable[..., str], trace_file: Path, tmp_path: Path
) -> None:
    given = ("--hardware", "bfio", "--step-time", "affine")
    text = refused("simulate", trace_file, "--policy", "br-0", *given)
    assert "--step-time and --hardware exclude each other; give one" in text
    text = refused("compare", trace_file, "--policies", "br-0", "--out", tmp_path / "o", *given)
    assert "exclude each other" in text
    text = refused("gap", trace_file, "--policies", "br-0", *given)
    assert "exclude each other" in text


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('hardware = "bfio"\n[step_time]\nbase = 1\n', "hardware and step_time are given, must be"),
        ("hardware = 3\n", "hardware is 3, must be a text: NAME|FILE.toml"),
        ('hardware = "bfoi"\n', "unknown hardware 'bfoi': did you mean 'bfio'"),
        ('hardware = "none.toml"\n', "none.toml: cannot be read as TOML"),
    ],
)
def test_bad_configurations_are_refused(
    refused: Callable[..., str], trace_file: Path, tmp_path: Path, toml: str, message: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(toml)
    text = refused("simulate", trace_file, "--policy", "br-0", "--config", path)
    assert message in text
    assert str(path) in text


def test_unknown_hardware_of_a_run_is_refused(
    refused: Callable[..., str], trace_file: Path
) -> None:
    text = refused("simulate", trace_file, "--policy", "br-0", "--hardware", "bfoi")
    assert "unknown hardware 'bfoi': did you mean 'bfio'" in text


def test_comparisons_and_gaps_take_hardware(
    brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    outcome = brsolver(
        "compare", trace_file, "--policies", "br-0,jsq-load", "--workers", 2, "--slots", 4,
        "--hardware", "glm-5.2-b200-dp8", "--out", out,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "glm-5.2-b200-dp8" in (out / "report.html").read_text(encoding="utf-8")
    outcome = brsolver(
        "gap", trace_file, "--policies", "br-0", "--workers", 2, "--slots", 3, "--limit", 10,
        "--budget", "2s", "--oracle", "bounds", "--hardware", "dpr", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err


def test_names_of_components_are_options_of_their_own() -> None:
    named = parameter(SimulationParams, "step_time").option
    assert named is not None
    assert named.named is not None
    assert named.named.name == "hardware"


def operator_tables(folder: Path) -> Path:
    """Tables of org/Mini-1 with four ranks: experts of 0.4 µs a token, all else nearly free."""
    about = {"framework": "VLLM", "version": "0.24.0"}
    tables: dict[str, list[dict[str, Any]]] = {
        "gemm": [
            {"gemm_dtype": "bfloat16", "m": m, "n": n, "k": k, "latency": 0.01 + 1e-4 * m}
            for m in (1, 4096) for n in (8, 4096) for k in (8, 4096)
        ],
        "moe": [
            {"moe_dtype": "bfloat16", "num_tokens": n, "hidden_size": 64, "inter_size": 32}
            | {"topk": 2, "num_experts": 8, "moe_tp_size": 1, "moe_ep_size": 4}
            | {"distribution": "balanced", "latency": 0.1 + 4e-4 * n}
            for n in (1, 16384)
        ],
        "nccl": [
            {"nccl_dtype": "half", "num_gpus": 4, "message_size": s, "op_name": name, "latency": 1}
            for name in ("all_gather", "reduce_scatter") for s in (1, 1 << 24)
        ],
        "context_attention": [
            {"batch_size": 1, "isl": isl, "step": 0, "num_heads": 4, "num_key_value_heads": 2}
            | {"head_dim": 16, "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16"}
            | {"latency": 0.01 + 1e-7 * isl * isl}
            for isl in (256, 512, 1024, 2048)
        ],
    }  # fmt: skip
    for operator, rows in tables.items():
        pq.write_table(
            pa.Table.from_pylist([about | row for row in rows]),
            folder / f"{operator}_perf.parquet",
        )
    (folder / "mini.toml").write_text(
        '[model]\nname = "org/Mini-1"\nlayers = 2\nhidden = 64\nheads = 4\nkv_heads = 2\n'
        "head_size = 16\nexperts = 8\nexperts_per_token = 2\nexpert_size = 32\n"
        'distribution = "balanced"\n'
    )
    return folder


def test_fits_take_what_ranks_share_from_operators(
    brsolver: Callable[..., Any], passes: Path, tmp_path: Path
) -> None:
    folder, out = operator_tables(tmp_path), tmp_path / "out.toml"
    given = ("--dp", 4, "--operators", folder, "--shape", folder / "mini.toml")
    outcome = brsolver("hardware", "fit", passes, *given, "--json", "--out", out)
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    # Experts of four ranks' tokens, against three products.
    share = 4 * 4e-4 / (4 * 4e-4 + 3e-4)
    assert facts["shared"] == pytest.approx(share, rel=1e-4)
    assert facts["shared_source"] == "operators"
    assert facts["sequence_shared"] == 0
    assert facts["per_prefill_token_s"] == pytest.approx(60e-6)
    told = facts["operators"]
    assert told["prefill"]["range"] == [1024, 2048]
    assert told["prefill"]["spread"] == pytest.approx([share, share], rel=1e-3)
    assert told["prefill"]["each_s"] == pytest.approx(2e-3 * (4 * 4e-4 + 3e-4), rel=1e-4)
    assert [size["tokens"] for size in told["sizes"]] == [512, 1024, 2048]
    assert "operators read: moe of VLLM 0.24.0" in outcome.err
    assert "generation_attention_perf is missing: sequences stay bound" in outcome.err
    found = read_hardware(str(out))
    assert found.step_time.per_mean_prefill_token == pytest.approx(share * 60e-6, rel=1e-4)
    assert (found.fit.shared_source, found.fit.shared_tokens) == ("operators", (1024, 2048))
    assert (
        "84%, from tables of operators at 1,024 to 2,048" in brsolver("hardware", "show", out).out
    )
    text = brsolver("hardware", "fit", passes, *given).out
    assert "operators of org/Mini-1, 4 ranks, all layers" in text
    assert "84% ←" in text
    assert "84% of a prefill token shared is from tables of operators" in text


def test_where_a_share_is_from_is_written(brsolver: Callable[..., Any], passes: Path) -> None:
    for options, source in (((), "default"), (("--shared", 0.25), "option")):
        outcome = brsolver("hardware", "fit", passes, "--dp", 4, "--json", *options)
        facts = json.loads(outcome.out)
        assert (facts["shared_source"], facts["operators"]) == (source, None)
    text = brsolver("hardware", "fit", passes, "--dp", 4).out
    assert "50%, from the default" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shared", 0.5, "--operators", "d"], "--shared and --operators exclude each other; giv"),
        (["--shape", "glm-5"], "--shape is given without --operators, must be with its tables"),
        (
            ["--dp", 4, "--operators", "none"],
            "--shape is not given and none is known of org/Mini-1",
        ),
        (["--dp", 4, "--operators", "none", "--shape", "glm"], "unknown shape 'glm'"),
        (["--dp", 4, "--operators", "none", "--shape", "glm-5"], "none: cannot be read: there is"),
    ],
)
def test_bad_operators_are_refused(
    refused: Callable[..., str], passes: Path, options: list[Any], message: str
) -> None:
    assert message in refused("hardware", "fit", passes, *options)


def test_ranks_of_several_gpus_have_other_operators(
    refused: Callable[..., str], passes: Path, tmp_path: Path
) -> None:
    folder = operator_tables(tmp_path)
    rows = [row | {"tp": 2} for row in pq.read_table(passes).to_pylist() if row["dp"] == 2]
    pq.write_table(pa.Table.from_pylist(rows), folder / "tp.parquet")
    text = refused(
        "hardware", "fit", folder / "tp.parquet", "--operators", folder,
        "--shape", folder / "mini.toml",
    )  # fmt: skip
    assert "tp is 2 in" in text
    assert "must be 1: attention data parallel, a GPU a rank" in text
