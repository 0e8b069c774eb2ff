"""What engines say of themselves in Prometheus' text format: vLLM's names, and SGLang's."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

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
NAMES: Final = {
    "vllm:num_requests_running": RUNNING,
    "vllm:num_requests_waiting": WAITING,
    "vllm:kv_cache_usage_perc": KV_USAGE,
    "vllm:gpu_cache_usage_perc": KV_USAGE,
    "vllm:iteration_tokens_total_count": STEPS,
    "vllm:generation_tokens_total": GENERATION,
    "vllm:prompt_tokens_total": PROMPT,
    "vllm:request_prefill_time_seconds_count": PREFILLS,
    "vllm:request_prefill_time_seconds_sum": PREFILL_S,
    "sglang:num_running_reqs": RUNNING,
    "sglang:num_queue_reqs": WAITING,
    "sglang:token_usage": KV_USAGE,
    "sglang:generation_tokens_total": GENERATION,
    "sglang:prompt_tokens_total": PROMPT,
}
"""Field of `Gauges` by the metric's name; vLLM counts its steps as a histogram's observations."""
RANK_LABELS: Final = ("engine", "dp_rank")
"""Label that tells ranks of one server apart: vLLM's, SGLang's."""
_LINE = re.compile(
    rf"^({'|'.join(re.escape(name) for name in NAMES)})(?:\{{(.*)\}})?[ \t]+(\S+)", re.MULTILINE
)
_RANK_DIGITS = 9
"""More would be no rank, and Python would refuse to read thousands of them."""
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SHARES: Final = (KV_USAGE, PREFILL_S)
_SUMS: Final = (RUNNING, WAITING, GENERATION, PROMPT, PREFILLS, PREFILL_S)


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
        if field in _SUMS:
            fields[field] = fields.get(field, 0.0) + value
        else:
            fields[field] = max(fields.get(field, 0.0), value)
    return {rank: _gauges(fields) for rank, fields in found.items()}


def _samples(text: str) -> Iterator[tuple[str, int | None, float]]:
    for name, labels, number in _LINE.findall(text):
        try:
            value = float(number)
        except ValueError:
            continue
        if 0.0 <= value < 2**53:
            yield NAMES[name], _rank(labels), value


def _rank(labels: str) -> int | None:
    for name, value in _LABEL.findall(labels):
        plain = value.isascii() and value.isdigit() and len(value) <= _RANK_DIGITS
        if name in RANK_LABELS and plain:
            return int(value)
    return None


def _gauges(fields: dict[str, float]) -> Gauges:
    gauges = Gauges(kv_usage=fields.get(KV_USAGE), prefill_s=fields.get(PREFILL_S))
    whole = {name: int(value) for name, value in fields.items() if name not in _SHARES}
    return replace(gauges, **whole)
