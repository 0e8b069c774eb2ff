"""`brsolver load` on a real vLLM: what it reports is what the engine's own metrics say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rig.servers import MODEL, model_folder, rig_server

from brsolver.traces import load_trace
from brsolver.traces.trace import Trace
from integration.load.params import ContentParams, LoadParams, Pace, TargetParams
from integration.load.running import Loaded, run_load
from integration.load.saving import vllm_result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration.bench.server import Server

pytestmark = pytest.mark.vllm

BLOCK = 32
TRACE_BLOCK = 64
_SAMPLE = re.compile(r"^vllm:(\w+)(?:\{[^\n]*\})? ([-+.\deE]+)$", re.MULTILINE)
COUNTS = {
    "prompt": "prompt_tokens_total",
    "output": "generation_tokens_total",
    "ended": "e2e_request_latency_seconds_count",
    "e2e_s": "e2e_request_latency_seconds_sum",
    "begun": "time_to_first_token_seconds_count",
    "ttft_s": "time_to_first_token_seconds_sum",
    "asked": "prefix_cache_queries_total",
    "hits": "prefix_cache_hits_total",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One rank with a prefix cache, so that what it holds does not depend on routing."""
    with rig_server(ranks=1, slots=8, arguments=("--block-size", str(BLOCK))) as running:
        yield running


def metrics(server: Server) -> dict[str, float]:
    total: Counter[str] = Counter()
    for name, value in _SAMPLE.findall(server.get("/metrics")):
        total[name] += float(value)
    return {short: total[name] for short, name in COUNTS.items()}


def loaded(server: Server, trace: Trace, **more: object) -> tuple[Loaded, dict[str, float]]:
    """Load the server; return what became of it, and by how much the engine's counts grew."""
    before = metrics(server)
    pace = more.pop("pace", Pace(concurrency=4))
    content = ContentParams(**more)  # type: ignore[arg-type] # a test's own
    found = run_load(
        trace,
        LoadParams(target=TargetParams(url=server.url), pace=pace, content=content, warm_up=0),  # type: ignore[arg-type] # a test's own
    )
    after = metrics(server)
    return found, {name: after[name] - before[name] for name in after}


def mixed(count: int, seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace(
        prompt_tokens=rng.integers(3, 200, count),
        output_tokens=rng.integers(1, 24, count),
        arrival_s=np.sort(rng.uniform(0, 1, count)),
        name="mixed",
    )


@pytest.mark.parametrize("pace", [Pace(), Pace(concurrency=4), Pace(rate=20.0)])
def test_tokens_are_those_asked_for_and_the_engines_own(server: Server, pace: Pace) -> None:
    trace = mixed(24, seed=1)
    found, grown = loaded(server, trace, pace=pace)
    assert found.figures.complete == len(trace)
    assert all(reply.told for reply in found.replies)
    assert [reply.tokens for reply in found.replies] == trace.output_tokens.tolist()
    assert [reply.prompt_tokens for reply in found.replies] == trace.prompt_tokens.tolist()
    assert grown["output"] == found.figures.output_tokens == trace.output_tokens.sum()
    assert grown["prompt"] == found.figures.prompt_tokens == trace.prompt_tokens.sum()


def test_latencies_enclose_those_of_the_engines_histograms(server: Server) -> None:
    trace = mixed(24, seed=2)
    found, grown = loaded(server, trace)
    assert grown["begun"] == grown["ended"] == len(trace)
    # The engine counts from when it has a request to when it has a token; both are within ours.
    ttft = sum(reply.ttft_s for reply in found.replies)
    e2e = sum(reply.e2e_s for reply in found.replies)
    assert 0 < grown["ttft_s"] <= ttft
    assert 0 < grown["e2e_s"] <= e2e
    assert grown["ttft_s"] <= grown["e2e_s"]
    assert ttft <= e2e


def test_words_are_as_many_tokens_as_the_trace_has(server: Server) -> None:
    trace = mixed(12, seed=3)
    tokenizer = str(model_folder(weights=False) / "tokenizer.json")
    found, grown = loaded(server, trace, prompts="text", tokenizer=tokenizer)
    assert [reply.prompt_tokens for reply in found.replies] == trace.prompt_tokens.tolist()
    assert grown["prompt"] == trace.prompt_tokens.sum()


VLLMS = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def test_results_have_every_field_that_vllms_own_have(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "theirs.json"
    command = [sys.executable, "-c", VLLMS, "--base-url", server.url, "--model", MODEL]
    command += ["--tokenizer", str(model_folder()), "--dataset-name", "random"]
    command += ["--random-input-len", "8", "--random-output-len", "4", "--num-prompts", "3"]
    # So that it tells of its queue, too.
    command += ["--request-rate", "50", "--max-concurrency", "2"]
    times = ("ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue")
    command += ["--percentile-metrics", ",".join(times), "--metric-percentiles", "50,90,95,99"]
    command += ["--save-result", "--save-detailed", "--result-filename", str(out)]
    subprocess.run([*command, "--disable-tqdm"], check=True, cwd=tmp_path, capture_output=True)
    theirs = json.loads(out.read_text())
    target = TargetParams(url=server.url)
    found, _ = loaded(server, mixed(3, seed=9))
    ours = vllm_result(found, LoadParams(target=target))
    assert set(theirs) <= set(ours)
    for name, value in theirs.items():
        assert isinstance(ours[name], list) == isinstance(value, list), name
    assert {f"p99_{each}_ms" for each in times} <= set(theirs)


def conversations(path: Path, count: int, turns: int, delay_s: float, seed: int) -> Trace:
    """Sessions whose turns begin with all of the turns before, and the first with one preamble."""
    lines = []
    for turn in range(turns):
        for session in range(count):
            first = 1000 * seed + 10 + turns * session
            blocks = [1000 * seed, 1000 * seed + 1, *range(first, first + turn + 1)]
            row = {
                "prompt_tokens": TRACE_BLOCK * len(blocks) - 5,
                "output_tokens": 4,
                "session": session,
                "hash_ids": blocks,
            }
            when = {"delay_s": delay_s} if turn else {"arrival_s": 0.0}
            lines.append(json.dumps(row | when))
    path.write_text("\n".join(lines) + "\n")
    return load_trace(str(path))


def held_tokens(trace: Trace, order: list[int]) -> int:
    """Tokens that a cache has of prompts which come one after another, by the trace's hashes."""
    values, offsets = trace.columns["hash_values"].tolist(), trace.columns["hash_offsets"].tolist()
    before: list[tuple[list[int], int]] = []
    found = 0
    for row in order:
        blocks, size = values[offsets[row] : offsets[row + 1]], int(trace.prompt_tokens[row])
        # The last token is always computed, and only whole blocks of the engine's are kept.
        shared = (min(common(blocks, other), length) for other, length in before)
        found += min(max(shared, default=0), size - 1) // BLOCK * BLOCK
        before.append((blocks, size))
    return found


def common(blocks: list[int], others: list[int]) -> int:
    """Tokens by which two chains of the trace's blocks begin alike."""
    alike = [a == b for a, b in zip(blocks, others, strict=False)]
    return TRACE_BLOCK * (alike.index(False) if False in alike else len(alike))


def test_shared_prefixes_are_found_in_the_real_cache(server: Server, tmp_path: Path) -> None:
    trace = conversations(tmp_path / "trace.jsonl", 3, 3, 0.0, seed=1)
    found, grown = loaded(server, trace, pace=Pace(concurrency=1), block=TRACE_BLOCK)
    assert found.figures.complete == len(trace)
    order = sorted(range(len(trace)), key=lambda row: found.replies[row].sent_s)
    assert grown["asked"] == trace.prompt_tokens.sum()
    assert grown["hits"] == held_tokens(trace, order) > 0


def test_other_prompts_of_other_seeds_are_not(server: Server) -> None:
    trace = mixed(8, seed=4)
    _, first = loaded(server, trace, seed=11)
    _, other = loaded(server, trace, seed=12)
    _, again = loaded(server, trace, seed=12, pace=Pace(concurrency=1))
    assert first["hits"] == other["hits"] == 0
    whole = (trace.prompt_tokens - 1) // BLOCK * BLOCK
    assert again["hits"] == whole.sum() > 0


def test_turns_follow_with_their_delay(server: Server, tmp_path: Path) -> None:
    delay_s = 0.25
    trace = conversations(tmp_path / "trace.jsonl", 3, 3, delay_s, seed=2)
    found, grown = loaded(server, trace, pace=Pace(), block=TRACE_BLOCK)
    assert found.figures.complete == grown["ended"] == len(trace)
    replies = found.replies
    for row, previous in enumerate(trace.previous.tolist()):
        if previous >= 0:
            assert replies[row].due_s == pytest.approx(replies[previous].end_s + delay_s)
            assert replies[row].sent_s >= replies[row].due_s
    # Whoever went first, a turn finds at least what its own session left behind.
    later = trace.previous >= 0
    own = (trace.prompt_tokens[trace.previous[later]] // BLOCK * BLOCK).sum()
    assert grown["hits"] >= own


def test_the_command_writes_what_the_engine_did(server: Server, tmp_path: Path) -> None:
    source, out, result = (tmp_path / name for name in ("in.csv", "out.parquet", "vllm.json"))
    rows = [(3 + 7 * i, 1 + i % 5) for i in range(10)]
    lines = [f"{0.05 * i:.2f},{p},{o}" for i, (p, o) in enumerate(rows)]
    source.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    before = metrics(server)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "brsolver", "load", source, "--target", server.url),
            *("--json", "--warm-up", "2", "--out", out, "--vllm-json", result),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, after = json.loads(done.stdout), metrics(server)
    assert told["complete"] == len(rows)
    assert after["ended"] - before["ended"] == len(rows) + 2
    assert told["output_tokens"] == sum(tokens for _, tokens in rows)
    written = load_trace(str(out))
    assert written.prompt_tokens.tolist() == [prompt for prompt, _ in rows]
    assert written.output_tokens.tolist() == [tokens for _, tokens in rows]
    assert json.loads(result.read_text())["completed"] == len(rows)
