"""`brsolver load` beside other clients on the same server, and how many streams it sustains.

    python -m benchmarks.bench_load capacity --streams 100,500,1000
    python -m benchmarks.bench_load agree --rounds 3 --vllm .vllm-rig/bin/python \
        --guidellm guidellm

`agree` sends the same requests at the same times to a fake engine (or to --target), by each client
in turn. `--vllm` is an interpreter that has vLLM, `--guidellm` that program; a client that is not
named is left out. Both need a tokenizer; without `--tokenizer` one is trained on the documentation.
`capacity` has compiled fake engines, whose tokens come every 40 ms, and raises the number of
streams; a C compiler is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._table import show
from benchmarks.serve.programs import compile_all, running_engines
from brsolver.traces import Trace
from integration.load.params import ContentParams, LoadParams, Pace, TargetParams
from integration.load.running import run_load
from integration.serve.processes import Running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CLOCK_S = 0.04
TOKENS = 100
BLOCK = 16
CHARACTERS = 2.54
"""Of a token of guidellm's texts, by the tokenizer that is trained here; others send numbers."""
VOCABULARY = 3000
VLLM = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
FIGURES = (
    "prompt_tokens",
    "requests_per_s",
    "output_tok_s",
    *(f"{name}_{p}_ms" for name in ("ttft", "tpot", "e2e") for p in ("p50", "p99")),
)


class Engine(Running):
    """A fake engine; its `url` is known once it is up."""

    def __init__(self, ranks: int, speed: float) -> None:
        self.url = ""
        options = ["--ranks", str(ranks), "--slots", "32", "--port", "0", "--speed", str(speed)]
        options += ["--characters-per-token", str(CHARACTERS)]
        super().__init__(["fake-engine", *options], ready=self._said)

    def _said(self, line: str) -> bool:
        if line.startswith("http"):
            self.url = line.split(maxsplit=1)[0]
        return line == "ready"


def write_tokenizer(folder: Path) -> None:
    """Train a small tokenizer on the documentation, and write it as transformers reads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pages = sorted(Path(__file__).parents[1].glob("docs/*.md"))
    made.train_from_iterator((page.read_text(encoding="utf-8") for page in pages), trainer)
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100_000}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_requests(path: Path, requests: int, rate: float, seed: int) -> None:
    """Write requests as a Mooncake file, which all clients read; no two prompts begin alike."""
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(1 / rate, requests))
    block = 0
    with path.open("w", encoding="utf-8") as stream:
        for seconds in at - at[0]:
            prompt, output = int(rng.integers(100, 900)), int(rng.integers(10, 80))
            blocks = -(-prompt // BLOCK)
            row = {
                "timestamp": round(1000 * float(seconds)),
                "input_length": prompt,
                "output_length": output,
                "hash_ids": list(range(block, block + blocks)),
            }
            block += blocks
            stream.write(json.dumps(row) + "\n")


def ours(url: str, path: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return the figures of `brsolver load`: latencies from the sending, as others count them.

    Those from when requests were due, as it reports them itself, have `due` in their names.
    """
    out = path.with_name("ours.json")
    command = [sys.executable, "-m", "brsolver", "load", path, "--target", url, "--json"]
    command += ["--block", str(BLOCK), "--vllm-json", out]
    if given.concurrency:
        command += ["--concurrency", str(given.concurrency)]
    told = json.loads(_run(command))
    detailed = json.loads(out.read_text())
    late = np.array(detailed["queue_times"])
    sent = {
        "ttft": np.array(detailed["ttfts"]) - late,
        "e2e": np.array(detailed["latencies"]) - late,
    }
    spreads = {
        f"{name}_p{p}_ms": float(1e3 * np.percentile(values, p))
        for name, values in sent.items()
        for p in (50, 99)
    }
    for name, theirs in (
        ("tpot", "tpot"),
        ("due_ttft", "ttft"),
        ("due_e2e", "e2e"),
        ("late", "late"),
    ):
        spreads |= {f"{name}_{p}_ms": told[f"{theirs}_ms"][p] for p in ("p50", "p99")}
    return {
        "requests_per_s": told["requests_per_s"],
        "output_tok_s": told["output_tok_s"],
        "prompt_tokens": told["prompt_tokens"] / told["complete"],
    } | spreads


def vllms(url: str, path: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return the figures of ``vllm bench serve``."""
    out = path.with_name("vllm.json")
    command = [given.vllm, "-c", VLLM, "--base-url", url, "--model", given.model]
    command += ["--tokenizer", given.tokenizer, "--dataset-name", "timed_trace"]
    command += ["--dataset-path", path, "--timed-trace-sec-multiplier", "0.001"]
    command += ["--num-prompts", str(given.requests), "--backend", "openai", "--temperature", "0"]
    command += ["--percentile-metrics", "ttft,tpot,e2el", "--metric-percentiles", "50,99"]
    command += ["--save-result", "--result-filename", out, "--disable-tqdm"]
    if given.concurrency:
        command += ["--no-self-timed", "--max-concurrency", str(given.concurrency)]
    _run(command)
    told = json.loads(out.read_text())
    spreads = {
        f"{name}_{p}_ms": told[f"{p}_{theirs}_ms"]
        for name, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("e2e", "e2el"))
        for p in ("p50", "p99")
    }
    return {
        "requests_per_s": told["request_throughput"],
        "output_tok_s": told["output_throughput"],
        "prompt_tokens": told["total_input_tokens"] / told["completed"],
    } | spreads


def guidellms(url: str, path: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return the figures of guidellm; its inter-token latency is what others call TPOT."""
    out = path.with_name("guidellm.json")
    data = {
        "kind": "trace_synthetic",
        "time_scale": 0.001,
        "source": {"kind": "json_file", "path": str(path)},
    }
    profile = "kind=replay,schedule_turn=timestamp"
    if given.concurrency:
        profile = f"kind=concurrent,streams={given.concurrency}"
    backend = f"kind=openai_http,target={url},model={given.model},request_format=/v1/completions"
    command = [given.guidellm, "run", "--backend", backend, "--data", json.dumps(data)]
    command += ["--tokenizer", f"kind=huggingface_auto,model={given.tokenizer}"]
    command += ["--profile", profile, "--output", f"kind=json,path={out}"]
    command += ["--disable-console-interactive"]
    _run(command, GUIDELLM__MAX_WORKER_PROCESSES="1")
    report = json.loads(out.read_text())["benchmarks"][0]
    metrics, when = report["metrics"], report["scheduler_metrics"]
    # Its own rates are means over moments, not counts by the duration.
    seconds = when["request_end_time"] - when["request_start_time"]

    def of(name: str) -> dict[str, Any]:
        found: dict[str, Any] = metrics[name]["successful"]
        return found

    spreads = {
        f"{name}_{p}_ms": scale * of(theirs)["percentiles"][p]
        for name, theirs, scale in (
            ("ttft", "time_to_first_token_ms", 1.0),
            ("tpot", "inter_token_latency_ms", 1.0),
            ("e2e", "request_latency", 1e3),
        )
        for p in ("p50", "p99")
    }
    return {
        "requests_per_s": of("request_latency")["count"] / seconds,
        "output_tok_s": of("output_token_count")["total_sum"] / seconds,
        "prompt_tokens": of("prompt_token_count")["mean"],
    } | spreads


def _run(command: list[Any], **environment: str) -> str:
    try:
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        )
    except OSError as error:
        sys.exit(f"bench_load: {command[0]} cannot be started: {error.strerror}")
    if done.returncode:
        sys.exit(f"bench_load: {command[0]} failed: {done.stderr.strip()[-400:]}")
    return done.stdout


def agree(given: argparse.Namespace) -> None:
    """Print the figures of each client, and how far ours are from the others'."""
    clients: dict[str, Callable[[str, Path, argparse.Namespace], dict[str, float]]]
    clients = {"brsolver load": ours}
    if given.vllm:
        clients["vllm bench serve"] = vllms
    if given.guidellm:
        clients["guidellm"] = guidellms
    found: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
    with tempfile.TemporaryDirectory(prefix="brsolver-load-") as folder, ExitStack() as stack:
        if given.tokenizer is None:
            given.tokenizer = str(Path(folder) / "tokenizer")
            write_tokenizer(Path(given.tokenizer))
        url = given.target or stack.enter_context(Engine(given.ranks, given.speed)).url
        for round_ in range(given.rounds):
            path = Path(folder) / f"requests{round_}.jsonl"
            write_requests(path, given.requests, given.rate, round_)
            for name, client in clients.items():
                found[name].append(client(url, path, given))
                print(f"round {round_}, {name}: {_short(found[name][-1])}", file=sys.stderr)
    middle = {
        name: {figure: median(each[figure] for each in runs) for figure in FIGURES}
        for name, runs in found.items()
    }
    pace = f"{given.concurrency} in flight" if given.concurrency else f"{given.rate:g} per second"
    title = f"{given.requests} requests, {pace}, medians of {given.rounds} rounds"
    show(title, ["figure", *middle, *(f"to {name}" for name in list(middle)[1:])], _rows(middle))


def _rows(middle: Mapping[str, Mapping[str, float]]) -> list[list[object]]:
    mine, *others = middle.values()
    return [
        [
            figure,
            *(f"{each[figure]:.2f}" for each in middle.values()),
            *(f"{mine[figure] / each[figure] - 1:+.1%}" for each in others),
        ]
        for figure in FIGURES
    ]


def _short(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in figures.items())


def capacity(given: argparse.Namespace) -> None:
    """Print what the client makes of more and more streams."""
    with tempfile.TemporaryDirectory(prefix="brsolver-load-") as folder:
        compile_all(Path(folder))
        with running_engines(Path(folder), 1) as engines:
            engines.set_clock(CLOCK_S)
            url = f"http://127.0.0.1:{engines.ports[0]}"
            rows = [_streams(url, int(streams)) for streams in given.streams.split(",")]
    show(
        f"streams of a token every {1e3 * CLOCK_S:g} ms, {TOKENS} tokens each",
        [
            "streams",
            "tok/s",
            "to the server's",
            "busy",
            "CPU us/tok",
            "TPOT P50, ms",
            "P99",
            "lag P99",
        ],
        rows,
    )


def _streams(url: str, streams: int) -> list[object]:
    requests = 3 * streams
    trace = Trace(
        prompt_tokens=np.full(requests, 100), output_tokens=np.full(requests, TOKENS), name="equal"
    )
    params = LoadParams(
        target=TargetParams(url=url),
        pace=Pace(concurrency=streams),
        content=ContentParams(),
        warm_up=0,
    )
    figures = run_load(trace, params).figures
    return [
        streams,
        f"{figures.output_tok_s:,.0f}",
        f"{figures.output_tok_s / (streams / CLOCK_S):.1%}",
        f"{figures.busy:.0%}",
        f"{1e6 * figures.busy / figures.output_tok_s:.1f}",
        f"{1e3 * figures.tpot.p50:.2f}",
        f"{1e3 * figures.tpot.p99:.2f}",
        f"{1e3 * figures.lag.p99:.1f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("agree")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--requests", type=int, default=200)
    one.add_argument("--rate", type=float, default=8.0)
    one.add_argument("--concurrency", type=int, default=0, help="a closed loop instead of times")
    one.add_argument("--ranks", type=int, default=2)
    one.add_argument("--speed", type=float, default=1.0, help="of the fake engine")
    one.add_argument("--target", help="a server of your own instead of a fake engine")
    one.add_argument("--model", default="fake")
    one.add_argument("--vllm", help="interpreter that has vLLM")
    one.add_argument("--guidellm", help="the program")
    one.add_argument("--tokenizer", help="folder of the model's tokenizer, for both")
    one.set_defaults(part=agree)
    two = parts.add_parser("capacity")
    two.add_argument("--streams", default="100,250,500,1000,1500,2000")
    two.set_defaults(part=capacity)
    given = parser.parse_args(arguments)
    given.part(given)


if __name__ == "__main__":
    main()
