"""What goes wrong at fake engines when that is asked for."""

import asyncio

import aiohttp
import httpx
import pytest
from engine_client import (
    PATIENCE_S,
    await_figures,
    counted,
    exactly,
    figures,
    post,
    stream,
    with_engine,
)

COMPLETIONS = "/v1/completions"
PIN = "X-data-parallel-rank"


async def fault(client, **body):
    status, answer = await post(client, "/fault", body)
    assert status == 200, answer
    return answer


def test_a_client_that_goes_frees_its_slot_at_once():
    async def scenario(_, client):
        body = exactly(100_000, stream=True)
        async with client.post(COMPLETIONS, json=body) as held:
            await held.content.readline()
            answer = asyncio.create_task(post(client, COMPLETIONS, exactly(3)))
            await await_figures(client, lambda now: now["num_requests_waiting", 0] == 1)
            held.close()
        assert (await answer)[1]["choices"][0]["text"] == counted(3)
        return await figures(client)

    found = with_engine(scenario, slots=1, speed=20.0)
    assert found["num_requests_running", 0] == 0


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("kind", ["reset", "half-close", "garbage"])
def test_an_answer_is_spoilt_once_and_its_slot_free(kind, after, streamed):
    async def scenario(engine, client):
        await fault(client, rank=1, kind=kind, after=after, times=1)
        body = exactly(4, stream=streamed)
        # aiohttp's own client waits for ever for the rest of a chunk that is none.
        async with httpx.AsyncClient(base_url=engine.url, timeout=2 * PATIENCE_S) as strict:
            with pytest.raises(httpx.HTTPError):
                await strict.post(COMPLETIONS, json=body, headers={PIN: "1"})
        again = await post(client, COMPLETIONS, exactly(4), **{PIN: "1"})
        assert again[1]["choices"][0]["text"] == counted(4)
        return await figures(client)

    found = with_engine(scenario, ranks=2)
    assert found["num_requests_running", 1] == 0
    assert found["generation_tokens_total", 0] == 0


def test_errors_have_their_status_and_end():
    async def scenario(_, client):
        await fault(client, kind="error", status=503, times=2)
        found = [await post(client, COMPLETIONS, exactly(1)) for _ in range(3)]
        return [status for status, _ in found], found[0][1]

    statuses, answer = with_engine(scenario)
    assert statuses == [503, 503, 200]
    assert answer["error"]["code"] == 503


def test_what_a_rank_holds_back_comes_whole_later():
    async def scenario(_, client):
        await fault(client, rank=0, kind="hang")
        held = asyncio.create_task(stream(client, COMPLETIONS, exactly(5), **{PIN: "0"}))
        other = await stream(client, COMPLETIONS, exactly(5), **{PIN: "1"})
        await await_figures(client, lambda now: now["iteration_tokens_total_count", 0] >= 5)
        assert not held.done()
        await fault(client, kind="none")
        return other, await held

    for events in with_engine(scenario, ranks=2):
        assert "".join(event["choices"][0]["text"] for event in events) == counted(5)


def test_a_slow_rank_is_slow_for_all():
    async def scenario(engine, client):
        lasted = []
        for factor in (1, 5):
            await fault(client, rank=0, kind="slow", factor=factor)
            before = engine.cluster.clock_s
            await post(client, COMPLETIONS, exactly(4), **{PIN: "1"})
            lasted.append(engine.cluster.clock_s - before)
        return lasted

    plain, slow = with_engine(scenario, ranks=2)
    assert slow == pytest.approx(5 * plain)


def test_a_rank_dies_with_its_port_and_comes_back():
    async def scenario(engine, client):
        url = f"{engine.rank_urls[0]}{COMPLETIONS}"
        async with client.post(url, json=exactly(100_000, stream=True)) as held:
            await held.content.readline()
            await fault(client, rank=0, kind="die", status=500)
            with pytest.raises(aiohttp.ClientError):
                await held.read()
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(client, url, exactly(1))
        assert (await post(client, COMPLETIONS, exactly(1), **{PIN: "0"}))[0] == 500
        async with client.get("/health") as answer:
            assert answer.status == 503
        other = await post(client, f"{engine.rank_urls[1]}{COMPLETIONS}", exactly(2))
        assert other[0] == 200
        assert (await figures(client))["num_requests_running", 0] == 0
        await fault(client, rank=0, kind="none")
        return await post(client, url, exactly(2))

    status, answer = with_engine(scenario, ranks=2, ports_per_rank=0, speed=20.0)
    assert status == 200
    assert answer["choices"][0]["text"] == counted(2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"kind": "melt"}, "kind is 'melt', must be hang, slow, reset"),
        ({}, "kind is None, must be hang"),
        ({"kind": "hang", "rank": 2}, "rank is 2, must be at most 1"),
        ({"kind": "hang", "when": 2}, "unknown key 'when', must be one of after"),
        ({"kind": "slow", "factor": 0.5}, "factor is 0.5, must be at least 1"),
        ({"kind": "error", "status": 200}, "status is 200, must be at least 400"),
    ],
)
def test_faults_that_there_are_not_are_refused(body, says):
    async def scenario(_, client):
        return await post(client, "/fault", body)

    status, answer = with_engine(scenario, ranks=2)
    assert status == 400
    assert says in answer["error"]["message"]
