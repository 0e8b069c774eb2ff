"""Prefill and decode tiers: who is asked, what is handed over, what the body keeps."""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import partial

import pytest
from aiohttp import web
from door_support import house, to, until
from ext_proc_client import destination, picker, set_headers
from hypothesis import given
from hypothesis import strategies as st
from small_http import http_server

from brsolver.errors import ParameterError
from integration.doors.prefill_calls import MOST_TOLD, prefill_body, without_transfer
from integration.doors.prefill_pool import PrefillPool
from integration.doors.tiers import Tiers, TiersParams
from integration.messages import names
from integration.picker import End, Gauges, Refused, WorkerSpec

HANDED = {"do_remote_prefill": True, "remote_block_ids": [1, 2], "remote_engine_id": "e"}
ASKED = {
    "model": "m",
    "prompt": "Once",
    "max_tokens": 50,
    "temperature": 0.7,
    "stream": True,
    "stream_options": {"include_usage": True},
    "min_tokens": 5,
    "n": 2,
}


class Engine:
    """Computes prompts, and writes down what it was asked."""

    def __init__(self, status=200, handed=HANDED, says=None):
        self.status = status
        self.handed = handed
        self.says = says
        self.asked = []
        self.headers = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, request):
        self.asked.append((request.path, await request.json()))
        self.headers.append(dict(request.headers))
        await self.go.wait()
        if self.says is not None:
            return web.Response(text=self.says, status=self.status)
        answer = {"choices": [{"text": "x"}]}
        if self.handed is not None:
            answer["kv_transfer_params"] = self.handed
        return web.json_response(answer, status=self.status)


@contextlib.asynccontextmanager
async def tiered(*engines, decide=None, ends="stream", **params):
    async with contextlib.AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(http_server(each)) for each in engines]
        specs = [WorkerSpec(name=f"p{n}", address=a) for n, a in enumerate(addresses)]
        home = house(to(1) if decide is None else decide)
        fault = partial(home.pump.core.fault, "prefill")
        pool = PrefillPool(specs, kv_limit=params.get("kv_limit", 0.9), fault=fault)
        tiers = Tiers(home.reception, pool, TiersParams(**params))
        stack.push_async_callback(tiers.close)
        _, stream = await stack.enter_async_context(picker(home, tiers, ends=ends))
        yield home, tiers, pool, stream


async def ask(stream, body=None, **headers):
    plane = stream()
    await plane.headers(**headers)
    await plane.answer()
    await plane.body(json.dumps(ASKED if body is None else body).encode())
    return plane


FORGED = b'{"prompt":"a\\ud800","kv_transfer_params":{"remote_host":"elsewhere"}}'


@pytest.mark.parametrize(
    "params", [{"mode": "call"}, {"mode": "header"}, {"min_prompt_tokens": 100}]
)
@pytest.mark.parametrize("name", ["kv_transfer_params", "kv\\u005ftransfer_params"])
def test_clients_do_not_say_where_a_cache_is_fetched(name, params):
    async def scenario():
        async with tiered(Engine(handed=None), **params) as (_, tiers, _, stream):
            plane = stream()
            await plane.headers()
            await plane.answer()
            await plane.body(FORGED.replace(b"kv_transfer_params", name.encode()))
            answer = await plane.answer()
            assert destination(answer)
            body = answer.request_body.response.body_mutation.body
            assert json.loads(body) == {"prompt": "a\ud800"}
            assert not tiers.failed

    asyncio.run(scenario())


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=9)), st.booleans())
def test_other_bodies_stay_as_they_are(values, plain):
    body = json.dumps(values, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    assert without_transfer(body) is None


def test_picker_computes_the_prompt_and_hands_over():
    async def scenario():
        engine = Engine()
        async with tiered(engine) as (home, tiers, _, stream):
            plane = await ask(stream, authorization="Bearer k", cookie="c")
            answer = await plane.answer()
            path, body = engine.asked[0]
            assert path == "/v1/completions"
            assert body["max_tokens"] == 1
            assert body["stream"] is False
            assert body["kv_transfer_params"]["do_remote_decode"] is True
            assert not {"stream_options", "min_tokens", "n"} & set(body)
            sent = {name.lower(): value for name, value in engine.headers[0].items()}
            assert sent["authorization"] == "Bearer k"
            assert "cookie" not in sent
            assert destination(answer) == "10.0.0.2:8000"
            # Until the request has ended its KV may yet be fetched.
            assert [each.kept for each in tiers.figures().workers] == [1]
            mutated = answer.request_body.response.body_mutation.body
            # The client's own sampling parameters are for decode.
            assert json.loads(mutated) == ASKED | {"kv_transfer_params": HANDED}
            assert set_headers(answer)["content-length"] == str(len(mutated))
            assert tiers.prefilled == 1
            assert list(home.ledger.places) == ["r0"]
            home.ledger.ended("r0", End.FINISHED)
            assert [each.kept for each in tiers.figures().workers] == [0]

    asyncio.run(scenario())


def test_connector_that_hands_nothing_over_leaves_the_body_alone():
    async def scenario():
        async with tiered(Engine(handed=None)) as (_, tiers, _pool, stream):
            answer = await (await ask(stream)).answer()
            assert not answer.request_body.response.HasField("body_mutation")
            assert tiers.prefilled == 1

    asyncio.run(scenario())


def test_failed_prefill_is_tried_elsewhere_and_then_left_to_decode():
    async def scenario():
        broken, good = Engine(status=500), Engine()
        async with tiered(broken, good) as (home, tiers, pool, stream):
            answer = await (await ask(stream)).answer()
            assert answer.request_body.response.HasField("body_mutation")
            assert (tiers.failed, tiers.prefilled) == (1, 1)
            good.status = 503
            answer = await (await ask(stream)).answer()
            assert destination(answer) == "10.0.0.2:8000"
            assert not answer.request_body.response.HasField("body_mutation")
            assert all(worker.load == 0 for worker in pool.workers)
            assert tiers.prompts == {"computed": 1, "decode": 1}
            told = tiers.figures()
            assert told.calls == {"p0": {"failed": 2}, "p1": {"computed": 1, "failed": 1}}
            assert (told.waiting, told.under_way) == (0, 0)
            # Of each worker once, however often it fails.
            assert home.pump.faults == [
                ("prefill", "p0: a prefill call failed, the last: it answers 500"),
                ("prefill", "p1: a prefill call failed, the last: it answers 503"),
            ]

    asyncio.run(scenario())


MODES = {"serve": ("BUFFERED", "log"), "picker": ("FULL_DUPLEX_STREAMED", "stream")}
OWN = '{"error": {"message": "no \\u00fcber-model", "type": "NotFoundError", "code": %d}}'


async def rejected(stream, mode):
    """Send a request that an engine will not take; return what the client is told."""
    plane = stream(mode)
    await plane.headers()
    if mode == "BUFFERED":
        await plane.answer()
    await plane.body(json.dumps(ASKED).encode())
    answer = await plane.answer()
    assert set_headers(answer)["content-type"] == "application/json"
    assert "retry-after" not in set_headers(answer)
    return answer.immediate_response.status.code, answer.immediate_response.body


@pytest.mark.parametrize("status", [400, 401, 404, 413, 418, 422])
@pytest.mark.parametrize("mode", MODES)
def test_what_an_engine_does_not_take_is_for_the_client_to_know(status, mode):
    bodies, ends = MODES[mode]

    async def scenario():
        strict, other = Engine(status=status, says=OWN % status), Engine()
        async with tiered(strict, other, ends=ends) as (home, tiers, pool, stream):
            for _ in range(2):
                # It is asked again though another is as free: nothing speaks against it.
                assert await rejected(stream, bodies) == (status, (OWN % status).encode())
            assert (len(strict.asked), len(other.asked)) == (2, 0)
            assert not home.pump.asked
            assert not home.pump.faults
            assert (tiers.failed, tiers.prompts) == (0, {"rejected": 2})
            told = tiers.figures()
            assert told.calls == {"p0": {"rejected": 2}}
            assert (told.waiting, told.under_way) == (0, 0)
            assert [(each.load, each.kept, each.live) for each in pool.workers] == [
                (0, set(), True)
            ] * 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("404:  Not\nFound", "the engine answers 400: 404: Not Found"),
        ("", "the engine answers 400"),
        ("[1]", "the engine answers 400: [1]"),
        ("[" * 60_000, "the engine answers 400: " + "[" * 200),
        ('{"detail": "' + "x" * MOST_TOLD + '"}', 'the engine answers 400: {"detail": "xxx'),
    ],
)
def test_what_is_no_error_of_an_engines_is_put_into_words(says, message):
    async def scenario():
        async with tiered(Engine(status=400, says=says)) as (_, _tiers, _pool, stream):
            status, body = await rejected(stream, "BUFFERED")
            error = json.loads(body)["error"]
            assert (status, error["code"], error["type"]) == (400, 400, "invalid_request_error")
            assert error["message"].startswith(message)
            assert len(error["message"]) < 300

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [302, 408, 409, 429, 500, 503])
def test_other_answers_are_the_workers_own_fault(status):
    async def scenario():
        bad, good = Engine(status=status, says=OWN % status), Engine()
        async with tiered(bad, good, retry_statuses=(409,)) as (home, tiers, _pool, stream):
            assert destination(await (await ask(stream)).answer())
            assert tiers.figures().calls == {"p0": {"failed": 1}, "p1": {"computed": 1}}
            [(kind, text)] = home.pump.faults
            assert (kind, text.endswith(f"it answers {status}")) == ("prefill", True)

    asyncio.run(scenario())


def test_a_prefill_worker_that_is_not_there_is_told_of():
    async def scenario():
        async with tiered(Engine()) as (home, tiers, pool, stream):
            pool.workers[0].spec = WorkerSpec(name="p0", address="127.0.0.1:1")
            assert destination(await (await ask(stream)).answer())
            assert tiers.failed == 1
            [(kind, text)] = home.pump.faults
            assert kind == "prefill"
            assert text.startswith("p0: a prefill call failed, the last: it does not answer")

    asyncio.run(scenario())


def test_least_loaded_prefill_worker_is_asked():
    async def scenario():
        first, second = Engine(), Engine()
        first.go.clear()
        async with tiered(first, second) as (_, _tiers, pool, stream):
            held = await ask(stream)
            await until(lambda: first.asked)
            assert pool.workers[0].load == 10
            await (await ask(stream)).answer()
            assert len(second.asked) == 1
            first.go.set()
            await held.answer()
            assert pool.workers[0].load == 0

    asyncio.run(scenario())


def test_full_prefill_workers_hold_requests_back():
    async def scenario():
        engine = Engine()
        async with tiered(engine, kv_limit=0.5) as (_, _tiers, pool, stream):
            pool.told(0, Gauges(kv_usage=0.6))
            plane = await ask(stream)
            more = await plane.raw()
            assert more.HasField("override_message_timeout")
            assert not engine.asked
            pool.told(0, Gauges(kv_usage=0.4))
            assert destination(await plane.answer())
            assert len(engine.asked) == 1

    asyncio.run(scenario())


def test_holding_back_is_bounded():
    async def scenario():
        params = {"kv_limit": 0.5, "wait_max_s": 1e-3, "retry_after_s": 7.0}
        async with tiered(Engine(), **params) as (home, tiers, pool, stream):
            pool.told(0, Gauges(kv_usage=0.6))
            answer = await (await ask(stream)).answer()
            assert answer.immediate_response.status.code == 429
            assert set_headers(answer)["retry-after"] == "7"
            assert not home.pump.asked
            assert pool.waiting == 0
            assert tiers.prompts == {"refused": 1}

    asyncio.run(scenario())


def test_so_many_wait_for_a_prefill_worker_and_no_more():
    async def scenario():
        engine = Engine()
        params = {"kv_limit": 0.5, "pool_max": 2, "retry_after_s": 3.0}
        async with tiered(engine, **params) as (home, tiers, pool, stream):
            pool.told(0, Gauges(kv_usage=0.6))
            planes = [await ask(stream) for _ in range(2)]
            await until(lambda: pool.waiting == 2)
            assert tiers.figures().waiting == 2
            answer = await (await ask(stream)).answer()
            assert answer.immediate_response.status.code == 429
            assert set_headers(answer)["retry-after"] == "3"
            planes[0].call.cancel()
            await until(lambda: pool.waiting == 1)
            assert not home.pump.asked
            pool.told(0, Gauges(kv_usage=0.1))
            assert destination(await planes[1].answer())
            assert tiers.prompts == {"refused": 1, "computed": 1}
            assert (tiers.figures().waiting, tiers.figures().under_way) == (0, 0)

    asyncio.run(scenario())


def test_a_second_try_has_what_is_left_of_the_wait():
    async def scenario():
        broken = Engine(status=500)
        tier = tiered(broken, Engine(), kv_limit=0.5, wait_max_s=0.0)
        async with tier as (_, tiers, pool, stream):
            pool.told(1, Gauges(kv_usage=0.6))
            answer = await (await ask(stream)).answer()
            assert answer.immediate_response.status.code == 429
            assert (tiers.failed, len(broken.asked)) == (1, 1)

    asyncio.run(scenario())


def test_prefill_tier_that_is_down_leaves_prompts_to_decode():
    async def scenario():
        async with tiered(Engine()) as (_, _tiers, pool, stream):
            for _ in range(3):
                pool.reported(0, ok=False, why="silent")
            answer = await (await ask(stream)).answer()
            assert destination(answer) == "10.0.0.2:8000"
            pool.reported(0, ok=True)
            assert pool.any_live

    asyncio.run(scenario())


def test_short_prompts_are_computed_where_they_are_decoded():
    async def scenario():
        engine = Engine()
        async with tiered(engine, min_prompt_tokens=11) as (_, _tiers, _pool, stream):
            assert destination(await (await ask(stream)).answer())
            assert not engine.asked

    asyncio.run(scenario())


def test_client_that_leaves_during_prefill_frees_its_place():
    async def scenario():
        engine = Engine()
        engine.go.clear()
        async with tiered(engine) as (home, _, pool, stream):
            plane = await ask(stream)
            await until(lambda: engine.asked)
            plane.call.cancel()
            await until(lambda: pool.workers[0].load == 0)
            assert not home.pump.asked
            engine.go.set()

    asyncio.run(scenario())


def test_prefill_worker_named_in_a_header():
    async def scenario():
        async with tiered(Engine(), Engine(), mode="header") as (home, _, pool, stream):
            first = await (await ask(stream)).answer()
            second = await (await ask(stream)).answer()
            named = [set_headers(answer)[names.PREFILLER] for answer in (first, second)]
            assert sorted(named) == sorted(w.spec.address for w in pool.workers)
            assert not first.request_body.response.HasField("body_mutation")
            home.ledger.answering("r0")
            await (await ask(stream)).answer()
            assert [worker.load for worker in pool.workers] == [10, 10]

    asyncio.run(scenario())


def test_a_named_worker_is_done_once_the_answer_begins_also_with_an_access_log():
    async def scenario():
        async with tiered(Engine(), mode="header", ends="log") as (_, tiers, pool, stream):
            plane = await ask(stream)
            await plane.answer()
            pool.reported(0, ok=True)
            assert pool.workers[0].load == 10
            await plane.response()
            await plane.answer()
            pool.reported(0, ok=True)
            assert pool.workers[0].load == 0
            assert tiers.figures().calls == {"p0": {"named": 1}}

    asyncio.run(scenario())


def test_named_workers_are_shared_out_among_those_who_wait_for_decode():
    async def scenario():
        tier = tiered(Engine(), Engine(), mode="header", decide=lambda ask: None)
        async with tier as (home, tiers, pool, stream):
            planes = [await ask(stream) for _ in range(4)]
            await until(lambda: len(home.pump.held) == 4)
            # Who has no decode worker yet is under way all the same, whoever looks.
            pool.reported(0, ok=True)
            assert [worker.load for worker in pool.workers] == [20, 20]
            planes[0].call.cancel()
            await until(lambda: len(home.pump.held) == 3)
            assert sum(worker.load for worker in pool.workers) == 30
            home.pump.answer(Refused(429, "full", 1.0))
            for plane in planes[1:]:
                assert (await plane.answer()).immediate_response.status.code == 429
            assert [worker.load for worker in pool.workers] == [0, 0]
            assert not tiers.prefilled

    asyncio.run(scenario())


@given(
    st.dictionaries(
        st.sampled_from(["max_tokens", "max_completion_tokens", "max_output_tokens", "n", "top_p"]),
        st.integers(2, 9),
    )
)
def test_prefill_generates_one_token_and_changes_nothing_of_the_original(original):
    before = dict(original)
    body = prefill_body(original)
    assert original == before
    limits = [name for name in body if name.startswith("max_")]
    assert limits
    assert all(body[name] == 1 for name in limits)
    assert "n" not in body
    assert body.get("top_p") == original.get("top_p")


@pytest.mark.parametrize(
    "bad",
    [{"mode": "x"}, {"kv_limit": 0.0}, {"attempts": 0}, {"pool_max": 0}, {"wait_max_s": -1.0}],
)
def test_bad_parameters_are_one_line(bad):
    with pytest.raises(ParameterError, match=f"^{next(iter(bad))} is "):
        TiersParams(**bad)
