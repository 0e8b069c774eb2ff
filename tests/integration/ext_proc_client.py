"""What a data plane says to an endpoint picker, in messages of Envoy's ext_proc."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
from door_support import PATIENCE_S

from integration.doors.ext_proc import SUBSET, SUBSET_NAMESPACE, ExtProc, ExtProcParams
from integration.doors.grpc_server import GrpcServer
from integration.messages import names, services
from integration.messages.ext_proc import BODY_MODES, ProcessingRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class DataPlane:
    """One request's stream."""

    def __init__(self, call: Any, request: str = "BUFFERED", response: str = "NONE") -> None:
        self.call = call
        self._modes = (request, response)
        self._first = True

    async def send(self, message: Any) -> None:
        if self._first:
            config = message.protocol_config
            config.request_body_mode = BODY_MODES[self._modes[0]]
            config.response_body_mode = BODY_MODES[self._modes[1]]
            config.SetInParent()
            self._first = False
        await self.call.write(message)

    async def headers(
        self, method: str = "POST", *, end: bool = False, subset: Any = None, **more: str
    ) -> None:
        message = ProcessingRequest()
        all_headers = {":method": method, ":path": "/v1/completions?x=1", **more}
        for key, value in all_headers.items():
            message.request_headers.headers.headers.add(key=key, raw_value=value.encode())
        message.request_headers.end_of_stream = end
        if subset is not None:
            space = message.metadata_context.filter_metadata[SUBSET_NAMESPACE]
            if isinstance(subset, str):
                space.fields[SUBSET].string_value = subset
            else:
                space.fields[SUBSET].list_value.SetInParent()
                for address in subset:
                    space.fields[SUBSET].list_value.values.add(string_value=address)
        await self.send(message)

    async def body(self, body: bytes = b"{}", *, end: bool = True) -> None:
        message = ProcessingRequest()
        message.request_body.body = body
        message.request_body.end_of_stream = end
        await self.send(message)

    async def trailers(self) -> None:
        message = ProcessingRequest()
        message.request_trailers.SetInParent()
        await self.send(message)

    async def response(self, status: int = 200, served: str | None = None) -> None:
        message = ProcessingRequest()
        headers = message.response_headers.headers.headers
        headers.add(key=":status", raw_value=str(status).encode())
        if served is not None:
            space = message.metadata_context.filter_metadata[names.LB]
            space.fields[names.SERVED].string_value = served
        await self.send(message)

    async def response_body(self, body: bytes, *, end: bool = False) -> None:
        message = ProcessingRequest()
        message.response_body.body = body
        message.response_body.end_of_stream = end
        await self.send(message)

    async def raw(self) -> Any:
        """The next answer; None if the picker closed the stream."""
        async with asyncio.timeout(PATIENCE_S):
            found = await self.call.read()
        return None if found is grpc.aio.EOF else found

    async def answer(self) -> Any:
        """The next answer that is not a request for more time."""
        answer = await self.raw()
        while answer is not None and answer.HasField("override_message_timeout"):
            answer = await self.raw()
        return answer


@contextlib.asynccontextmanager
async def picker(home: Any, tiers: Any = None, **params: Any) -> AsyncIterator[Any]:
    """A server with the door; yields it, and what opens a stream to it."""
    door = ExtProc(home.reception, ExtProcParams(**params), tiers=tiers)
    server = GrpcServer([door.handler()])
    port = await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            process = services.call(channel, services.EXTERNAL_PROCESSOR, "Process")
            yield door, lambda *modes: DataPlane(process(), *modes)
    finally:
        await server.stop()


def set_headers(answer: Any) -> dict[str, str]:
    """Headers that an answer sets."""
    kind = answer.WhichOneof("response")
    found = getattr(answer, kind)
    mutation = found.headers if kind == "immediate_response" else found.response.header_mutation
    return {one.header.key: one.header.raw_value.decode() for one in mutation.set_headers}


def destination(answer: Any) -> str:
    """Where an answer sends a request: header and metadata must agree."""
    by_header = set_headers(answer)[names.ENDPOINT]
    by_metadata = answer.dynamic_metadata.fields[names.LB].struct_value.fields[names.ENDPOINT]
    assert by_metadata.string_value == by_header
    return by_header


async def placed(stream: Any, *modes: str) -> DataPlane:
    """Open a stream, and have its request placed."""
    plane = stream(*modes)
    await plane.headers()
    await plane.answer()
    await plane.body()
    await plane.answer()
    return plane


async def streamed(plane: DataPlane, kind: str) -> bytes:
    """Read a body that comes in parts."""
    whole = b""
    while True:
        answer = await plane.answer()
        part = getattr(answer, kind).response.body_mutation.streamed_response
        assert len(part.body) < 65_536
        whole += part.body
        if part.end_of_stream:
            return whole
