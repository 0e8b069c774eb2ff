"""Results as files: in our own trace schema, and as vLLM's benchmark writes them."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import OutputError, ParameterError
from brsolver.results.plain import finite_only
from brsolver.traces.atomic import replacing
from brsolver.traces.export import write_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.traces.trace import Trace
    from integration.load.figures import Spread
    from integration.load.params import LoadParams, Pace
    from integration.load.replies import Reply
    from integration.load.running import Loaded

ENDINGS = (".csv", ".jsonl", ".parquet")


def check_place(path: str, option: str, endings: Sequence[str] = ()) -> None:
    """Raise unless results can be written there; call it before a load.

    Raises
    ------
    ParameterError
        Its ending names no format.
    OutputError
        It is a folder, or its folder does not exist.
    """
    file = Path(path)
    if endings and file.suffix.lower() not in endings:
        raise ParameterError(
            f"{option} is {path!r}, must end in {', '.join(endings[:-1])} or {endings[-1]}"
        )
    if file.is_dir():
        raise OutputError(f"{path}: is a folder, must be a file or not exist yet")
    if not file.parent.is_dir():
        raise OutputError(f"{path}: the folder {file.parent} does not exist, make it first")


def complete_ones(loaded: Loaded) -> list[Reply]:
    """Return the replies that make rows of a trace, in order of when they were due."""
    complete = (reply for reply in loaded.replies if reply.complete and reply.tokens > 0)
    return sorted(complete, key=lambda reply: reply.due_s)


def as_trace(loaded: Loaded) -> Trace | None:
    """Return complete requests as a trace: when they were due, and the tokens that there were.

    Turns that followed others still do. None if no request was complete.
    """
    complete = complete_ones(loaded)
    if not complete:
        return None
    # Of the trace's own times none is kept, so that any order is one.
    timeless = replace(loaded.trace, arrival_s=None, rows=None)
    kept = timeless.take(np.array([reply.row for reply in complete]))
    due = np.array([reply.due_s for reply in complete])
    return replace(
        kept,
        prompt_tokens=np.array([max(reply.prompt_tokens, 1) for reply in complete]),
        output_tokens=np.array([reply.tokens for reply in complete]),
        arrival_s=np.where(kept.follows, np.nan, due - due[0]),
        source_format="brsolver",
        origin_s=0.0,
    )


def write_results(loaded: Loaded, path: str) -> bool:
    """Write complete requests in our trace schema, by the file's ending.

    Beside the schema's columns stand what was measured: ``sent_s``, ``ttft_s``, ``tpot_s`` and
    ``e2e_s``, in seconds. Prefix hashes do not go into CSV.

    Returns
    -------
    bool
        Whether there was something to write.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    trace = as_trace(loaded)
    if trace is None:
        return False
    complete = complete_ones(loaded)
    first = complete[0].due_s
    measured = {
        "sent_s": np.array([reply.sent_s - first for reply in complete]),
        "ttft_s": np.array([reply.ttft_s for reply in complete]),
        "tpot_s": np.array([reply.tpot_s for reply in complete]),
        "e2e_s": np.array([reply.e2e_s for reply in complete]),
    }
    flat = Path(path).suffix.lower() == ".csv"
    write_trace(trace, path, drop_hashes=flat, beside=measured)
    return True


def vllm_result(loaded: Loaded, params: LoadParams) -> dict[str, Any]:
    """Return what ``vllm bench serve --save-detailed`` would have written.

    Start times are those at which requests were due, and all durations count from these; vLLM's
    own count from the sending. Times between chunks are ``itls``. Generated texts are not kept.
    """
    figures = loaded.figures
    replies = sorted(loaded.replies, key=lambda reply: reply.due_s)
    complete = [reply for reply in replies if reply.complete]
    pace = params.pace
    result: dict[str, Any] = {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": "openai-chat" if params.target.chat else "openai",
        "backend": "openai-chat" if params.target.chat else "openai",
        "label": "brsolver load",
        "model_id": loaded.served.model,
        "tokenizer_id": params.content.tokenizer,
        "num_prompts": figures.requests,
        "request_rate": "inf" if pace.closed else _request_rate(loaded, pace),
        "burstiness": 1.0,
        "max_concurrency": pace.concurrency,
        "duration": figures.duration_s,
        "completed": figures.complete,
        "failed": figures.failures,
        "total_input_tokens": figures.prompt_tokens,
        "total_output_tokens": figures.output_tokens,
        "request_throughput": figures.requests_per_s,
        "request_goodput": None if figures.good is None else figures.goodput_per_s,
        "output_throughput": figures.output_tok_s,
        "total_token_throughput": figures.total_tok_s,
        "rtfx": 0.0,
        "max_output_tokens_per_s": _busiest_second(complete),
        "max_concurrent_requests": figures.peak,
    }
    for name, spread in (("ttft", figures.ttft), ("tpot", figures.tpot), ("itl", figures.itl)):
        result |= _in_vllms_words(name, spread)
    for name in ("e2el", "e2el_including_client_queue"):
        result |= _in_vllms_words(name, figures.e2e)
    result |= _in_vllms_words("client_queue_time", figures.late)
    return finite_only(result | _detailed(replies))  # type: ignore[no-any-return] # a dict as given


def _request_rate(loaded: Loaded, pace: Pace) -> float:
    if pace.rate is not None:
        return pace.rate
    span = loaded.trace.span_s
    return pace.speed * len(loaded.trace) / span if span else math.inf


def _in_vllms_words(name: str, spread: Spread) -> dict[str, float]:
    return {
        f"mean_{name}_ms": 1e3 * spread.mean,
        f"median_{name}_ms": 1e3 * spread.p50,
        f"std_{name}_ms": 1e3 * spread.std,
        f"p50_{name}_ms": 1e3 * spread.p50,
        f"p90_{name}_ms": 1e3 * spread.p90,
        f"p95_{name}_ms": 1e3 * spread.p95,
        f"p99_{name}_ms": 1e3 * spread.p99,
    }


def _detailed(replies: Sequence[Reply]) -> dict[str, list[Any]]:
    return {
        "input_lens": [reply.prompt_tokens for reply in replies],
        "output_lens": [reply.tokens if reply.complete else 0 for reply in replies],
        "ttfts": [reply.ttft_s if reply.complete else 0.0 for reply in replies],
        "itls": [np.diff(np.array(reply.chunk_s)).tolist() for reply in replies],
        "latencies": [reply.e2e_s if reply.complete else 0.0 for reply in replies],
        "start_times": [reply.due_s for reply in replies],
        "queue_times": [reply.late_s if reply.sent_s else 0.0 for reply in replies],
        "generated_texts": [""] * len(replies),
        "errors": ["" if reply.complete else reply.why or str(reply.kind) for reply in replies],
    }


def _busiest_second(complete: Sequence[Reply]) -> float:
    """Return the most chunks with tokens in a second from the first sending on."""
    if not complete:
        return 0.0
    chunks = np.concatenate([np.frombuffer(reply.chunk_s) for reply in complete])
    seconds = np.floor(chunks - min(reply.sent_s for reply in complete)).astype(np.int64)
    return float(np.bincount(seconds).max())


def write_vllm_result(loaded: Loaded, params: LoadParams, path: str) -> None:
    """Write `vllm_result`; the file appears complete or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with replacing(path) as part:
        text = json.dumps(vllm_result(loaded, params), allow_nan=False)
        part.write_text(text, encoding="utf-8")
