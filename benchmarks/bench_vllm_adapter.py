"""What the vLLM adapter adds: per routed request, and per request of an output batch.

``python -m benchmarks.bench_vllm_adapter``. Clients have the shape of vLLM's own and do nothing
of their own, so that what is timed is the adapter. The cluster is 8 ranks of 64 sequences, all
slots taken but the one that a decision fills; targets are 50 µs (P50) and 300 µs (P99) per
routed request and 20 µs per request of a batch. A routed request's time is the one that the
adapter itself publishes as ``brsolver_routing_seconds``: holding, deciding, charging, sending.
It is measured twice, by the clock and in processor time: where other processes share the cores,
wall time is theirs as well.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks._table import show
from integration.vllm import adapter, desk, rounds
from tests.integration.fake_vllm import (
    Deployment,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
    SamplingParams,
)

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
    # What it holds would wait here for steps that take no time.
    ("br-t:kappa=0", "pooled"),
)
HARDWARE = "minimax-m2.7-h200-dp4"


class Serving:
    """A full cluster in which one request ends and one comes, over and over."""

    def __init__(self, spec: str, mode: str, *, identify: bool = True) -> None:
        with tempfile.TemporaryDirectory() as folder:
            toml = Path(folder) / "router.toml"
            toml.write_text(
                f'policy = "{spec}"\nhardware = "{HARDWARE}"\nidentify = {str(identify).lower()}\n'
            )
            self.deployment = Deployment(
                str(toml), mode, count=RANKS, slots=SLOTS, capacity=10_000_000, budget=8192
            )
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
        for batch in self._batches(ending):
            began = time.perf_counter_ns()
            self.deployment.adapter.reported(self.client, batch)
            taken.append((time.perf_counter_ns() - began) / 1000 / max(1, len(batch.outputs)))
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


async def measure(spec: str, mode: str) -> tuple[list[float], list[float]]:
    """Return microseconds per routed request, and per request of an output batch."""
    serving = Serving(spec, mode)
    await serving.fill()
    if mode == "pooled":
        # As many again wait, so that a decision has something to choose from.
        for _ in range(RANKS * 4):
            await serving.client.add_request_async(serving.request())
    routed: list[float] = []
    reported: list[float] = []
    serving.deployment.adapter.desk.exporter.routed = lambda seconds: routed.append(seconds * 1e6)
    gc.collect()
    for _ in range(ROUNDS):
        ending = str(serving.rng.choice(list(serving.client.reqs_in_flight)))
        reported += await serving.step(ending)
        await serving.client.add_request_async(serving.request())
        await serving.deployment.settle()
    failures = serving.deployment.adapter.failsafe.failures
    assert failures == 0  # noqa: S101 # a failed decision would be a fast one
    assert len(routed) > ROUNDS // 2  # noqa: S101 # as above
    return routed, reported


async def identifying(*, identify: bool) -> list[float]:
    """Return microseconds of each output batch, with the step time identified or not."""
    serving = Serving("jsq-load", "immediate", identify=identify)
    await serving.fill()
    gc.collect()
    taken = []
    for _ in range(ROUNDS):
        taken += [each * SLOTS for each in await serving.step()]
    assert serving.deployment.adapter.desk.identification.active is identify  # noqa: S101 # as above
    return taken


def in_processor_time(spec: str, mode: str) -> list[float]:
    """Return microseconds of processor time per routed request."""
    clock = SimpleNamespace(perf_counter=time.thread_time, monotonic=time.monotonic)
    timed = (adapter, desk, rounds)
    before = [module.time for module in timed]
    for module in timed:
        module.time = clock  # type: ignore[attr-defined] # a stand-in
    try:
        return asyncio.run(measure(spec, mode))[0]
    finally:
        for module, its_own in zip(timed, before, strict=True):
            module.time = its_own  # type: ignore[attr-defined] # as above


def main() -> None:
    """Print the table."""
    rows = []
    for spec, mode in SPECS:
        routed, reported = asyncio.run(measure(spec, mode))
        processor = in_processor_time(spec, mode)
        quantiles = [np.percentile(v, q) for v in (routed, processor, reported) for q in (50, 99)]
        rows.append((spec, mode, *(float(q) for q in quantiles), float(np.mean(reported))))
    show(
        f"vLLM adapter at {RANKS} ranks × {SLOTS} sequences, µs",
        ("policy", "mode", "routed P50", "P99", "CPU P50", "P99", "output P50", "P99", "mean"),
        rows,
    )
    batches = {on: asyncio.run(identifying(identify=on)) for on in (False, True)}
    show(
        f"an output batch of {SLOTS} requests, µs",
        ("step time identified", "P50", "P99", "mean"),
        [
            (on, *(float(np.percentile(us, q)) for q in (50, 99)), float(np.mean(us)))
            for on, us in batches.items()
        ],
    )


if __name__ == "__main__":
    main()
