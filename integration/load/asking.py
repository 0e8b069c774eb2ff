"""One request of a load: sent when a connection is free, followed to whatever end it has."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from integration.load.answers import Answer
from integration.load.http import exchange, require_aiohttp
from integration.load.kinds import Kind, excused, judged

if TYPE_CHECKING:
    from integration.load.params import TargetParams
    from integration.load.replies import Reply


class Asker:
    """Sends requests to one endpoint.

    Parameters
    ----------
    session : aiohttp.ClientSession
    params : TargetParams
    """

    def __init__(self, session: Any, params: TargetParams) -> None:
        self._session, self._params = session, params
        self._errors = (require_aiohttp().ClientError, OSError, TimeoutError)
        most = params.max_connections
        self._free: Any = contextlib.nullcontext() if most is None else asyncio.Semaphore(most)

    async def ask(self, body: bytes, reply: Reply) -> None:
        """Send a request and note in `reply` what came of it, also if this is cancelled."""
        answer = Answer(chat=self._params.chat)
        try:
            async with self._free:
                reply.sent_s = time.monotonic()
                await exchange(self._session, self._params.endpoint, body, answer)
            reply.kind, reply.why = judged(answer)
        except self._errors as error:
            reply.kind, reply.why = _ended(error, answer)
        finally:
            reply.end_s = time.monotonic()
            _note(answer, reply)


def _ended(error: Exception, answer: Answer) -> tuple[Kind, str]:
    """Say what an error means for an answer, which may have said before what was wrong.

    Or that it was whole: what becomes of a connection after ``[DONE]`` is none of a client's care.
    """
    if answer.done:
        answer.close(time.monotonic())
    if answer.malformed or answer.error or answer.done:
        return judged(answer)
    return excused(error)


def _note(answer: Answer, reply: Reply) -> None:
    reply.status = answer.status
    reply.first_s, reply.last_s = answer.first_s, answer.last_s
    reply.chunk_s = answer.chunk_s
    tokens, prompt = answer.count("completion_tokens"), answer.count("prompt_tokens")
    if tokens == 0 and answer.chunks > 1:
        tokens = None
    reply.told = tokens is not None
    reply.tokens = answer.chunks if tokens is None else tokens
    reply.prompt_tokens = reply.prompt_tokens if prompt is None else prompt
