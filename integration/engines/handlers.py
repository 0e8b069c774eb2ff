"""The HTTP side of a fake engine: one application per port."""

from __future__ import annotations

import base64
import struct
import time
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, web

from brsolver._version import __version__
from brsolver.errors import ParameterError
from integration.engines import asking, events, transfer
from integration.engines.asking import RequestRefused
from integration.engines.cluster import Task
from integration.engines.faults import read_fault
from integration.engines.figures import exposition
from integration.engines.replies import Part, Reply, Stream, Struck, spoil

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from integration.engines.asking import Asked
    from integration.engines.engine import FakeEngine

MAX_BODY = 64 * 2**20
PIN = "X-data-parallel-rank"
DIMENSIONS = 64
SERVED = "/v1/completions, /v1/chat/completions, /v1/embeddings and /v1/models"
_STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


def application(engine: FakeEngine, rank: int | None) -> web.Application:
    """Return what a port serves: that of a rank, or of all of them if `rank` is None."""
    port = Port(engine, rank)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[port.in_openai_format])
    app.add_routes(
        [
            web.post("/v1/completions", port.completions),
            web.post("/v1/chat/completions", port.chat),
            web.post("/v1/embeddings", port.embeddings),
            web.get("/v1/models", port.models),
            web.get("/health", port.health),
            web.get("/ping", port.health),
            web.get("/version", port.version),
            web.get("/metrics", port.metrics),
            web.post("/kv/fetch", port.fetched),
            web.get("/fault", port.faults),
            web.post("/fault", port.set_fault),
        ]
    )
    return app


class Port:
    """The handlers of a port."""

    def __init__(self, engine: FakeEngine, rank: int | None) -> None:
        self._engine, self._rank = engine, rank
        self._cluster, self._params = engine.cluster, engine.params
        everyone = range(self._params.ranks)
        self._ranks = everyone if rank is None else everyone[rank : rank + 1]

    @web.middleware
    async def in_openai_format(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Have a request answered; what is refused is so as OpenAI does it."""
        try:
            return await handler(request)
        except (RequestRefused, ParameterError, web.HTTPClientError) as error:
            refused = _refusal(request, error)
            if self._engine.journal is not None and _wants_an_answer(request):
                rank = self._rank if refused.rank is None else refused.rank
                self._engine.journal.refused(refused.status, rank)
            return web.json_response(refused.body(), status=refused.status)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/v1/completions``."""
        return await self._complete(request, chat=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/v1/chat/completions``."""
        return await self._complete(request, chat=True)

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/v1/embeddings``: the ranks compute the prompts."""
        body = asking.read_body(await request.read())
        asking.check_model(body, self._params)
        prompts = asking.read_prompts(body, "input", self._params)
        vectors = [_vector(content, body) for _, content in prompts]
        tokens = tuple(count for count, _ in prompts)
        rank = self._chosen(request)
        reply = Reply(rank, self._cluster.faults, request.transport, len(prompts))
        struck = await self._run(reply, [(count, 1, 0, _Whole) for count in tokens])
        if struck is not None:
            return struck
        data = [
            {"object": "embedding", "index": j, "embedding": vector}
            for j, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
        answer = {"object": "list", "data": data, "model": self._params.model, "usage": usage}
        return web.json_response(answer)

    async def models(self, request: web.Request) -> web.Response:
        """Answer ``/v1/models``."""
        del request
        card = {
            "id": self._params.model,
            "object": "model",
            "created": self._engine.created,
            "owned_by": "brsolver",
            "max_model_len": self._params.longest,
        }
        return web.json_response({"object": "list", "data": [card]})

    async def health(self, request: web.Request) -> web.Response:
        """Answer ``/health``: 503 once a rank has died."""
        del request
        faults = [self._cluster.faults[rank] for rank in self._ranks]
        dead = any(fault is not None and fault.kind == "die" for fault in faults)
        return web.Response(status=503 if dead else 200)

    async def version(self, request: web.Request) -> web.Response:
        """Answer ``/version``."""
        del request
        return web.json_response({"version": __version__})

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer ``/metrics`` as vLLM does."""
        del request
        text = exposition(self._cluster, self._ranks)
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=text.encode(), headers=headers)

    async def fetched(self, request: web.Request) -> web.Response:
        """Hand out the KV of a prompt to another engine."""
        body = asking.read_body(await request.read())
        found = self._cluster.fetch(str(body.get("request")))
        return web.json_response({"fetched": found}, status=200 if found else 404)

    async def faults(self, request: web.Request) -> web.Response:
        """Say what is wrong with the ranks."""
        del request
        return web.json_response(self._cluster.faults.as_dict())

    async def set_fault(self, request: web.Request) -> web.Response:
        """Let something be wrong with ranks, or right again."""
        body = asking.read_body(await request.read())
        ranks, fault = read_fault(body, self._params.ranks)
        for rank in ranks:
            await self._engine.set_fault(rank, fault)
        return web.json_response(self._cluster.faults.as_dict())

    async def _complete(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = asking.read_body(await request.read())
        asked = asking.read_completion(body, self._params, chat=chat)
        rank = self._chosen(request)
        name = self._engine.name("chatcmpl" if chat else "cmpl")
        head = events.Head(name, int(time.time()), self._params.model, asked)
        choices = [events.Choice(head, index) for index in range(len(asked.output_tokens))]
        cached = await self._cached(request, body, asked)
        of = [
            (asked.prompt_tokens[index // asked.n], choice.total, cached, choice)
            for index, choice in enumerate(choices)
        ]
        if asked.stream:
            return await self._stream(request, rank, head, of)
        reply = Reply(rank, self._cluster.faults, request.transport, len(of))
        struck = await self._run(reply, of)
        if struck is not None:
            return struck
        more = self._offered(request, asked, name, rank)
        return web.json_response(head.whole([choice.whole() for choice in choices], **more))

    async def _stream(
        self,
        request: web.Request,
        rank: int,
        head: events.Head,
        of: list[tuple[int, int, int, events.Choice]],
    ) -> web.StreamResponse:
        chunked = request.version >= HttpVersion11
        faults = self._cluster.faults
        reply = Stream(rank, faults, request.transport, len(of), chunked=chunked)
        if faults.any and (fault := faults.strike(rank, 0)):
            self._note(reply, of)
            return await _spoilt(reply, fault)
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        if chunked:
            response.enable_chunked_encoding()
        # Its headers go out at once, as vLLM's do.
        await response.prepare(request)
        reply.begun = True
        if await self._run(reply, of) is None:
            usage = head.usage(sum(head.asked.output_tokens))
            final = events.event(head.part([], usage=usage)) if head.asked.usage else b""
            await response.write(final + events.DONE)
            await response.write_eof()
        return response

    async def _run(
        self, reply: Reply, of: list[tuple[int, int, int, Any]]
    ) -> web.StreamResponse | None:
        """Let the ranks work on an answer; return what stands for it if it was spoilt."""
        faults = self._cluster.faults
        if not reply.begun and faults.any and (fault := faults.strike(reply.rank, 0)):
            self._note(reply, of)
            return await _spoilt(reply, fault)
        tasks = [
            Task(prompt, output, Part(reply, choice), reply.rank, cached)
            for prompt, output, cached, choice in of
        ]
        try:
            for task in tasks:
                self._cluster.submit(task)
            self._engine.clock.wake()
            await reply.done
        except Struck:
            for task in tasks:
                self._cluster.abort(task)
            return await _spoilt(reply, reply.struck)
        finally:
            for task in tasks:
                self._cluster.abort(task)
            self._note(reply, of)
            reply.forget()
        return None

    def _note(self, reply: Reply, of: list[tuple[int, int, int, Any]]) -> None:
        if self._engine.journal is not None:
            self._engine.journal.note(reply, sum(prompt for prompt, *_ in of))

    def _chosen(self, request: web.Request) -> int:
        """Return the rank that a request goes to; refuse it if that one refuses."""
        rank = self._rank
        if rank is None:
            pin = None if self._params.ignore_pin else request.headers.get(PIN)
            rank = self._cluster.choose() if pin is None else self._pinned(pin)
        status = self._cluster.faults.refusal(rank) if self._cluster.faults.any else None
        if status is not None:
            raise RequestRefused(
                "EngineCore encountered an issue.",
                status=status,
                kind="InternalServerError",
                rank=rank,
            )
        return rank

    def _pinned(self, pin: str) -> int:
        # Digits of other scripts are digits to Python, and numbers of any length.
        if pin.isascii() and pin.isdigit() and len(pin) < 9 and int(pin) < self._params.ranks:
            return int(pin)
        raise RequestRefused(
            f"{PIN} is {pin!r}, must be from 0 to {self._params.ranks - 1}", param=PIN
        )

    async def _cached(self, request: web.Request, body: dict[str, Any], asked: Asked) -> int:
        """Return how many tokens of the prompt come from another engine."""
        kv, where = asked.kv, request.headers.get(transfer.PREFILLER)
        if where and not kv and self._params.role != "prefill":
            kv = await self._engine.prefill(where, request.path, body)
        if not kv.get("do_remote_prefill"):
            return 0
        sequences = len(asked.output_tokens)
        if sequences > 1:
            # vLLM lets it pass, and decodes all on the KV of one.
            raise RequestRefused(
                f"kv_transfer_params are given for {sequences} sequences, must be for one: it is "
                "the KV of one prompt, and fetched once",
                param="kv_transfer_params",
            )
        return asked.prompt_tokens[0] if await self._engine.fetch(kv) else 0

    def _offered(self, request: web.Request, asked: Asked, name: str, rank: int) -> dict[str, Any]:
        if not asked.kv.get("do_remote_decode"):
            return {}
        # As vLLM does, which keeps the KV of every prompt and tells of the first one's.
        names = [f"{name}-{index}" for index in range(len(asked.prompt_tokens))]
        for each, tokens in zip(names, asked.prompt_tokens, strict=True):
            self._cluster.keep(each, rank, tokens)
        engine = f"{self._engine.identity}-{rank}"
        at = request.transport.get_extra_info("sockname") if request.transport else None
        host, port = at[:2] if at else (self._params.host, 0)
        told = transfer.offer(names[0], engine, host, port, asked.prompt_tokens[0])
        return {"kv_transfer_params": told}


def _wants_an_answer(request: web.Request) -> bool:
    return request.method == "POST" and request.path.startswith("/v1/")


def _refusal(request: web.Request, error: Exception) -> RequestRefused:
    """Return how a request is refused, whoever said that it is."""
    if isinstance(error, RequestRefused):
        return error
    if isinstance(error, web.HTTPNotFound):
        what = (
            f"{request.method} {request.path[:80]!r} is not served by a fake engine; {SERVED} are"
        )
        return RequestRefused(what, status=404, kind="NotFoundError")
    if isinstance(error, web.HTTPClientError):
        return RequestRefused(error.reason, status=error.status, kind=type(error).__name__)
    return RequestRefused(str(error))


class _Whole:
    """What an embedding is for the ranks: its prompt's last token ends it."""

    total = 1


async def _spoilt(reply: Reply, fault: Any) -> web.StreamResponse:
    if fault is not None:
        await spoil(fault, reply.transport)
    # Nobody gets it: the connection is gone.
    return web.Response(status=500)


def _vector(content: object, body: dict[str, Any]) -> Any:
    """Return an embedding, the same for the same prompt: a list of numbers, or these in base64."""
    count = body.get("dimensions") or DIMENSIONS
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 4096:
        raise RequestRefused(f"dimensions is {count!r}, must be from 1 to 4096", param="dimensions")
    encoding = body.get("encoding_format") or "float"
    if not isinstance(encoding, str) or encoding not in {"float", "base64"}:
        raise RequestRefused(
            f"encoding_format is {encoding!r}, must be float or base64", param="encoding_format"
        )
    text = repr(content).encode(errors="surrogatepass")
    digests = b"".join(blake2b(text, salt=j.to_bytes(8)).digest() for j in range(-(-count // 64)))
    numbers = [byte / 127.5 - 1 for byte in digests[:count]]
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{count}f", *numbers)).decode()
    return numbers
