"""The load generator: a fixed number of requests in flight, each streamed to its end."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.errors import MissingExtraError, ParameterError
from integration.bench.server import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from integration.bench.server import Server
    from integration.bench.workload import Workload

WARM_UP_TOKENS = 8
LONGEST = 400
LANES_PER_CLIENT = 16
"""A pool of connections looks at all of them for every request: few to a pool, many pools."""
KEEP_ALIVE_S = 1.0
"""Less than the server's five seconds: which would close a connection while it is taken up."""
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
    ServerError
        If the server cannot be reached, refuses a request or breaks it off.
    MissingExtraError
        If httpx is not installed.
    """
    if concurrency < 1:
        raise ParameterError(f"concurrency is {concurrency}, must be at least 1")
    if ranks is not None and len(ranks) != len(workload):
        raise ParameterError(f"ranks are {len(ranks)}, must be {len(workload)}, one per request")
    load = Load(url, model, workload, ranks=ranks, timeout_s=timeout_s, progress=progress)
    return asyncio.run(load.all(concurrency))


def drive_server(
    server: Server,
    workload: Workload,
    *,
    concurrency: int,
    ranks: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Drive a server of ours, as `drive` does; whatever goes wrong, its log is named."""
    try:
        return drive(
            server.url,
            server.params.name,
            workload,
            concurrency=concurrency,
            ranks=ranks,
            progress=progress,
        )
    except ServerError as error:
        raise ServerError(f"{error}; {server.condition()}") from error


def warm_up(server: Server, workload: Workload) -> None:
    """Let every rank generate a few tokens, so that nothing is done for the first time later."""
    ranks = server.params.ranks
    few = [index % len(workload) for index in range(2 * ranks)]
    small = replace(
        workload,
        prompts=tuple(workload.prompts[index][:WARM_UP_TOKENS] for index in few),
        output_tokens=workload.output_tokens[few].clip(max=WARM_UP_TOKENS),
    )
    drive_server(
        server,
        small,
        concurrency=len(few),
        ranks=[index % ranks for index in range(len(few))],
    )


class Load:
    """Requests on their way to a server, within an event loop; see `drive`, which makes one.

    Parameters
    ----------
    url, model, workload, ranks, timeout_s, progress
        As of `drive`.
    began : callable, optional
        Called with a request's number when its first token has come.
    """

    def __init__(
        self,
        url: str,
        model: str,
        workload: Workload,
        *,
        ranks: Sequence[int] | None = None,
        timeout_s: float = 900.0,
        progress: Callable[[int, int], None] | None = None,
        began: Callable[[int], None] | None = None,
    ) -> None:
        self._url = url
        self._http = require_httpx()
        self._model, self._workload, self._ranks = model, workload, ranks
        self._timeout_s, self._progress, self._began = timeout_s, progress, began
        self._outcomes: dict[int, Outcome] = {}
        self._answered: set[int] = set()

    async def all(self, concurrency: int) -> list[Outcome]:
        """Send all of them, so many at a time, and wait for the last; errors are as of `drive`."""
        count = min(concurrency, len(self._workload))
        coming = iter(range(len(self._workload)))

        async def lane(client: Any) -> None:
            for index in coming:
                await self._one(client, index)

        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(self._client())
                for _ in range(0, count, LANES_PER_CLIENT)
            ]
            try:
                async with asyncio.TaskGroup() as lanes:
                    for number in range(count):
                        lanes.create_task(lane(clients[number // LANES_PER_CLIENT]))
            except BaseExceptionGroup as group:
                refused = group.subgroup(ServerError)
                if refused is None:
                    raise
                # All lanes fail of the same cause; whoever reads it wants it once.
                raise _first_of(refused) from None
        return [self._outcomes[index] for index in range(len(self._workload))]

    def _client(self) -> Any:
        limits = self._http.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_S)
        # Its own machine's server is not reached through anybody's proxy.
        return self._http.AsyncClient(timeout=self._timeout_s, limits=limits, trust_env=False)

    async def _one(self, client: Any, index: int) -> None:
        try:
            outcome = await self._asked(client, index)
        except (self._http.HTTPError, self._http.StreamError) as error:
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ServerError(f"{self._url}: request {index} failed: {what}") from error
        self._outcomes[index] = outcome
        if self._progress is not None:
            self._progress(len(self._outcomes), len(self._workload))

    async def _asked(self, client: Any, index: int) -> Outcome:
        """Send a request, twice if the connection was closed before anything was answered.

        A server may close an idle connection in the moment in which it is taken up.
        """
        try:
            return await self._outcome(client, index)
        except (self._http.NetworkError, self._http.RemoteProtocolError):
            if index in self._answered:
                raise
            return await self._outcome(client, index)

    async def _outcome(self, client: Any, index: int) -> Outcome:
        headers = {} if self._ranks is None else {PIN: str(self._ranks[index])}
        sent = time.monotonic()
        first = last = 0.0
        final = ""
        async with client.stream(
            "POST", f"{self._url}/v1/completions", json=self._body(index), headers=headers
        ) as answer:
            self._answered.add(index)
            if answer.status_code != 200:
                await answer.aread()
                raise ServerError(
                    f"{self._url}: request {index} was answered with status "
                    f"{answer.status_code}: {_reason(answer.text)}"
                )
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                # Only the last chunk is parsed: thousands come per second, and this process
                # shares its machine with the server it measures.
                if '"usage":{' in line or line.startswith('data: {"error"'):
                    final = line
                else:
                    last = time.monotonic()
                    if not first and self._began is not None:
                        self._began(index)
                    first = first or last
        tokens = self._tokens(index, final.removeprefix("data: "))
        return Outcome(sent_s=sent, first_s=first, last_s=last, tokens=tokens)

    def _tokens(self, index: int, final: str) -> int:
        """Return what the stream's last chunk says was generated."""
        try:
            return int(json.loads(final)["usage"]["completion_tokens"])
        except (ValueError, LookupError, TypeError) as error:
            what = _reason(final) if final else "its stream ended without usage"
            raise ServerError(f"{self._url}: request {index} was broken off: {what}") from error

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


def _first_of(group: BaseExceptionGroup[ServerError]) -> ServerError:
    """Return the first error of a group of groups."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _reason(body: str) -> str:
    """Return what an answer says of an error, in a line of no more than `LONGEST` characters."""
    try:
        told = json.loads(body)
        told = told.get("error", told)
        text = str(told.get("message", told))
    except (ValueError, AttributeError):
        text = body
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def require_httpx() -> Any:
    """Return the module, or raise `MissingExtraError`."""
    try:
        return import_module("httpx")
    except ImportError as error:
        raise MissingExtraError.for_extra("httpx", "bench") from error
