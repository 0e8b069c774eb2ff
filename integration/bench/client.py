"""The load generator: a fixed number of requests in flight, each streamed to its end."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, MissingExtraError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from integration.bench.server import Server
    from integration.bench.workload import Workload

WARM_UP_TOKENS = 8
PIN = "X-data-parallel-rank"
"""Header that vLLM takes a request's rank from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request; times are of the monotonic clock, in seconds.

    Attributes
    ----------
    sent_s, first_s, last_s : float
        When it was sent, when its first token came and when its last.
    tokens : int
        Tokens generated.
    """

    sent_s: float
    first_s: float
    last_s: float
    tokens: int

    @property
    def ttft_s(self) -> float:
        """Seconds from sending to the first token."""
        return self.first_s - self.sent_s

    @property
    def tpot_s(self) -> float:
        """Seconds per token after the first; 0 for a request of one token."""
        return (self.last_s - self.first_s) / max(self.tokens - 1, 1)


def drive(
    url: str,
    model: str,
    workload: Workload,
    *,
    concurrency: int,
    ranks: Sequence[int] | None = None,
    timeout_s: float = 900.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Send the workload in order, `concurrency` requests at a time, and wait for all of it.

    Parameters
    ----------
    url : str
        The server.
    model : str
        The name it serves.
    workload : Workload
    concurrency : int
        Requests in flight.
    ranks : sequence of int, optional
        Data-parallel rank of each request; None leaves the choice to the server.
    timeout_s : float
        Seconds that one request may take.
    progress : callable, optional
        Called with (finished, total) requests.

    Returns
    -------
    list of Outcome
        In the workload's order.

    Raises
    ------
    BrsolverError
        If the server refuses a request or breaks it off.
    MissingExtraError
        If httpx is not installed.
    """
    if concurrency < 1:
        raise ParameterError(f"concurrency is {concurrency}, must be at least 1")
    if ranks is not None and len(ranks) != len(workload):
        raise ParameterError(f"{len(ranks)} ranks for {len(workload)} requests")
    run = _Run(url, model, workload, ranks, timeout_s, progress)
    return asyncio.run(run.all(concurrency))


def warm_up(server: Server, workload: Workload) -> None:
    """Let every rank generate a few tokens, so that nothing is done for the first time later."""
    ranks = server.params.ranks
    few = [index % len(workload) for index in range(2 * ranks)]
    small = replace(
        workload,
        prompts=tuple(workload.prompts[index][:WARM_UP_TOKENS] for index in few),
        output_tokens=workload.output_tokens[few].clip(max=WARM_UP_TOKENS),
    )
    drive(
        server.url,
        server.params.name,
        small,
        concurrency=len(few),
        ranks=[index % ranks for index in range(len(few))],
    )


class _Run:
    def __init__(
        self,
        url: str,
        model: str,
        workload: Workload,
        ranks: Sequence[int] | None,
        timeout_s: float,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._endpoint = f"{url}/v1/completions"
        self._model, self._workload, self._ranks = model, workload, ranks
        self._timeout_s, self._progress = timeout_s, progress
        self._outcomes: dict[int, Outcome] = {}

    async def all(self, concurrency: int) -> list[Outcome]:
        http = _httpx()
        limits = http.Limits(max_connections=None, max_keepalive_connections=concurrency)
        coming = iter(range(len(self._workload)))
        async with http.AsyncClient(timeout=self._timeout_s, limits=limits) as client:

            async def lane() -> None:
                for index in coming:
                    await self._one(client, index)

            async with asyncio.TaskGroup() as lanes:
                for _ in range(min(concurrency, len(self._workload))):
                    lanes.create_task(lane())
        return [self._outcomes[index] for index in range(len(self._workload))]

    async def _one(self, client: Any, index: int) -> None:
        headers = {} if self._ranks is None else {PIN: str(self._ranks[index])}
        sent = time.monotonic()
        first = last = 0.0
        final = ""
        async with client.stream(
            "POST", self._endpoint, json=self._body(index), headers=headers
        ) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise BrsolverError(f"the server answered {answer.status_code}: {answer.text}")
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                # Only the last chunk is parsed: thousands come per second, and this process
                # shares its machine with the server it measures.
                if '"usage":{' in line:
                    final = line
                else:
                    last = time.monotonic()
                    first = first or last
        self._outcomes[index] = Outcome(
            sent_s=sent, first_s=first, last_s=last, tokens=_tokens(final)
        )
        if self._progress is not None:
            self._progress(len(self._outcomes), len(self._workload))

    def _body(self, index: int) -> dict[str, Any]:
        tokens = int(self._workload.output_tokens[index])
        return {
            "model": self._model,
            "prompt": self._workload.prompts[index],
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def _tokens(final: str) -> int:
    if not final:
        raise BrsolverError("the server broke a request off: its stream ended without usage")
    return int(json.loads(final.removeprefix("data: "))["usage"]["completion_tokens"])


def _httpx() -> Any:
    try:
        return import_module("httpx")
    except ImportError as error:
        raise MissingExtraError.for_extra("httpx", "proxy") from error
