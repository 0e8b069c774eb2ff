"""What an engine says of itself, by vLLM's names."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.engines.cluster import Cluster

BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Upper ends of vLLM's buckets of tokens per step."""
BLOCK = 16
"""Tokens of a block of the KV cache."""


TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
GAP_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
"""Upper ends of vLLM's buckets of times to first tokens, and between tokens, in seconds."""


class Histogram:
    """Values by bucket.

    Parameters
    ----------
    ends : tuple of float
        Upper ends of the buckets but the last.

    Attributes
    ----------
    count : int
    sum : float
    """

    def __init__(self, ends: tuple[float, ...]) -> None:
        self._ends = ends
        self._buckets = [0] * (len(ends) + 1)
        self.count, self.sum = 0, 0.0

    def add(self, value: float) -> None:
        """Take a value in."""
        self.count += 1
        self.sum += value
        self._buckets[bisect_left(self._ends, value)] += 1

    def below(self) -> Iterator[tuple[str, int]]:
        """Return by upper end how many are not above it."""
        found = 0
        for end, count in zip((*map(float, self._ends), "+Inf"), self._buckets, strict=True):
            found += count
            yield str(end), found


@dataclass(slots=True)
class Figures:
    """Counters of a rank since its start.

    Attributes
    ----------
    prompt_tokens, generation_tokens : int
        Of prompts that were computed, and of output.
    step_tokens : Histogram
        Tokens of the steps in which the rank did something.
    first_s, gap_s : Histogram
        Seconds that requests waited for their first tokens, and for each further one.
    finished, aborted : int
        Requests that had all their tokens, and those that left before.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    step_tokens: Histogram = field(default_factory=lambda: Histogram(BUCKETS))
    first_s: Histogram = field(default_factory=lambda: Histogram(TTFT_BUCKETS))
    gap_s: Histogram = field(default_factory=lambda: Histogram(GAP_BUCKETS))
    finished: int = 0
    aborted: int = 0


def exposition(cluster: Cluster, ranks: range) -> str:
    """Return the figures of these ranks as Prometheus reads them."""
    return "\n".join([*_gauges(cluster, ranks), *_counters(cluster, ranks), ""])


def _gauges(cluster: Cluster, ranks: range) -> Iterator[str]:
    live = cluster.ranks
    yield from _metric(cluster, ranks, "num_requests_running", "gauge", live.running)
    yield from _metric(cluster, ranks, "num_requests_waiting", "gauge", live.waiting)
    yield from _metric(cluster, ranks, "kv_cache_usage_perc", "gauge", cluster.kv_usage)
    if cluster.params.capacity is not None:
        cache = f'block_size="{BLOCK}",num_gpu_blocks="{cluster.params.capacity // BLOCK}"'
        yield "# TYPE vllm:cache_config_info gauge"
        for rank in ranks:
            yield f"vllm:cache_config_info{_labels(cluster, rank, cache)} 1"


def _counters(cluster: Cluster, ranks: range) -> Iterator[str]:
    of = cluster.figures
    yield from _metric(
        cluster, ranks, "prompt_tokens_total", "counter", lambda g: of[g].prompt_tokens
    )
    yield from _metric(
        cluster, ranks, "generation_tokens_total", "counter", lambda g: of[g].generation_tokens
    )
    yield "# TYPE vllm:request_success_total counter"
    for rank in ranks:
        for reason, count in (("stop", of[rank].finished), ("abort", of[rank].aborted)):
            labels = _labels(cluster, rank, f'finished_reason="{reason}"')
            yield f"vllm:request_success_total{labels} {count}"
    for name, found in _HISTOGRAMS.items():
        yield from _histogram(cluster, ranks, f"vllm:{name}", found)


_HISTOGRAMS: dict[str, Callable[[Figures], Histogram]] = {
    "iteration_tokens_total": lambda figures: figures.step_tokens,
    "time_to_first_token_seconds": lambda figures: figures.first_s,
    "inter_token_latency_seconds": lambda figures: figures.gap_s,
}


def _histogram(
    cluster: Cluster, ranks: range, name: str, found: Callable[[Figures], Histogram]
) -> Iterator[str]:
    yield f"# TYPE {name} histogram"
    for rank in ranks:
        histogram = found(cluster.figures[rank])
        for end, below in histogram.below():
            labels = _labels(cluster, rank, f'le="{end}"')
            yield f"{name}_bucket{labels} {below}"
        labels = _labels(cluster, rank)
        yield f"{name}_sum{labels} {histogram.sum}"
        yield f"{name}_count{labels} {histogram.count}"


def _metric(
    cluster: Cluster, ranks: range, name: str, kind: str, value: Callable[[int], float]
) -> Iterator[str]:
    yield f"# TYPE vllm:{name} {kind}"
    for rank in ranks:
        yield f"vllm:{name}{_labels(cluster, rank)} {value(rank)}"


def _labels(cluster: Cluster, rank: int, more: str = "") -> str:
    model = cluster.params.model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    extra = f",{more}" if more else ""
    return f'{{engine="{rank}",model_name="{model}"{extra}}}'
