from __future__ import annotations

import asyncio
import json

from admin_serving import Serving, serving
from admin_traffic import play, traffic

LIMIT_S = 60


def run(scenario):
    async def limited():
        async with asyncio.timeout(LIMIT_S):
            await scenario()

    asyncio.run(limited())


async def message(content) -> tuple[str, dict]:
    """Return the next event and its data."""
    event = ""
    while True:
        line = (await content.readline()).decode()
        if not line:
            raise EOFError
        if line.startswith("event: "):
            event = line[7:].strip()
        elif line.startswith("data: "):
            return event, json.loads(line[6:])


def test_a_page_gets_a_snapshot_and_then_what_is_new():
    async def scenario():
        async with (
            serving() as here,
            here.client.get(here.url + "/events") as answer,
        ):
            assert answer.content_type == "text/event-stream"
            event, snapshot = await message(answer.content)
            assert event == "snapshot"
            assert snapshot["about"]["policy"] == "jsq-load"
            assert [each["name"] for each in snapshot["workers"]] == [f"rank {g}" for g in range(4)]
            play(here.replay, traffic(20, per_second=10.0))
            numbers = []
            while True:
                event, tick = await message(answer.content)
                assert event == "tick"
                first = tick["history"]["first"]
                numbers += range(first, first + len(tick["history"]["held"]))
                if tick["slow"]:
                    break
            newest = here.admin.window.buckets.newest
            assert numbers == list(range(newest))

    run(scenario)


def test_nothing_is_made_while_nobody_looks():
    async def scenario():
        async with serving() as here:
            async with here.client.get(here.url + "/events") as answer:
                await message(answer.content)
            while here.admin.server.stream.pages or here.admin.server.stream._ticking:
                await asyncio.sleep(0)
            assert here.admin.server.stream.pages == set()

    run(scenario)


def test_only_so_many_pages_may_be_open():
    async def scenario():
        async with serving(clients=2) as here:
            opened = [await here.client.get(here.url + "/events") for _ in range(2)]
            status, told = await here.ask("GET", "/events")
            assert status == 503
            assert "2 pages are open" in told["error"]
            opened[0].close()
            opened[1].close()
            while here.admin.server.stream.pages:
                here.admin.server.stream.publish()
                await asyncio.sleep(0)
            async with here.client.get(here.url + "/events") as answer:
                assert answer.status == 200

    run(scenario)


async def deaf(here: Serving) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a page that never reads more than it is made to."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", here.admin.server.port, limit=1 << 10
    )
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readline()
    return reader, writer


def test_who_does_not_read_is_cut_off_and_others_go_on():
    async def scenario():
        async with serving(tick_s=60.0, unread=2) as here:
            stream = here.admin.server.stream
            reader, writer = await deaf(here)
            async with here.client.get(here.url + "/events") as answer:
                await message(answer.content)
                # Large enough to fill the buffers of any system.
                here.admin.window.workers[0].why = "x" * 4_000_000
                while not stream.dropped:
                    stream.publish()
                    assert (await large(answer))["workers"][0]["why"]
                assert len(stream.pages) == 1
            writer.close()
            try:
                while await reader.read(1 << 20):
                    pass
            except ConnectionError:
                pass

    run(scenario)


async def large(answer) -> dict:
    """Read a message that may be longer than a line is allowed to be."""
    text = b""
    while not text.endswith(b"\n\n"):
        text += await answer.content.readany()
    return json.loads(text.partition(b"data: ")[2])


def test_streams_end_when_the_listener_stops():
    async def scenario():
        async with serving() as here:
            answer = await here.client.get(here.url + "/events")
            await message(answer.content)
            await here.admin.stop()
            try:
                while True:
                    await message(answer.content)
            except EOFError:
                pass
            here.replay.core.listeners.extend(here.admin._listeners)

    run(scenario)
