"""The endpoint-picker protocol of the Gateway API Inference Extension, over Envoy's ext_proc.

A stream per request: headers and body come, the answer names the workers to try, in a header and
in metadata; a request is held by answering late. Bodies are taken buffered, or as full-duplex
streams; where neither is sent the decision goes by headers alone. Where an access log tells of
starts and ends, the stream is closed once that is told, or after the response's headers at the
latest, since every message through Python costs time; where there is none, as in Kubernetes, the
stream's end is the request's.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from brsolver.errors import ParameterError
from integration.doors import _processing as processing
from integration.doors.reception import Routed
from integration.messages import services
from integration.messages.ext_proc import BODY_MODES
from integration.messages.names import AGAIN, CLIENT, LB, SERVED
from integration.picker import End, Refused, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from integration.doors.reception import Destination, Reception
    from integration.doors.tiers import Tiers

_DUPLEX: Final = BODY_MODES["FULL_DUPLEX_STREAMED"]
_WHOLE: Final = (BODY_MODES["BUFFERED"], _DUPLEX)
"""In others the answer to a body cannot change headers: Envoy would not take our destination."""
SUBSET: Final = "x-gateway-destination-endpoint-subset"
"""Metadata key of the workers that may be picked."""
SUBSET_NAMESPACE: Final = "envoy.lb.subset_hint"
TURNS = 4
"""Of the loop, in which a request is decided that is not held: then no watch is kept over it."""
TAIL = 4096
"""Bytes at a response's end in which its ``usage`` is looked for."""
_PROMPT = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,15})')
_COMPLETION = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,15})')


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtProcParams:
    """How the door treats its streams.

    Attributes
    ----------
    ends : str
        What tells that a request has ended: ``"stream"``, or ``"log"`` where Envoy's access log
        comes here too.
    hold_s : float
        Seconds that are asked for while a request is held; Envoy's ``max_message_timeout`` must
        be as long.
    patience_s : float
        Seconds that a request is held before more time is asked for; less than Envoy's
        ``message_timeout``.
    grace_s, start_s : float
        Seconds after which a request that nobody started is given up: one whose client left while
        it was decided, and any.
    body_limit : int
        Bytes of a request's body.
    header_limit, header_count : int or None
        Bytes of a request's headers, and how many of them there may be; None where whoever asks
        has no bound for what is added to them. Envoy drops an answer that would take them beyond
        its own, and the request would go past the picker.
    """

    ends: str = "stream"
    hold_s: float = 3600.0
    patience_s: float = 0.05
    grace_s: float = 2.0
    start_s: float = 15.0
    body_limit: int = 64 * 2**20
    header_limit: int | None = None
    header_count: int | None = None

    def __post_init__(self) -> None:
        if self.ends not in {"stream", "log"}:
            raise ParameterError(f"ends is {self.ends!r}, must be 'stream' or 'log'")
        for name in ("hold_s", "patience_s", "grace_s", "start_s", "body_limit"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name} is {getattr(self, name)}, must be above 0")


class ExtProc:
    """Serves the endpoint-picker protocol.

    Parameters
    ----------
    reception : Reception
    params : ExtProcParams, optional
    tiers : Tiers, optional
        Computes prompts elsewhere first.

    Attributes
    ----------
    streams : int
        Streams that are open.
    faults : int
        Requests that failed in here; they go to any live worker.
    """

    def __init__(
        self,
        reception: Reception,
        params: ExtProcParams | None = None,
        *,
        tiers: Tiers | None = None,
    ) -> None:
        self.reception = reception
        self.params = ExtProcParams() if params is None else params
        self.tiers = tiers
        self.streams = 0
        self.faults = 0

    def handler(self) -> Any:
        """Return the handler for ``server.add_generic_rpc_handlers``."""
        return services.handler(services.EXTERNAL_PROCESSOR, Process=self._process)

    async def _process(self, messages: AsyncIterator[Any], context: Any) -> None:
        stream = _Stream(self, context)
        self.streams += 1
        try:
            async for message in messages:
                if await stream.take(message) or await stream.settled(messages):
                    break
        finally:
            self.streams -= 1
            stream.close()


class _Stream:
    """One request."""

    def __init__(self, door: ExtProc, context: Any) -> None:
        self._door = door
        self._send = context.write
        self._headers: dict[str, str] = {}
        self._subset: frozenset[str] | None = None
        self._modes = (_DUPLEX, _DUPLEX)
        self._first = True
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._name: str | None = None
        self._status = 0
        self._tail = b""
        self._complete = False
        self._refused = False
        self._routed = self._told = self._gone = False

    async def _write(self, answer: Any) -> None:
        """Answer; whoever has gone meanwhile hears nothing, and it is nobody's fault."""
        try:
            await self._send(answer)
        except Exception:  # noqa: BLE001 # gRPC says it in several ways
            self._gone = True

    async def take(self, message: Any) -> bool:
        """Take a message in; return whether the stream can be closed."""
        if self._first:
            self._begin(message)
        if message.observability_mode:
            return True
        kind = message.WhichOneof("request")
        return bool(await getattr(self, f"_{kind}")(message))

    async def settled(self, messages: AsyncIterator[Any]) -> bool:
        """Wait for the decision where nothing is to be told after it; return whether it is over.

        With an access log that has starts and ends, and a body that came whole, each message more
        would only cost time. Until then nothing comes but the end of a client that leaves.
        """
        short = self._door.params.ends == "log" and self._modes[0] == BODY_MODES["BUFFERED"]
        tiers = self._door.tiers
        if not short or self._task is None or (tiers is not None and tiers.names_workers):
            return False
        for _ in range(TURNS):
            if self._routed:
                await self._task
                return True
            await asyncio.sleep(0)
        gone = asyncio.ensure_future(anext(messages, None))
        try:
            await asyncio.wait({self._task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            # How a stream ended that is over, and the rest of it, is of no interest.
            gone.add_done_callback(lambda each: each.cancelled() or each.exception())
        return True

    def _begin(self, message: Any) -> None:
        self._first = False
        if message.HasField("protocol_config"):
            config = message.protocol_config
            self._modes = (config.request_body_mode, config.response_body_mode)
        found = processing.struct_field(message, SUBSET_NAMESPACE, SUBSET)
        if found is not None:
            self._subset = _addresses(found)

    async def _request_headers(self, message: Any) -> None:
        self._headers = processing.headers_of(message.request_headers)
        params = self._door.params
        over = processing.excess(message.request_headers, params.header_count, params.header_limit)
        if over is not None:
            await self._refuse(Refused(status=431, message=over))
        elif message.request_headers.end_of_stream or self._modes[0] not in _WHOLE:
            self._decide("request_headers")
        elif self._modes[0] != _DUPLEX:
            await self._write(processing.plain("request_headers"))

    async def _request_body(self, message: Any) -> None:
        part = message.request_body
        if self._modes[0] not in _WHOLE:
            await self._decided()
            await self._write(processing.plain("request_body"))
            return
        self._body += part.body
        limit = self._door.params.body_limit
        if len(self._body) > limit and self._task is None:
            await self._refuse(Refused(status=413, message=f"the body is over {limit} bytes"))
        elif (part.end_of_stream or self._modes[0] != _DUPLEX) and self._task is None:
            self._decide("request_body")

    async def _request_trailers(self, message: Any) -> None:  # noqa: ARG002 # as its siblings
        """Trailers end a streamed body that was not marked as ended."""
        if self._task is None and not self._refused:
            self._decide("request_body", trailers=True)
        await self._decided()
        if not self._refused:
            await self._write(processing.plain("request_trailers"))

    async def _response_headers(self, message: Any) -> bool:
        await self._decided()
        headers = processing.headers_of(message.response_headers)
        self._status = int(headers.get(":status", "0"))
        self._complete = message.response_headers.end_of_stream
        if self._name is not None:
            ledger = self._door.reception.ledger
            ledger.answering(self._name)
            served = _served(message)
            if served is not None:
                ledger.started(self._name, served)
        await self._write(processing.plain("response_headers"))
        return self._door.params.ends == "log" and self._modes[1] != _DUPLEX

    async def _response_body(self, message: Any) -> None:
        part = message.response_body
        if self._name is not None and part.body and not self._tail:
            self._door.reception.ledger.first_token(self._name)
        self._tail = (self._tail + part.body)[-TAIL:]
        self._complete = part.end_of_stream
        if self._modes[1] != _DUPLEX:
            await self._write(processing.plain("response_body"))
            return
        for answer in processing.streamed("response_body", part.body, last=part.end_of_stream):
            await self._write(answer)

    async def _response_trailers(self, message: Any) -> None:  # noqa: ARG002 # as its siblings
        self._complete = True
        await self._write(processing.plain("response_trailers"))

    def _decide(self, kind: str, *, trailers: bool = False) -> None:
        """Decide beside the loop that reads: a client that leaves is seen while it is held."""
        self._task = asyncio.get_running_loop().create_task(self._answer(kind, trailers=trailers))

    async def _decided(self) -> None:
        if self._task is not None:
            await self._task

    async def _answer(self, kind: str, *, trailers: bool) -> None:
        patience_s = self._door.params.patience_s
        timer = asyncio.get_running_loop().call_later(patience_s, self._ask_for_time)
        try:
            routed = await self._route()
        except Exception as error:  # noqa: BLE001 # what trips us goes to a worker all the same
            self._door.faults += 1
            self._door.reception.ledger.tripped("ext_proc", error)
            routed = self._anywhere()
        finally:
            timer.cancel()
        self._routed = True
        if self._asking is not None:
            await self._asking  # gRPC takes one message at a time
        destination = routed.destination
        if isinstance(destination, Refused):
            await self._refuse(destination)
            return
        self._name = destination.name
        for answer in self._answers(kind, destination, routed, trailers=trailers):
            await self._write(answer)
        self._told = not self._gone
        if self._name is not None and self._door.params.ends == "stream":
            # Nobody tells of the start, and an answer in one piece begins only at its end.
            self._door.reception.ledger.started(self._name)

    def _ask_for_time(self) -> None:
        """Have a held request's timer prolonged; full-duplex streams have none."""
        if self._modes[0] != _DUPLEX:
            more = processing.more_time(self._door.params.hold_s)
            self._asking = asyncio.get_running_loop().create_task(self._write(more))

    async def _route(self) -> Routed:
        reception, again = self._door.reception, self._headers.get(AGAIN)
        if again is not None and reception.ledger.is_back(again):
            return Routed(await reception.place_again(again))
        path = self._headers.get(":path", "/").partition("?")[0]
        body = bytes(self._body)
        method = self._headers.get(":method", "GET")
        ask = reception.read(method, path, body, self._headers.get(CLIENT))
        if ask is None:
            return self._anywhere()
        if isinstance(ask, Refused):
            return Routed(ask)
        if self._door.tiers is not None and body:
            return await self._door.tiers.route(ask, path, body, self._headers, self._subset)
        return Routed(await reception.place(ask, self._subset))

    def _anywhere(self) -> Routed:
        tiers = self._door.tiers
        if tiers is None:
            return Routed(self._door.reception.anywhere(self._subset))
        return tiers.anywhere(bytes(self._body), self._headers, self._subset)

    def _answers(
        self, kind: str, destination: Destination, routed: Routed, *, trailers: bool
    ) -> list[Any]:
        headers = dict(routed.headers)
        named = self._door.params.ends == "log"
        if routed.body is not None:
            headers["content-length"] = str(len(routed.body))
        if self._modes[0] != _DUPLEX or kind == "request_headers":
            answer = processing.routed(kind, destination, headers, named=named)
            if routed.body is not None:
                answer.request_body.response.body_mutation.body = routed.body
            return [answer]
        body = bytes(self._body) if routed.body is None else routed.body
        first = processing.routed("request_headers", destination, headers, named=named)
        return [first, *processing.streamed("request_body", body, last=not trailers)]

    async def _refuse(self, refused: Refused) -> None:
        self._refused = True
        await self._write(processing.refused(refused))

    def close(self) -> None:
        """End what this stream is the only one to know of."""
        for task in (self._task, self._asking):
            if task is not None and not task.done():
                task.cancel()
        if self._name is None:
            return
        ledger = self._door.reception.ledger
        if self._door.params.ends == "stream":
            ledger.ended(self._name, self._end(), self._usage())
        elif not self._status:
            params = self._door.params
            ledger.doubt(self._name, params.start_s if self._told else params.grace_s)

    def _end(self) -> End:
        if self._status == 0:
            return End.DISCONNECTED
        if self._status >= 400:
            return End.REJECTED
        watched = self._modes[1] != BODY_MODES["NONE"]
        return End.FINISHED if self._complete or not watched else End.DISCONNECTED

    def _usage(self) -> Usage | None:
        prompt, completion = _PROMPT.findall(self._tail), _COMPLETION.findall(self._tail)
        if not prompt and not completion:
            return None
        return Usage(
            prompt_tokens=int(prompt[-1]) if prompt else None,
            completion_tokens=int(completion[-1]) if completion else None,
        )


def _addresses(value: Any) -> frozenset[str]:
    """Return the addresses of a subset, which is a list, or a text with commas."""
    if value.WhichOneof("kind") == "list_value":
        texts = [item.string_value for item in value.list_value.values]
    else:
        texts = value.string_value.split(",")
    return frozenset(text.strip() for text in texts if text.strip())


def _served(message: Any) -> str | None:
    """Return the worker that answered."""
    found = processing.struct_field(message, LB, SERVED)
    if found is not None and found.string_value:
        return str(found.string_value)
    for attributes in message.attributes.values():
        if "upstream.address" in attributes.fields:
            return str(attributes.fields["upstream.address"].string_value) or None
    return None
