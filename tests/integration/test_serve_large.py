"""Bodies longer than messages of gRPC otherwise are."""

from __future__ import annotations

import asyncio

import grpc
from ext_proc_client import DataPlane, destination
from serve_stack import toml

from integration.messages import services
from integration.serve.places import Places
from integration.serve.wiring import Picker
from integration.settings import load

MEBI = 2**20
IMAGE = 129 * MEBI
"""Letters of it; a message once had room for 128 MiB, whatever the limit of bodies was."""


def test_a_body_within_the_limit_is_picked_for_however_long(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(
        toml(
            admin={"port": 0, "shadows": []},
            workers={"addresses": ["127.0.0.1:1"]},
            router={"policy": "jsq-load", "mode": "immediate", "slots": 2},
            picker={"door": "ext_proc"},
            limits={"body_bytes": IMAGE + MEBI},
        )
    )
    part = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,' + b"A" * IMAGE + b'"}}'
    body = b'{"messages":[{"role":"user","content":[' + part + b"]}]}"

    async def scenario():
        config = load(path)
        places = Places.choose(config, tmp_path, envoy=False)
        picker = await Picker.found(config, places)
        await picker.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{places.grpc}") as channel:
                call = services.call(channel, services.EXTERNAL_PROCESSOR, "Process")
                plane = DataPlane(call())
                await plane.headers(**{":path": "/v1/chat/completions"})
                await plane.answer()
                await plane.body(body)
                assert destination(await plane.answer()) == "127.0.0.1:1"
                assert picker.core.audit().begun == 1
        finally:
            at_once = asyncio.Event()
            at_once.set()
            await picker.stop(at_once=at_once)

    asyncio.run(scenario())
