"""The external processor behind a real Envoy: headers, bodies, refusals, holding, its end."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from front_door import PATIENCE_S, FrontDoor, front_door, raw

from integration.messages import ext_proc, names, services
from integration.settings import Door

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OVERWRITE = ext_proc.APPEND_ACTIONS["OVERWRITE_IF_EXISTS_OR_ADD"]
REFUSED = {"error": {"message": 'full "now"', "type": "t", "param": None, "code": 429}}


class Processor:
    """Answers bodies as `mode` says: ``route``, ``refuse``, ``hold`` or ``freeze``."""

    def __init__(self) -> None:
        self.mode = "route"
        self.target = ""
        self.seen: list[str] = []
        self.ended = 0
        self.holding = asyncio.Event()

    def handler(self) -> Any:
        return services.handler(services.EXTERNAL_PROCESSOR, Process=self.process)

    async def process(self, messages: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for message in messages:
                kind = message.WhichOneof("request")
                self.seen.append(kind)
                answer = ext_proc.ProcessingResponse()
                getattr(answer, kind).SetInParent()
                if kind == "request_body":
                    async for prepared in self._body():
                        yield prepared
                else:
                    yield answer
        finally:
            self.ended += 1

    async def _body(self) -> AsyncIterator[Any]:
        if self.mode == "hold":
            more = ext_proc.ProcessingResponse()
            more.override_message_timeout.FromSeconds(3600)
            yield more
        if self.mode in {"hold", "freeze"}:
            self.holding.set()
            await asyncio.Event().wait()
        yield self._refusal() if self.mode == "refuse" else self._route()

    def _refusal(self) -> Any:
        answer = ext_proc.ProcessingResponse()
        immediate = answer.immediate_response
        immediate.status.code, immediate.details = 429, names.REFUSED
        immediate.body = json.dumps(REFUSED).encode()
        immediate.headers.set_headers.add().header.MergeFrom(
            ext_proc.HeaderValue(key=names.RETRY_AFTER, raw_value=b"9")
        )
        return answer

    def _route(self) -> Any:
        body = b'{"say": "another body"}'
        answer = ext_proc.ProcessingResponse()
        common = answer.request_body.response
        headers = {
            names.ENDPOINT: self.target,
            names.ID: "own-1",
            names.RANK: "2",
            "content-length": str(len(body)),
        }
        for key, value in headers.items():
            header = ext_proc.HeaderValue(key=key, raw_value=value.encode())
            common.header_mutation.set_headers.add(header=header, append_action=OVERWRITE)
        common.body_mutation.body = body
        answer.dynamic_metadata.update({names.LB: {names.ENDPOINT: self.target}})
        return answer


@asynccontextmanager
async def processed(folder: Path) -> AsyncIterator[tuple[FrontDoor, Processor]]:
    processor = Processor()
    door = Door(door="ext_proc")
    async with front_door(folder, handlers=lambda: (processor.handler(),), picker=door) as front:
        processor.target = front.engines[1].address
        yield front, processor


def test_a_body_is_changed_and_sent_where_the_picker_says(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with processed(tmp_path) as (front, processor):
            forged = {names.RANK: "9", names.ENDPOINT: front.engines[0].address}
            status, _, content = await front.post({"say": "a body"}, headers=forged)
            assert status == 200
            assert b"another body" in content
            assert processor.seen == ["request_headers", "request_body"]
            [(request, body)] = front.engines[1].requests
            assert json.loads(body) == {"say": "another body"}
            assert request.headers[names.RANK] == "2"
            assert names.ENDPOINT not in request.headers
            [start] = await front.log.wait_for("UpstreamPoolReady")
            [end] = await front.log.wait_for("DownstreamEnd")
            for entry in (start, end):
                assert entry.request.request_headers[names.ID] == "own-1"
            assert not front.engines[0].requests

    asyncio.run(scenario())


def test_what_is_not_posted_is_not_asked_about(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with processed(tmp_path) as (front, processor):
            async with front.client.get(f"{front.url}/v1/models") as answer:
                assert answer.status == 200
            assert not processor.seen

    asyncio.run(scenario())


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"no header\r\n\r\n",
        HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nno chunk\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\nno chunk\r\n",
    ],
)
def test_what_is_no_http_is_told_so(tmp_path: Path, data: bytes) -> None:
    async def scenario() -> None:
        async with processed(tmp_path) as (front, _):
            answer = await raw(front, data)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 400

    asyncio.run(scenario())


def test_a_refusal_goes_out_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with processed(tmp_path) as (front, processor):
            processor.mode = "refuse"
            status, headers, content = await front.post({})
            assert (status, headers["retry-after"], json.loads(content)) == (429, "9", REFUSED)
            assert headers["content-type"] == "application/json"

    asyncio.run(scenario())


def test_a_frozen_picker_is_waited_for_no_longer_than_its_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with processed(tmp_path) as (front, processor):
            processor.mode = "freeze"
            async with asyncio.timeout(PATIENCE_S):
                status, _, content = await front.post({"say": "unasked"})
            assert status == 200
            assert b"unasked" in content

    asyncio.run(scenario())


def test_held_requests_of_a_dead_picker_go_on_and_running_streams_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with processed(tmp_path) as (front, processor):
            engine = front.engines[1]
            processor.mode = "hold"
            held = [asyncio.create_task(front.post({"say": f"held {at}"})) for at in range(5)]
            await processor.holding.wait()
            await front.log.stop()
            async with asyncio.timeout(PATIENCE_S):
                answers = await asyncio.gather(*held)
            assert [status for status, _, _ in answers] == [200] * 5
            assert all(b"held" in content for _, _, content in answers)
            running = asyncio.create_task(front.post({"stream": True, "gated": True}))
            reached = [asyncio.create_task(each.reached.wait()) for each in front.engines]
            await asyncio.wait(reached, return_when=asyncio.FIRST_COMPLETED)
            for each in reached:
                each.cancel()
            front.engines[0].gate.set()
            engine.gate.set()
            assert (await running)[2].endswith(b"[DONE]\n\n")

    asyncio.run(scenario())


def test_a_client_that_leaves_while_held_ends_the_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with processed(tmp_path) as (front, processor):
            processor.mode = "hold"
            posted = asyncio.create_task(front.post({}))
            await processor.holding.wait()
            posted.cancel()
            async with asyncio.timeout(PATIENCE_S):
                while not processor.ended:
                    await asyncio.sleep(0)

    asyncio.run(scenario())
