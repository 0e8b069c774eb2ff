"""Servers on real sockets that answer as they are told, and loads of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass

import numpy as np

from brsolver.traces.trace import Trace
from integration.load.params import ContentParams, LoadParams, Pace, TargetParams
from integration.load.running import load

PATIENCE_S = 60.0
EVENTS = "Content-Type: text/event-stream\r\n"
MODELS = {"object": "list", "data": [{"id": "m", "max_model_len": 1000}]}


class Cut(bytes):
    """Bytes with which a connection ends."""


@dataclass(frozen=True)
class Asked:
    """A request, as a server got it."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self):
        return json.loads(self.raw)


def answer(body: bytes | str | dict, status="200 OK", headers="Content-Type: application/json\r\n"):
    """A whole answer of HTTP."""
    raw = json.dumps(body).encode() if isinstance(body, dict) else body
    raw = raw.encode() if isinstance(raw, str) else raw
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


def event(body) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


def token(text=" a") -> str:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": None}]})


def usage(tokens, prompt=3) -> str:
    told = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return event({"choices": [], "usage": told})


DONE = "data: [DONE]\n\n"


def stream(*events: str) -> bytes:
    return answer("".join(events), headers=EVENTS)


def whole(asked: Asked) -> bytes:
    """What a server answers that does as it is told."""
    tokens = asked.body.get("max_tokens") or asked.body["max_completion_tokens"]
    prompt = asked.body.get("prompt", "")
    size = len(prompt) if isinstance(prompt, list) else len(prompt.split())
    return stream(*[token()] * tokens, usage(tokens, size), DONE)


@contextlib.asynccontextmanager
async def serving(answers, *, models=MODELS, tls=None):
    """A server; ``answers(asked, number)`` returns bytes, or None for no answer at all.

    Yields its URL and the list of requests that it got.
    """
    got: list[Asked] = []
    there: dict[asyncio.Task, asyncio.StreamWriter] = {}

    async def handle(reader, writer):
        there[asyncio.current_task()] = writer
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await converse(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def converse(reader, writer):
        while asked := await _asked(reader):
            if asked.path.endswith("/models"):
                given = models if isinstance(models, bytes) else answer(models)
            else:
                got.append(asked)
                given = answers(asked, len(got) - 1)
                given = await given if asyncio.iscoroutine(given) else given
            if given is None:
                await reader.read()
                break
            writer.write(given)
            await writer.drain()
            if isinstance(given, Cut):
                break

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls, limit=2**24)
    scheme = "http" if tls is None else "https"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", got
    finally:
        server.close()
        for writer in there.values():
            writer.close()
        await asyncio.gather(*there)


async def _asked(reader) -> Asked | None:
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    first, *rest = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest if line)
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(path=first.split()[1], headers=headers, raw=raw)


def requests(n=4, prompt=3, output=2, **columns) -> Trace:
    """A trace of equal requests, all of which come at once."""
    return Trace(
        prompt_tokens=np.full(n, prompt),
        output_tokens=np.broadcast_to(np.asarray(output, np.int64), n).copy(),
        arrival_s=columns.pop("arrival_s", np.zeros(n)),
        name="test",
        columns=columns,
    )


def params(url, *, pace=None, content=None, **more) -> LoadParams:
    warm_up, fit = more.pop("warm_up", 0), more.pop("fit", False)
    objectives = {"objectives": more.pop("objectives")} if "objectives" in more else {}
    return LoadParams(
        target=TargetParams(url=url, **more),
        pace=pace or Pace(),
        content=content or ContentParams(),
        warm_up=warm_up,
        fit=fit,
        **objectives,
    )


def loaded(answers, trace=None, *, tell=None, models=MODELS, **more):
    """Load a server that answers so; return what was loaded, and what the server got."""

    async def run():
        async with asyncio.timeout(PATIENCE_S), serving(answers, models=models) as (url, got):
            found = await load(trace or requests(), params(url, **more), tell=tell)
            return found, got

    return asyncio.run(run())
