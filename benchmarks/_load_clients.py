"""The same requests by each client in turn, and what each saw of every one of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Client = Callable[[str, Path, argparse.Namespace], "Seen"]

BLOCK = 16
"""Tokens of a block of ``hash_ids``."""
TOKENIZER = "trained/here"
"""By which aiperf knows its tokenizer."""
POINTS = (50, 99)
LATENCIES = ("ttft", "tpot", "e2e")
RATES = ("requests_per_s", "output_tok_s")
FIGURES = (
    "prompt_tokens",
    *RATES,
    *(f"{name}_p{p}_ms" for name in LATENCIES for p in POINTS),
)
VLLM = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a client saw.

    Attributes
    ----------
    told : dict of str to float
        Its own figures, `FIGURES`.
    prompt_tokens, output_tokens : ndarray of int64, shape (n,)
        Of each request, by the server's usage.
    ttft_s, tpot_s, e2e_s : ndarray of float64, shape (n,)
        Of each request, from its sending, to its last token.
    """

    told: dict[str, float]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    e2e_s: NDArray[np.float64]

    @property
    def figures(self) -> dict[str, float]:
        """Its figures by one definition for all: percentiles linear between requests."""
        return {name: self.told[name] for name in RATES} | {
            "prompt_tokens": float(self.prompt_tokens.mean()),
            **percentiles({name: getattr(self, f"{name}_s") for name in LATENCIES}),
        }


def percentiles(seconds: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return percentiles in milliseconds, of values that are NaN none."""
    return {
        f"{name}_p{p}_ms": float(1e3 * np.nanpercentile(values, p))
        for name, values in seconds.items()
        for p in POINTS
    }


def ours(url: str, path: Path, given: argparse.Namespace) -> Seen:
    """Load by `brsolver load`: latencies from the sending, as others count them."""
    out = path.with_name("ours.json")
    command = [sys.executable, "-m", "brsolver", "load", path, "--target", url, "--json"]
    command += ["--block", str(BLOCK), "--vllm-json", out]
    if given.concurrency:
        command += ["--concurrency", str(given.concurrency)]
    told = json.loads(run(command))
    detailed = json.loads(out.read_text())
    ttft, e2e = np.array(detailed["ttfts"]), np.array(detailed["latencies"])
    late, tokens = np.array(detailed["queue_times"]), np.array(detailed["output_lens"])
    seconds = {"ttft": ttft - late, "e2e": e2e - late, "tpot": _tpot(ttft, e2e, tokens)}
    return Seen(
        told={
            "requests_per_s": told["requests_per_s"],
            "output_tok_s": told["output_tok_s"],
            "prompt_tokens": told["prompt_tokens"] / told["complete"],
            **percentiles(seconds),
        },
        prompt_tokens=np.array(detailed["input_lens"]),
        output_tokens=tokens,
        **{f"{name}_s": values for name, values in seconds.items()},
    )


def _tpot(
    ttft: NDArray[np.float64], e2e: NDArray[np.float64], tokens: NDArray[np.int64]
) -> NDArray[np.float64]:
    return np.where(tokens > 1, (e2e - ttft) / np.maximum(tokens - 1, 1), np.nan)


def vllms(url: str, path: Path, given: argparse.Namespace) -> Seen:
    """Load by ``vllm bench serve``."""
    out = path.with_name("vllm.json")
    command = [given.vllm, "-c", VLLM, "--base-url", url, "--model", given.model]
    command += ["--tokenizer", given.tokenizer, "--dataset-name", "timed_trace"]
    command += ["--dataset-path", path, "--timed-trace-sec-multiplier", "0.001"]
    command += ["--num-prompts", str(given.requests), "--backend", "openai", "--temperature", "0"]
    command += ["--percentile-metrics", "ttft,tpot,e2el", "--metric-percentiles", "50,99"]
    command += ["--save-result", "--save-detailed", "--result-filename", out, "--disable-tqdm"]
    if given.concurrency:
        command += ["--no-self-timed", "--max-concurrency", str(given.concurrency)]
    run(command)
    told = json.loads(out.read_text())
    ttft, tokens = np.array(told["ttfts"]), np.array(told["output_lens"])
    e2e = ttft + np.array([sum(gaps) for gaps in told["itls"]])
    figures = {
        f"{name}_{p}_ms": told[f"{p}_{theirs}_ms"]
        for name, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("e2e", "e2el"))
        for p in ("p50", "p99")
    }
    return Seen(
        told={
            "requests_per_s": told["request_throughput"],
            "output_tok_s": told["output_throughput"],
            "prompt_tokens": told["total_input_tokens"] / told["completed"],
            **figures,
        },
        prompt_tokens=np.array(told["input_lens"]),
        output_tokens=tokens,
        ttft_s=ttft,
        tpot_s=_tpot(ttft, e2e, tokens),
        e2e_s=e2e,
    )


def guidellms(url: str, path: Path, given: argparse.Namespace, slots: int | None = None) -> Seen:
    """Load by guidellm, whose inter-token latency is what others call TPOT.

    Its worker makes a task for each request that there could be before it sends one, 10,240 where
    arrivals are recorded, unless `slots` says how many there can be.
    """
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
    limit = {} if slots is None else {"GUIDELLM__MAX_CONCURRENCY": str(slots)}
    run(command, GUIDELLM__MAX_WORKER_PROCESSES="1", **limit)
    return _of_guidellm(json.loads(out.read_text())["benchmarks"][0])


def _of_guidellm(report: dict[str, Any]) -> Seen:
    metrics, when = report["metrics"], report["scheduler_metrics"]
    # Its own rates are means over moments, not counts by the duration.
    seconds = when["request_end_time"] - when["request_start_time"]

    def of(name: str) -> dict[str, Any]:
        found: dict[str, Any] = metrics[name]["successful"]
        return found

    figures = {
        f"{name}_{p}_ms": scale * of(theirs)["percentiles"][p]
        for name, theirs, scale in (
            ("ttft", "time_to_first_token_ms", 1.0),
            ("tpot", "inter_token_latency_ms", 1.0),
            ("e2e", "request_latency", 1e3),
        )
        for p in ("p50", "p99")
    }
    each = report["requests"]["successful"]
    sent, last = (_times(each, name) for name in ("request_start", "last_token_iteration"))
    return Seen(
        told={
            "requests_per_s": of("request_latency")["count"] / seconds,
            "output_tok_s": of("output_token_count")["total_sum"] / seconds,
            "prompt_tokens": of("prompt_token_count")["mean"],
            **figures,
        },
        prompt_tokens=np.array([one["prompt_tokens"] for one in each]),
        output_tokens=np.array([one["output_tokens"] for one in each]),
        ttft_s=_times(each, "first_token_iteration") - sent,
        tpot_s=np.array([(one["inter_token_latency_ms"] or np.nan) / 1e3 for one in each]),
        e2e_s=last - sent,
    )


def _times(requests: Sequence[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([one["info"]["timings"][name] for one in requests])


def aiperfs(url: str, path: Path, given: argparse.Namespace) -> Seen:
    """Load by aiperf, whose inter-token latency is what others call TPOT."""
    folder = path.with_name("aiperf")
    shutil.rmtree(folder, ignore_errors=True)
    command = [given.aiperf, "profile", "--model", given.model, "--url", url]
    command += ["--endpoint-type", "completions", "--streaming", "--ui", "none"]
    command += ["--tokenizer", TOKENIZER, "--use-server-token-count"]
    command += ["--input-file", path, "--custom-dataset-type", "mooncake_trace"]
    command += ["--prompt-input-tokens-block-size", str(BLOCK), "--random-seed", "0"]
    command += ["--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0"]
    command += ["--output-artifact-dir", folder, "--no-server-metrics", "--no-gpu-telemetry"]
    command += ["--workers-max", "1"]
    if given.concurrency:
        command += ["--no-fixed-schedule", "--concurrency", str(given.concurrency)]
        command += ["--request-count", str(given.requests)]
        command += ["--dataset-sampling-strategy", "sequential"]
    run(command, HF_HUB_CACHE=str(_cached(Path(given.tokenizer), path.parent)))
    told = json.loads((folder / "profile_export_aiperf.json").read_text())
    lines = (folder / "profile_export.jsonl").read_text().splitlines()
    return _of_aiperf(told, [json.loads(line)["metrics"] for line in lines])


def _cached(tokenizer: Path, folder: Path) -> Path:
    """Return a cache of downloads that has a tokenizer as `TOKENIZER`.

    Offline aiperf takes no tokenizer from elsewhere.
    """
    cache = folder / "hub"
    model = cache / f"models--{TOKENIZER.replace('/', '--')}"
    if not model.exists():
        (model / "refs").mkdir(parents=True)
        (model / "refs" / "main").write_text("local")
        shutil.copytree(tokenizer, model / "snapshots" / "local")
    return cache


def _of_aiperf(told: dict[str, Any], each: list[dict[str, Any]]) -> Seen:
    names = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2e": "request_latency"}

    def column(name: str, scale: float = 1.0) -> NDArray[Any]:
        return np.array([one[name]["value"] / scale if name in one else np.nan for one in each])

    return Seen(
        told={
            "requests_per_s": told["request_throughput"]["avg"],
            "output_tok_s": told["output_token_throughput"]["avg"],
            "prompt_tokens": told["input_sequence_length"]["avg"],
            **{
                f"{name}_{p}_ms": told[theirs][p]
                for name, theirs in names.items()
                for p in ("p50", "p99")
            },
        },
        prompt_tokens=column("input_sequence_length").astype(np.int64),
        output_tokens=column("output_sequence_length").astype(np.int64),
        **{f"{name}_s": column(theirs, 1e3) for name, theirs in names.items()},
    )


def run(command: list[Any], **environment: str) -> str:
    """Run a client to its end and return what it printed; end with one line if it fails."""
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
        sys.exit(f"bench_load: {command[0]} failed: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout
