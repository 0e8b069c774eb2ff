"""Requests by aiohttp: connections, and one exchange of a request and a stream."""

from __future__ import annotations

import asyncio
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.errors import MissingExtraError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from integration.load.answers import Answer

KEEP_ALIVE_S = 2.0
"""Less than servers keep idle connections for (uvicorn: five seconds), which they would else close
in the moment in which they are taken up."""
REST_S = 1.0
"""For which an answer may go on after it has said that it is whole."""
MAX_TOLD = 2**16
"""Bytes that are read of an answer that is no stream."""
JSON = {"Content-Type": "application/json"}


def require_aiohttp(extra: str = "load") -> Any:
    """Return the module.

    Raises
    ------
    MissingExtraError
        It is not installed; `extra` brings it.
    """
    try:
        return import_module("aiohttp")
    except ImportError as error:
        raise MissingExtraError.for_extra("aiohttp", extra) from error


def open_session(
    *,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | bool = True,
    extra: str = "load",
) -> Any:
    """Return an `aiohttp.ClientSession` for any number of streams, to be entered as a context.

    Proxies of the environment are not used: they would be measured, too.

    Parameters
    ----------
    timeout_s : float
        Seconds that one request may take, all in all.
    headers : mapping of str to str, optional
        Sent with every request.
    tls : ssl.SSLContext or bool
        How servers show who they are; False takes any.
    extra : str
        What brings aiohttp, for the message where it is missing.
    """
    http = require_aiohttp(extra)
    connector = http.TCPConnector(
        limit=0, keepalive_timeout=KEEP_ALIVE_S, ttl_dns_cache=300, ssl=tls
    )
    limit = http.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 30.0))
    return http.ClientSession(connector=connector, timeout=limit, headers=headers, trust_env=False)


async def exchange(
    session: Any, url: str, body: bytes, answer: Answer, headers: Mapping[str, str] | None = None
) -> None:
    """Send a request and follow its answer to its end.

    Parameters
    ----------
    session : aiohttp.ClientSession
    url : str
    body : bytes
        JSON.
    answer : Answer
        What comes is told to it, also if this raises.
    headers : mapping of str to str, optional
        Besides the session's.

    Raises
    ------
    aiohttp.ClientError, OSError, TimeoutError
        The connection cannot be made, ends too early or lasts too long.
    """
    async with session.post(
        url, data=body, headers={**JSON, **headers} if headers else JSON
    ) as response:
        answer.status, answer.headers = response.status, response.headers
        if response.method != "POST":
            answer.status = response.history[-1].status
            answer.text = f"redirects to {response.url}, which nothing can be posted to this way"
            return
        answer.streamed = response.status == 200 and response.content_type == "text/event-stream"
        if not answer.streamed:
            answer.text = await read_some(response)
            return
        await _follow(response, answer)


async def _follow(response: Any, answer: Answer) -> None:
    """Take in a stream to its end, which must not be long after ``[DONE]``."""
    feed, clock = answer.feed, time.monotonic
    async with asyncio.timeout(None) as limit:
        async for data in response.content.iter_any():
            feed(data, clock())
            if answer.done and limit.when() is None:
                limit.reschedule(asyncio.get_running_loop().time() + REST_S)
    answer.close(clock())


async def read_some(response: Any) -> str:
    """Return an answer's body as text, `MAX_TOLD` bytes of it at most."""
    parts, left = [], MAX_TOLD
    while left > 0 and (part := await response.content.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts).decode(errors="replace")
