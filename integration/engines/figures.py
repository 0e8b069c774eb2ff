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


@dataclass(slots=True)
class Figures:
    """Counters of a rank since its start.

    Attributes
    ----------
    prompt_tokens, generation_tokens : int
        Of prompts that were computed, and of output.
    steps, step_tokens : int
        Steps in which the rank did something, and the tokens of these.
    buckets : list of int
        Those steps by their tokens, as of `BUCKETS`, the last one for more.
    finished, aborted : int
        Requests that had all their tokens, and those that left before.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
    step_tokens: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    finished: int = 0
    aborted: int = 0

    def step(self, tokens: int) -> None:
        """Count a step in which the rank computed so many tokens."""
        self.steps += 1
        self.step_tokens += tokens
        self.buckets[bisect_left(BUCKETS, tokens)] += 1


def exposition(cluster: Cluster, ranks: range) -> str:
    """Return the figures of these ranks as Prometheus reads them."""
    return "\n".join([*_gauges(cluster, ranks), *_counters(cluster, ranks), ""])


def _gauges(cluster: Cluster, ranks: range) -> Iterator[str]:
    live = cluster.ranks
    yield from _metric(cluster, ranks, "num_requests_running", "gauge", live.running)
    yield from _metric(cluster, ranks, "num_requests_waiting", "gauge", live.waiting)
    yield from _metric(cluster, ranks, "kv_cache_usage_perc", "gauge", cluster.kv_usage)


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
    yield from _iterations(cluster, ranks)


def _iterations(cluster: Cluster, ranks: range) -> Iterator[str]:
    name = "vllm:iteration_tokens_total"
    yield f"# TYPE {name} histogram"
    for rank in ranks:
        figures, below = cluster.figures[rank], 0
        for end, count in zip((*map(float, BUCKETS), "+Inf"), figures.buckets, strict=True):
            below += count
            labels = _labels(cluster, rank, f'le="{end}"')
            yield f"{name}_bucket{labels} {below}"
        labels = _labels(cluster, rank)
        yield f"{name}_sum{labels} {figures.step_tokens}"
        yield f"{name}_count{labels} {figures.steps}"


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
