"""How the servers of `benchmarks._silicon` were started, and what they are asked, simulated.

Sources: docs/silicon.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from brsolver import SimulationParams, Trace, simulate
from brsolver.simulator import Arrivals, Prefill, StepTime

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from benchmarks._silicon import Row

LAYERS, EXPERTS, TOP_K = 62, 256, 8
KV_VALUES = LAYERS * 2 * 8 * 128
"""Keys and values of one token: 8 heads of 128."""
EXPERT_PARAMETERS = LAYERS * EXPERTS * 3 * 3072 * 1536
DENSE_PARAMETERS = 4e9
DENSE_SHARE = 0.28
"""Share of a token's parameters outside experts, 2.7 of 9.8 billion: what a rank computes of its
own tokens, where the rest of all ranks' tokens is spread over them."""
SHORTEST = 0.8
"""Clients draw lengths between this share of the nominal one and all of it."""
ROUNDS = 10
"""Requests of a run, over those in flight."""
MEMORY_USED = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Data sheet: memory in bytes, its bandwidth in bytes/s, and dense FLOP/s by precision."""

    memory: float
    bandwidth: float
    flops: Mapping[str, float]
    kv_bytes: int
    """Bytes of a key or value: vLLM was told fp8, but for H100."""


_BLACKWELL = {"bf16": 2.25e15, "fp8": 4.5e15, "fp4": 9e15}
GPUS = {
    "h100_sxm": Gpu(
        memory=85.5e9, bandwidth=3.35e12, flops={"bf16": 1e15, "fp8": 2e15}, kv_bytes=2
    ),
    "b200_sxm": Gpu(memory=192.3e9, bandwidth=8e12, flops=_BLACKWELL, kv_bytes=1),
    "b300_sxm": Gpu(memory=288.4e9, bandwidth=8e12, flops=_BLACKWELL, kv_bytes=1),
}
EXPERT_BYTES = {"fp8": 1.0, "fp4": 0.5625}
DENSE_BYTES = {"fp8": 1.0, "fp4": 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server as vLLM was started.

    Attributes
    ----------
    gpus : int
        GPUs t.
    data_parallel : bool
        Whether each GPU is a rank with requests of its own; else all GPUs compute each request
        together, and a step has one load.
    budget, slots : int
        ``max_num_batched_tokens`` and ``max_num_seqs`` of a rank.
    capacity : int
        KV tokens that a rank holds.
    """

    gpus: int
    data_parallel: bool
    budget: int
    slots: int
    capacity: int

    @property
    def ranks(self) -> int:
        """Ranks that have requests of their own."""
        return self.gpus if self.data_parallel else 1

    @property
    def layout(self) -> str:
        """Attention by data or tensor parallelism, and on how many GPUs: ``dp2``, ``tp4``."""
        return f"{'dp' if self.data_parallel else 'tp'}{self.gpus}"


def server_of(row: Row, *, reserve: float, data_parallel: Collection[str] | None) -> Server:
    """Return the server that a row was measured on.

    Parameters
    ----------
    row : Row
        The measurement.
    reserve : float
        Bytes of each GPU that are neither weights nor KV: activations, graphs, buffers.
    data_parallel : collection of str or None
        Configurations whose attention was data parallel; None takes all for that.
    """
    gpu = GPUS[row.system]
    parallel = data_parallel is None or row.configuration in data_parallel
    experts = EXPERT_PARAMETERS * EXPERT_BYTES[row.precision] / row.gpus
    dense = DENSE_PARAMETERS * DENSE_BYTES[row.precision]
    split = 1 if parallel else row.gpus
    free = gpu.memory * MEMORY_USED - experts - dense / split - reserve
    hopper = row.system.startswith("h")
    return Server(
        gpus=row.gpus,
        data_parallel=parallel,
        budget=8192 if hopper else 2 * row.isl,
        slots=256 if hopper else 1024,
        capacity=int(free / (KV_VALUES * gpu.kv_bytes / split)),
    )


def held_tokens(row: Row) -> float:
    """Return the KV tokens of all clients' requests half-way through their outputs."""
    return row.concurrency * (1 + SHORTEST) / 2 * (row.isl + row.osl / 2)


def overloaded(row: Row, server: Server) -> bool:
    """Tell whether the clients' requests, half-way, are more than the server's KV holds."""
    return held_tokens(row) > server.capacity * server.ranks


def measure(row: Row, server: Server, step_time: StepTime, rounds: int = ROUNDS) -> np.ndarray:
    """Return what clients would measure of a simulated server.

    Parameters
    ----------
    row : Row
        What clients ask for.
    server : Server
        What it is asked of.
    step_time : StepTime
        Duration of its steps.
    rounds : int
        Requests of the run, over those in flight.

    Returns
    -------
    ndarray, shape (2,)
        Mean seconds per token after the first, and mean seconds to the first.
    """
    trace = _requests(row.isl, row.osl, rounds * row.concurrency)
    params = SimulationParams(
        workers=server.ranks,
        slots=min(server.slots, server.budget, row.concurrency),
        capacity=server.capacity,
        routing="immediate",
        arrivals=Arrivals(mode="closed", concurrency=row.concurrency),
        prefill=Prefill(mode="colocated", budget=server.budget),
        step_time=step_time,
    )
    log = simulate(trace, "vllm", params).requests
    decode = (log.finish_s - log.first_token_s) / (trace.output_tokens - 1)
    return np.array([decode.mean(), (log.first_token_s - log.arrival_s).mean()])


@cache
def _requests(isl: int, osl: int, count: int) -> Trace:
    """Return requests as the benchmark client draws them."""
    rng = np.random.default_rng(0)
    return Trace(
        prompt_tokens=rng.integers(int(isl * SHORTEST), isl + 1, count),
        output_tokens=rng.integers(int(osl * SHORTEST), osl + 1, count),
    )
