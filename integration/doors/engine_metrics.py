"""What engines say of themselves in Prometheus' text format: vLLM's names, and SGLang's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from integration.picker import Gauges

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNNING, WAITING, KV_USAGE, STEPS, GENERATION, PROMPT, PREFILLS, PREFILL_S = (
    "running",
    "waiting",
    "kv_usage",
    "steps",
    "generation_tokens",
    "prompt_tokens",
    "prefills",
    "prefill_s",
)
FINISHED = "finished"
FIRSTS, FIRSTS_S, GAPS, GAPS_S = "firsts", "firsts_s", "gaps", "gaps_s"
OLD_GAPS, OLD_GAPS_S = "old_gaps", "old_gaps_s"
"""Intervals between tokens, as earlier releases call them; some tell both."""
CAPACITY = "capacity"
CACHE: Final = "vllm:cache_config_info"
"""Says in its labels how much vLLM's KV cache holds; its value is 1."""
NAMES: Final = {
    "vllm:num_requests_running": RUNNING,
    "vllm:num_requests_waiting": WAITING,
    "vllm:kv_cache_usage_perc": KV_USAGE,
    "vllm:gpu_cache_usage_perc": KV_USAGE,
    CACHE: CAPACITY,
    "vllm:iteration_tokens_total_count": STEPS,
    "vllm:generation_tokens_total": GENERATION,
    "vllm:prompt_tokens_total": PROMPT,
    "vllm:request_success_total": FINISHED,
    "vllm:request_prefill_time_seconds_count": PREFILLS,
    "vllm:request_prefill_time_seconds_sum": PREFILL_S,
    "vllm:time_to_first_token_seconds_count": FIRSTS,
    "vllm:time_to_first_token_seconds_sum": FIRSTS_S,
    "vllm:inter_token_latency_seconds_count": GAPS,
    "vllm:inter_token_latency_seconds_sum": GAPS_S,
    "vllm:time_per_output_token_seconds_count": OLD_GAPS,
    "vllm:time_per_output_token_seconds_sum": OLD_GAPS_S,
    "sglang:time_to_first_token_seconds_count": FIRSTS,
    "sglang:time_to_first_token_seconds_sum": FIRSTS_S,
    "sglang:inter_token_latency_seconds_count": GAPS,
    "sglang:inter_token_latency_seconds_sum": GAPS_S,
    "sglang:time_per_output_token_seconds_count": OLD_GAPS,
    "sglang:time_per_output_token_seconds_sum": OLD_GAPS_S,
    "sglang:num_running_reqs": RUNNING,
    "sglang:num_queue_reqs": WAITING,
    "sglang:token_usage": KV_USAGE,
    "sglang:max_total_num_tokens": CAPACITY,
    "sglang:generation_tokens_total": GENERATION,
    "sglang:prompt_tokens_total": PROMPT,
}
"""Field of `Gauges` by the metric's name; vLLM counts its steps as a histogram's observations."""
RANK_LABELS: Final = ("engine", "dp_rank")
"""Label that tells ranks of one server apart: vLLM's, SGLang's."""
_LINE = re.compile(
    rf"^({'|'.join(re.escape(name) for name in NAMES)})(?:\{{(.*)\}})?[ \t]+(\S+)", re.MULTILINE
)
_DIGITS = 9
"""More would be no rank, and Python would refuse to read thousands of them."""
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_CUT_SHORT: Final = 'finished_reason="abort"'
"""A label of requests that have ended and did not finish; vLLM counts few of them, if any."""
_MOST: Final = (KV_USAGE, CAPACITY, STEPS)
_WHOLE: Final = (
    *(RUNNING, WAITING, CAPACITY, STEPS, GENERATION, PROMPT, FINISHED),
    *(PREFILLS, FIRSTS, GAPS),
)
_BROKEN: Final = (KV_USAGE, PREFILL_S, FIRSTS_S, GAPS_S)


def read_metrics(text: str) -> dict[int | None, Gauges]:
    """Read an engine's metrics.

    Several series of one rank (of models that share an engine) are added up; of shares, and of
    step counts, the largest counts. What is no number is left out.

    Parameters
    ----------
    text : str
        What ``/metrics`` answers.

    Returns
    -------
    dict of (int or None) to Gauges
        By rank; None where no label tells one.
    """
    found: dict[int | None, dict[str, float]] = {}
    for field, rank, value in _samples(text):
        fields = found.setdefault(rank, {})
        before = fields.get(field, 0.0)
        fields[field] = max(before, value) if field in _MOST else before + value
    if len(found) > 1 and found.get(None, {}).keys() == {CAPACITY}:
        # Of all ranks, and none of its own.
        all_ranks = found.pop(None)
        found = {rank: all_ranks | fields for rank, fields in found.items()}
    return {rank: _gauges(fields) for rank, fields in found.items()}


def _samples(text: str) -> Iterator[tuple[str, int | None, float]]:
    for name, labels, number in _LINE.findall(text):
        try:
            value = float(_cache_tokens(labels) if name == CACHE else number)
        except ValueError:
            continue
        if 0.0 <= value < 2**53 and _CUT_SHORT not in labels:
            yield NAMES[name], _rank(labels), value


def _rank(labels: str) -> int | None:
    for name, value in _LABEL.findall(labels):
        if name in RANK_LABELS and _is_number(value):
            return int(value)
    return None


def _cache_tokens(labels: str) -> str:
    """Return how many tokens vLLM's cache holds, as text; empty if it does not say."""
    told = {name: int(value) for name, value in _LABEL.findall(labels) if _is_number(value)}
    blocks = told.get("num_gpu_blocks", 0) * told.get("block_size", 0)
    return str(told.get("kv_cache_size_tokens", blocks) or "")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def _gauges(fields: dict[str, float]) -> Gauges:
    for old, new in ((OLD_GAPS, GAPS), (OLD_GAPS_S, GAPS_S)):
        if old in fields:
            fields.setdefault(new, fields[old])
    whole: dict[str, Any] = {name: int(fields[name]) for name in _WHOLE if name in fields}
    broken: dict[str, Any] = {name: fields[name] for name in _BROKEN if name in fields}
    return Gauges(**whole, **broken)
