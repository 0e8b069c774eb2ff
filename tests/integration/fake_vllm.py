"""Clients of the shape of vLLM's, without engines: what an engine would say is said by hand.

They stand in for vLLM where only the adapter's own logic is looked at; that it fits the real
thing is held against the real thing (`test_vllm_server`, `test_vllm_capability`).
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from brsolver.policy import as_policy
from integration.vllm.config import from_environment
from integration.vllm.plugin import _Attach
from integration.vllm.wrapping import adapter_of, wrap


class FinishReason(enum.IntEnum):
    STOP = 0
    LENGTH = 1
    ABORT = 2
    ERROR = 3
    REPETITION = 4


class EngineCoreEventType(enum.IntEnum):
    QUEUED = 1
    SCHEDULED = 2
    PREEMPTED = 3


@dataclass
class SamplingParams:
    max_tokens: int | None = 100
    stop: list[str] = field(default_factory=list)


@dataclass
class EngineCoreRequest:
    request_id: str
    prompt_token_ids: list[int] | None
    sampling_params: SamplingParams | None = field(default_factory=SamplingParams)
    pooling_params: object = None
    arrival_time: float = 0.0
    lora_request: object = None
    data_parallel_rank: int | None = None
    prompt_embeds: object = None
    resumable: bool = False
    session_id: str | None = None
    cache_salt: str | None = None
    mm_features: object = None


@dataclass
class EngineCoreOutput:
    request_id: str
    new_token_ids: list[int]
    finish_reason: FinishReason | None = None
    events: list[Any] | None = None
    prefill_stats: Any = None


@dataclass
class EngineCoreOutputs:
    engine_index: int = 0
    outputs: list[EngineCoreOutput] = field(default_factory=list)
    scheduler_stats: object = None
    finished_requests: set[str] | None = None
    timestamp: float = 0.0


def messages() -> SimpleNamespace:
    """What the adapter takes from ``vllm.v1.engine``."""
    return SimpleNamespace(
        FinishReason=FinishReason,
        EngineCoreOutput=EngineCoreOutput,
        EngineCoreOutputs=EngineCoreOutputs,
    )


def client_classes() -> SimpleNamespace:  # noqa: C901 # three classes, made anew
    """Fresh classes, as in ``vllm.v1.engine.core_client``: wrapping changes them."""

    class AsyncMPClient:
        def __init__(self, vllm_config, core_engines, client_count=1, client_index=0, address="a"):
            self.vllm_config = vllm_config
            self.core_engines = core_engines
            self.client_count = client_count
            self.client_index = client_index
            self.stats_update_address = address
            self.outputs_queue = asyncio.Queue()
            self.resources = SimpleNamespace(engine_dead=False)

    class DPAsyncMPClient(AsyncMPClient):
        async def add_request_async(self, request):
            engine = self.get_core_engine_for_request(request)
            self.sent.append((request.request_id, self.core_engines.index(engine)))
            if self.failing:
                raise RuntimeError("socket closed")
            await asyncio.sleep(0)

    class DPLBAsyncMPClient(DPAsyncMPClient):
        def __init__(self, *args, **kwargs):
            self.reqs_in_flight = {}
            self.sent = []
            self.aborted = []
            self.failing = False
            self.refusing = False
            self.own_choices = 0
            super().__init__(*args, **kwargs)

        def get_core_engine_for_request(self, request):
            if (engine := self.reqs_in_flight.get(request.request_id)) is not None:
                return engine
            if self.refusing:
                raise RuntimeError("no such engine")
            index = request.data_parallel_rank
            if index is None:
                index = self.own_choices % len(self.core_engines)
                self.own_choices += 1
            self.reqs_in_flight[request.request_id] = self.core_engines[index]
            return self.core_engines[index]

        @staticmethod
        async def process_engine_outputs(self, outputs):  # noqa: PLW0211 # as vLLM has it
            for name in outputs.finished_requests or ():
                self.reqs_in_flight.pop(name, None)

        async def abort_requests_async(self, request_ids):
            self.aborted += [name for name in request_ids if name in self.reqs_in_flight]

    return SimpleNamespace(
        AsyncMPClient=AsyncMPClient,
        DPAsyncMPClient=DPAsyncMPClient,
        DPLBAsyncMPClient=DPLBAsyncMPClient,
    )


def vllm_config(
    *,
    slots: int = 4,
    capacity: int | None = None,
    moe: bool | None = True,
    budget: int = 0,
    interval: int = 1,
    caching: bool = False,
) -> SimpleNamespace:
    """The parts of a configuration that the adapter reads."""
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(
            max_num_seqs=slots, max_num_batched_tokens=budget, prefill_schedule_interval=interval
        ),
        cache_config=SimpleNamespace(
            kv_cache_size_tokens=capacity,
            num_gpu_blocks=None,
            block_size=16,
            enable_prefix_caching=caching,
        ),
        model_config=SimpleNamespace(is_moe=moe),
    )


def ranks(count: int, first: int = 0) -> list[bytes]:
    """Identities of engines."""
    return [rank.to_bytes(2, "little") for rank in range(first, first + count)]


class Deployment:
    """A client with its adapter, and engines that do as they are told."""

    def __init__(
        self,
        spec: str = "br-0",
        mode: str = "immediate",
        *,
        count: int = 2,
        first: int = 0,
        environ: dict[str, str] | None = None,
        clients: int = 1,
        index: int = 0,
        address: str = "a",
        **config: Any,
    ) -> None:
        found = from_environment({"BRSOLVER_ROUTER": spec, "BRSOLVER_MODE": mode} | (environ or {}))
        assert found is not None
        classes = client_classes()
        wrap(classes, messages(), _Attach(found))
        self.client = classes.DPLBAsyncMPClient(
            vllm_config(**config), ranks(count, first), clients, index, address
        )
        self.first = first
        self.where: dict[str, int] = {}

    @property
    def adapter(self):
        found = adapter_of(self.client)
        assert found is not None
        return found

    @property
    def router(self):
        return self.adapter.desk.router

    @property
    def books(self):
        return self.router.books

    @property
    def session(self):
        return self.router.session

    def use(self, policy) -> None:
        """Let another policy decide from now on."""
        self.session.policy = as_policy(policy)

    async def add(
        self, name: str, prompt: int | list[int] = 10, **fields: Any
    ) -> EngineCoreRequest:
        tokens = [1] * prompt if isinstance(prompt, int) else prompt
        request = EngineCoreRequest(name, tokens, **fields)
        await self.client.add_request_async(request)
        return request

    async def report(
        self, rank: int, tokens: dict[str, int], finished: set[str] | None = None, **fields: Any
    ) -> None:
        """Let a rank report tokens, and the requests it lets go of."""
        outputs = [EngineCoreOutput(name, [7] * count, **fields) for name, count in tokens.items()]
        batch = EngineCoreOutputs(self.first + rank, outputs, None, finished)
        await self.client.process_engine_outputs(self.client, batch)

    async def settle(self) -> None:
        """Let all that is due in the event loop happen."""
        for _ in range(10):
            await asyncio.sleep(0)

    def sent(self) -> dict[str, int]:
        """Where each request went."""
        return dict(self.client.sent)
