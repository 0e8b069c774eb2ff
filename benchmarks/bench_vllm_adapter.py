"""What the vLLM adapter adds: per routed request, and per request of an output batch.

``python -m benchmarks.bench_vllm_adapter``. Clients have the shape of vLLM's own and do nothing
of their own, so that what is timed is the adapter. The cluster is 8 ranks of 64 sequences, all
slots taken but the one that a decision fills; targets are 50 µs (P50) and 300 µs (P99) per
routed request and 20 µs per request of a batch. Processor time stands beside wall time: where
other processes share the cores, wall time is theirs as well.
"""

from __future__ import annotations

import asyncio
import gc
from time import perf_counter_ns, thread_time_ns
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._table import show
from tests.integration.fake_vllm import (
    Deployment,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
    SamplingParams,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RANKS, SLOTS, ROUNDS = 8, 64, 1000
SPECS = (
    ("vllm", "immediate"),
    ("jsq-load", "immediate"),
    ("br-0", "immediate"),
    ("br-h", "immediate"),
    ("br-0", "pooled"),
    ("br-0:r_max=4", "pooled"),
    ("br-h", "pooled"),
    ("br-h:r_max=4", "pooled"),
)


class Serving:
    """A full cluster in which one request ends and one comes, over and over."""

    def __init__(self, spec: str, mode: str) -> None:
        self.deployment = Deployment(spec, mode, count=RANKS, slots=SLOTS, capacity=10_000_000)
        self.client = self.deployment.client
        self.rng = np.random.default_rng(0)
        self.serial = 0
        self.running: list[list[str]] = [[] for _ in range(RANKS)]

    def request(self) -> EngineCoreRequest:
        """Return a new request of some length."""
        self.serial += 1
        length = int(self.rng.integers(50, 4000))
        return EngineCoreRequest(str(self.serial), [0] * length, SamplingParams(max_tokens=2000))

    async def fill(self) -> None:
        """Take all slots, and let everything run for a while."""
        for _ in range(RANKS * SLOTS):
            await self.client.add_request_async(self.request())
        await self.deployment.settle()
        for _ in range(3):
            await self.step()

    async def step(self, ending: str | None = None) -> list[float]:
        """Let every rank report a step; return microseconds per request of each batch."""
        taken = []
        for rank, batch in enumerate(self._batches(ending)):
            del rank
            began = perf_counter_ns()
            self.deployment.adapter.reported(self.client, batch)
            taken.append((perf_counter_ns() - began) / 1000 / max(1, len(batch.outputs)))
            for name in batch.finished_requests or ():
                self.client.reqs_in_flight.pop(name, None)
        return taken

    def _batches(self, ending: str | None) -> list[EngineCoreOutputs]:
        by_rank: list[list[EngineCoreOutput]] = [[] for _ in range(RANKS)]
        finished: list[set[str]] = [set() for _ in range(RANKS)]
        for name, engine in self.client.reqs_in_flight.items():
            rank = int.from_bytes(engine, "little")
            reason = FinishReason.STOP if name == ending else None
            by_rank[rank].append(EngineCoreOutput(name, [1], reason))
            if name == ending:
                finished[rank].add(name)
        return [
            EngineCoreOutputs(rank, by_rank[rank], None, finished[rank] or None)
            for rank in range(RANKS)
        ]


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return microseconds that a call took: by the clock, and of the processor."""
    began, began_cpu = perf_counter_ns(), thread_time_ns()
    call()
    taken_cpu = thread_time_ns() - began_cpu
    return (perf_counter_ns() - began) / 1000, taken_cpu / 1000


async def measure(spec: str, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Return microseconds per routed request (wall, processor) and per output of a batch."""
    serving = Serving(spec, mode)
    await serving.fill()
    if mode == "pooled":
        # As many again wait, so that a decision has something to choose from.
        for _ in range(RANKS * 4):
            await serving.client.add_request_async(serving.request())
    routed, reported = [], []
    route = _route_held if mode == "pooled" else _route_at_once
    gc.collect()
    for _ in range(ROUNDS):
        ending = str(serving.rng.choice(list(serving.client.reqs_in_flight)))
        reported += await serving.step(ending)
        routed.append(await route(serving))
    assert serving.deployment.adapter.guard.failures == 0  # noqa: S101 # a failed one is fast
    return np.array(routed), np.array(reported)


async def _route_held(serving: Serving) -> tuple[float, float]:
    await serving.client.add_request_async(serving.request())
    # What the event loop would call.
    taken = timed(serving.deployment.adapter.releaser._run)  # noqa: SLF001 # no other way in
    await serving.deployment.settle()
    return taken


async def _route_at_once(serving: Serving) -> tuple[float, float]:
    request = serving.request()
    picked: list[int | None] = []
    adapter = serving.deployment.adapter
    taken = timed(lambda: picked.append(adapter.pick(serving.client, request)))
    assert picked[0] is not None  # noqa: S101 # a failed decision would be a fast one
    request.data_parallel_rank = picked[0]
    await serving.client.add_request_async(request)
    return taken


def main() -> None:
    """Print the table."""
    rows = []
    for spec, mode in SPECS:
        routed, reported = asyncio.run(measure(spec, mode))
        wall, processor = routed.T
        rows.append(
            (
                spec,
                mode,
                *(float(np.percentile(wall, q)) for q in (50, 99)),
                *(float(np.percentile(processor, q)) for q in (50, 99)),
                *(float(np.percentile(reported, q)) for q in (50, 99)),
                float(reported.mean()),
            )
        )
    show(
        f"vLLM adapter at {RANKS} ranks × {SLOTS} sequences, µs",
        ("policy", "mode", "routed P50", "P99", "CPU P50", "P99", "output P50", "P99", "mean"),
        rows,
    )


if __name__ == "__main__":
    main()
