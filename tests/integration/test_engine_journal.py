"""What a fake engine writes down of requests: of each a line, refused or not."""

from __future__ import annotations

import json

import httpx
import pytest
from engine_client import PATIENCE_S, exactly, post, stream, with_engine

COMPLETIONS = "/v1/completions"
PIN = "X-data-parallel-rank"
REFUSED = {
    "bad body": (COMPLETIONS, {"prompt": 3}, 400, None),
    "no such model": ("/v1/chat/completions", {"model": "other"}, 404, None),
    "no such rank": (COMPLETIONS, exactly(1), 400, None),
    "not served": ("/v1/responses", {}, 404, None),
    "rank refuses": (COMPLETIONS, exactly(1), 503, 1),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_is_refused_has_a_line(case, tmp_path):
    path, body, status, rank = REFUSED[case]
    log = tmp_path / "log.jsonl"

    async def scenario(_, client):
        if case == "rank refuses":
            await post(client, "/fault", {"rank": 1, "kind": "error", "status": 503})
        pin = {"no such rank": "9", "rank refuses": "1"}.get(case, "0")
        before = await post(client, COMPLETIONS, exactly(3), **{PIN: "0"})
        found = await post(client, path, body, **{PIN: pin})
        return before[0], found[0]

    assert with_engine(scenario, ranks=2, log=str(log)) == (200, status)
    whole, refused = map(json.loads, log.read_text().splitlines())
    assert (whole["status"], whole["complete"], whole["output_tokens"]) == (200, True, 3)
    assert refused.keys() == whole.keys()
    assert refused["came_s"] >= whole["came_s"]
    assert refused | {"came_s": 0} == {
        "rank": rank,
        "prompt_tokens": None,
        "output_tokens": 0,
        "came_s": 0,
        "first_s": None,
        "last_s": None,
        "complete": False,
        "status": status,
    }


def test_a_rank_that_refuses_at_its_own_port_is_named(tmp_path):
    log = tmp_path / "log.jsonl"

    async def scenario(engine, client):
        return (await post(client, f"{engine.rank_urls[1]}{COMPLETIONS}", {"prompt": 3}))[0]

    assert with_engine(scenario, ranks=2, ports_per_rank=0, log=str(log)) == 400
    assert json.loads(log.read_text())["rank"] == 1


def test_what_is_asked_about_the_engine_itself_has_none(tmp_path):
    log = tmp_path / "log.jsonl"

    async def scenario(_, client):
        found = [(await post(client, "/fault", {"kind": "melt"}))[0]]
        for path in ("/v1/completions", "/nothing"):
            async with client.get(path) as answer:
                found.append(answer.status)
        return found

    assert with_engine(scenario, log=str(log)) == [400, 405, 404]
    assert log.read_text() == ""


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("after", [0, 2])
def test_an_answer_that_is_spoilt_has_a_line_and_no_status_before_its_head(
    after, streamed, tmp_path
):
    log = tmp_path / "log.jsonl"

    async def scenario(engine, client):
        await post(client, "/fault", {"kind": "reset", "after": after, "times": 1})
        async with httpx.AsyncClient(base_url=engine.url, timeout=2 * PATIENCE_S) as strict:
            with pytest.raises(httpx.HTTPError):
                await strict.post(COMPLETIONS, json=exactly(4, stream=streamed))
        return await stream(client, COMPLETIONS, exactly(4))

    with_engine(scenario, log=str(log))
    spoilt, whole = map(json.loads, log.read_text().splitlines())
    assert (whole["status"], whole["complete"]) == (200, True)
    assert not spoilt["complete"]
    assert spoilt["status"] == (200 if streamed and after else None)
