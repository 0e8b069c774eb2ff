"""A load client that checks its answers: every stream must be whole, or say why it is not.

Requests are completions of token numbers, streamed. An answer is *complete* if it has as many
tokens as were asked for, a ``usage`` that says so, and ``[DONE]`` at its end; *refused* if it is
one error in OpenAI's format; *broken off* if its connection visibly ended too early; and *wrong*
otherwise, which must never be.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, ParameterError
from integration.load.answers import Answer, shortened
from integration.load.bodies import exact_body
from integration.load.http import exchange, open_session, require_aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from integration.bench.workload import Workload

EXTRA = "proxy"


class Fate(StrEnum):
    """What became of a request, as its client sees it."""

    COMPLETE = "complete"
    REFUSED = "refused"
    BROKEN = "broken off"
    LEFT = "left by the client"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One request's answer; times are of the monotonic clock, in seconds.

    Attributes
    ----------
    index : int
        The request's place in the workload.
    fate : Fate
    status : int
        Of HTTP; 0 if none came.
    sent_s, first_s, last_s : float
        When it was sent, when its first token came and when its last; 0 if none came.
    tokens : int
        Tokens that came.
    worker : str
        Who answered, as the front door's header says; empty if it does not.
    why : str
        What was wrong, for all but complete ones.
    """

    index: int
    fate: Fate
    status: int = 0
    sent_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    tokens: int = 0
    worker: str = ""
    why: str = ""

    @property
    def ttft_s(self) -> float:
        """Seconds from sending to the first token."""
        return self.first_s - self.sent_s

    @property
    def tpot_s(self) -> float:
        """Seconds per token after the first; 0 for a request of one token."""
        return (self.last_s - self.first_s) / max(self.tokens - 1, 1)

    @property
    def e2e_s(self) -> float:
        """Seconds from sending to the last token."""
        return self.last_s - self.sent_s


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficParams:
    """How requests are sent.

    Attributes
    ----------
    url : str
        Of the front door or of an engine, without a path.
    model : str
        Name of the model.
    concurrency : int or None
        Requests in flight (a closed loop). None needs `rate`.
    rate : float or None
        Requests per second (an open loop), evenly spaced.
    timeout_s : float
        Seconds that one request may take.
    headers : dict of str to str
        Sent with every request, an API key for example.
    headers_of : callable, optional
        Returns further headers of a request, by index.
    leave : dict of int to int
        Requests whose client goes away after so many tokens; 0 means before any answer.
    """

    url: str
    model: str = "fake"
    concurrency: int | None = None
    rate: float | None = None
    timeout_s: float = 300.0
    headers: dict[str, str] = field(default_factory=dict)
    headers_of: Callable[[int], dict[str, str]] | None = None
    leave: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            raise ParameterError(
                f"concurrency is {self.concurrency} and rate is {self.rate}, exactly one of them "
                "must be set"
            )
        for name in ("concurrency", "rate", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ParameterError(f"{name} is {value}, must be positive")


async def send(
    params: TrafficParams,
    workload: Workload,
    *,
    progress: Callable[[Reply], None] | None = None,
) -> list[Reply]:
    """Send the workload and return an answer per request, in the workload's order.

    Raises
    ------
    MissingExtraError
        If aiohttp is not installed.
    """
    http = require_aiohttp(EXTRA)
    replies: list[Reply] = []
    async with open_session(timeout_s=params.timeout_s, extra=EXTRA) as session:
        client = _Client(session, params, workload, http.ClientError)

        async def one(index: int) -> None:
            reply = await client.ask(index)
            replies.append(reply)
            if progress is not None:
                progress(reply)

        await _paced(one, params, len(workload))
    return sorted(replies, key=lambda reply: reply.index)


async def _paced(one: Callable[[int], Any], params: TrafficParams, total: int) -> None:
    coming = iter(range(total))

    async def lane() -> None:
        for index in coming:
            await one(index)

    async with asyncio.TaskGroup() as group:
        if params.concurrency is not None:
            for _ in range(min(params.concurrency, total)):
                group.create_task(lane())
            return
        began = time.monotonic()
        for index in coming:
            due = began + index / (params.rate or 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(one(index))


class _Leave(Exception):  # noqa: N818 # no error: the client goes away on purpose
    pass


class _Client:
    def __init__(
        self, session: Any, params: TrafficParams, workload: Workload, broken: type[Exception]
    ) -> None:
        self._session, self._params, self._workload = session, params, workload
        self._broken = broken

    async def ask(self, index: int) -> Reply:
        """Send a request and follow its answer to whatever end it has."""
        leave = self._params.leave.get(index)
        answer, sent_s = Answer(heed=_leaving(leave)), time.monotonic()
        wanted = int(self._workload.output_tokens[index])
        try:
            # A client that leaves before any answer does so when the request is surely held.
            async with asyncio.timeout(0.5 if leave == 0 else None):
                await self._follow(index, answer, wanted)
        except _Leave:
            return _reply(index, sent_s, answer, Fate.LEFT)
        except TimeoutError:
            fate = Fate.LEFT if leave == 0 else Fate.BROKEN
            return _reply(index, sent_s, answer, fate, "no answer in time")
        except (self._broken, OSError) as error:
            why = f"{type(error).__name__}: {error}"
            return _reply(index, sent_s, answer, Fate.BROKEN, why)
        return _reply(index, sent_s, answer, *_judged(answer, wanted))

    async def _follow(self, index: int, answer: Answer, wanted: int) -> None:
        more = self._params.headers_of
        headers = self._params.headers | (more(index) if more is not None else {})
        body = exact_body(self._params.model, self._workload.prompts[index], wanted)
        url = f"{self._params.url}/v1/completions"
        await exchange(self._session, url, body, answer, headers)


def _leaving(after: int | None) -> Callable[[Answer], None] | None:
    """Return what lets the client go away after so many tokens; None if it stays."""
    if after is None:
        return None

    def heed(answer: Answer) -> None:
        if answer.chunks >= after:
            raise _Leave

    return heed


def _judged(answer: Answer, wanted: int) -> tuple[Fate, str]:
    """Say what an answer is that came to its end, and why if it is not complete."""
    told = answer.text if answer.status != 200 else answer.error
    if told or answer.status != 200:
        what = openai_error(told)
        return (Fate.WRONG, told) if what is None else (Fate.REFUSED, what)
    counted = answer.count("completion_tokens")
    if answer.chunks == wanted == counted and answer.done == 1 and not answer.malformed:
        return Fate.COMPLETE, ""
    why = f"{answer.chunks} tokens of {wanted}, usage {counted}, [DONE] {answer.done} times"
    return Fate.WRONG, f"{why} {answer.malformed}"


def _reply(index: int, sent_s: float, answer: Answer, fate: Fate, why: str = "") -> Reply:
    return Reply(
        index=index,
        fate=fate,
        status=answer.status,
        sent_s=sent_s,
        first_s=answer.first_s,
        last_s=answer.last_s,
        tokens=answer.chunks,
        worker=answer.headers.get("x-brsolver-worker", ""),
        why=shortened(why),
    )


def openai_error(text: str) -> str | None:
    """Return the message of an error in OpenAI's format; None if it is none."""
    try:
        told = json.loads(text)
        error = told["error"]
        return str(error["message"]) if "type" in error else None
    except (ValueError, LookupError, TypeError):
        return None


def tally(replies: Sequence[Reply]) -> dict[Fate, int]:
    """Count replies by what became of them; all fates are there."""
    return {fate: sum(reply.fate is fate for reply in replies) for fate in Fate}


def expect_no_wrong(replies: Sequence[Reply]) -> None:
    """Raise if any answer was neither whole nor visibly not.

    Raises
    ------
    BrsolverError
        Names the first such answer.
    """
    for reply in replies:
        if reply.fate is Fate.WRONG:
            raise BrsolverError(f"request {reply.index} was answered wrongly: {reply.why}")
