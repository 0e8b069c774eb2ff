"""The load generator: a fixed number of requests in flight, each streamed to its end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError
from integration.bench.server import ServerError
from integration.load.answers import Answer, reason_of
from integration.load.bodies import exact_body
from integration.load.http import exchange, open_session, require_aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from integration.bench.server import Server
    from integration.bench.workload import Workload

EXTRA = "bench"
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
    ServerError
        If the server cannot be reached, refuses a request or breaks it off.
    MissingExtraError
        If aiohttp is not installed.
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
        self._http = require_aiohttp(EXTRA)
        self._model, self._workload, self._ranks = model, workload, ranks
        self._timeout_s, self._progress, self._began = timeout_s, progress, began
        self._outcomes: dict[int, Outcome] = {}

    async def all(self, concurrency: int) -> list[Outcome]:
        """Send all of them, so many at a time, and wait for the last; errors are as of `drive`."""
        coming = iter(range(len(self._workload)))

        async def lane(session: Any) -> None:
            for index in coming:
                await self._one(session, index)

        async with open_session(timeout_s=self._timeout_s, extra=EXTRA) as session:
            try:
                async with asyncio.TaskGroup() as lanes:
                    for _ in range(min(concurrency, len(self._workload))):
                        lanes.create_task(lane(session))
            except BaseExceptionGroup as group:
                refused = group.subgroup(ServerError)
                if refused is None:
                    raise
                # All lanes fail of the same cause; whoever reads it wants it once.
                raise _first_of(refused) from None
        return [self._outcomes[index] for index in range(len(self._workload))]

    async def _one(self, session: Any, index: int) -> None:
        try:
            outcome = await self._asked(session, index)
        except (self._http.ClientError, OSError) as error:
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ServerError(f"{self._url}: request {index} failed: {what}") from error
        self._outcomes[index] = outcome
        if self._progress is not None:
            self._progress(len(self._outcomes), len(self._workload))

    async def _asked(self, session: Any, index: int) -> Outcome:
        """Send a request, twice if the connection was closed before anything was answered.

        A server may close an idle connection in the moment in which it is taken up.
        """
        answer = self._answer(index)
        try:
            return await self._outcome(session, index, answer)
        except TimeoutError:
            raise
        except (self._http.ClientError, OSError):
            if answer.status:
                raise
            return await self._outcome(session, index, self._answer(index))

    def _answer(self, index: int) -> Answer:
        began = self._began

        def heed(answer: Answer) -> None:
            if answer.chunks == 1 and began is not None:
                began(index)

        return Answer(heed=None if began is None else heed)

    async def _outcome(self, session: Any, index: int, answer: Answer) -> Outcome:
        headers = None if self._ranks is None else {PIN: str(self._ranks[index])}
        sent = time.monotonic()
        url = f"{self._url}/v1/completions"
        await exchange(session, url, self._body(index), answer, headers)
        if answer.status != 200:
            raise ServerError(
                f"{self._url}: request {index} was answered with status "
                f"{answer.status}: {reason_of(answer.text)}"
            )
        tokens = answer.count("completion_tokens")
        if answer.error or answer.malformed or tokens is None:
            what = reason_of(answer.error) or answer.malformed or "its stream ended without usage"
            raise ServerError(f"{self._url}: request {index} was broken off: {what}")
        return Outcome(sent_s=sent, first_s=answer.first_s, last_s=answer.last_s, tokens=tokens)

    def _body(self, index: int) -> bytes:
        tokens = int(self._workload.output_tokens[index])
        return exact_body(self._model, self._workload.prompts[index], tokens, min_tokens=tokens)


def _first_of(group: BaseExceptionGroup[ServerError]) -> ServerError:
    """Return the first error of a group of groups."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
