"""Which rank of a fake engine a request goes to, what ranks give, and tiers."""

import asyncio
from dataclasses import replace

import aiohttp
import pytest
from engine_client import FAST, counted, engine_of, exactly, figures, post, with_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.hardware.model import step_time_of
from integration.engines.cluster import Cluster, Task
from integration.engines.params import EngineParams

COMPLETIONS = "/v1/completions"
PIN = "X-data-parallel-rank"


class Told:
    """Takes down what it is told of a task."""

    def __init__(self):
        self.got, self.is_lost = [], False

    def tokens(self, first, end):
        assert first == len(self.got)
        self.got += range(first, end)

    def lost(self):
        self.is_lost = True


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 40), st.integers(1, 12), st.integers(0, 20)),
        min_size=1,
        max_size=20,
    ),
    st.data(),
)
def test_every_token_comes_once_and_in_order(tasks, data):
    cluster = Cluster(EngineParams(ranks=2, slots=3, capacity=60, budget=16))
    told, gone = [], set()
    for rank, prompt, output, steps in tasks:
        told.append((Told(), output))
        cluster.submit(Task(prompt, output, told[-1][0], rank))
        for _ in range(steps):
            cluster.begin()
            if data.draw(st.integers(0, 9)) == 0:
                victim = data.draw(st.sampled_from(list(cluster._tasks.values()) or [None]))
                if victim is not None:
                    gone.add(victim.listener)
                    cluster.abort(victim)
            cluster.finish()
    while cluster.busy:
        assert cluster.begin() > 0
        cluster.finish()
    assert not cluster._tasks
    assert not cluster._decoding
    for listener, output in told:
        if listener not in gone:
            assert listener.got == list(range(output))
    tokens = sum(len(listener.got) for listener, _ in told)
    assert sum(figures.generation_tokens for figures in cluster.figures) == tokens
    assert [cluster.kv_usage(g) for g in range(2)] == [0.0, 0.0]


def test_a_step_lasts_what_the_slowest_rank_takes():
    cluster = Cluster(EngineParams(ranks=2))
    step_time = step_time_of(cluster.params.hardware)
    cluster.submit(Task(100, 3, Told(), 0))
    alone = cluster.begin()
    cluster.finish()
    assert alone > step_time.base + 100 * step_time.per_prefill_token
    cluster.submit(Task(5000, 3, Told(), 1))
    assert cluster.begin() > step_time.base + 5000 * step_time.per_prefill_token


def test_pins_are_kept_and_their_ranks_must_be_there():
    async def scenario(_, client):
        for rank in "0112":
            await post(client, COMPLETIONS, exactly(2), **{PIN: rank})
        refused = [
            await post(client, COMPLETIONS, exactly(2), **{PIN: p}) for p in ("3", "-1", "x")
        ]
        return await figures(client), refused

    found, refused = with_engine(scenario, ranks=3)
    assert [found["generation_tokens_total", rank] for rank in range(3)] == [2, 4, 2]
    for status, answer in refused:
        assert status == 400
        assert "must be from 0 to 2" in answer["error"]["message"]


def test_pins_are_not_looked_at_if_that_is_asked_for():
    async def scenario(_, client):
        for _ in range(3):
            assert (await post(client, COMPLETIONS, exactly(2), **{PIN: "77"}))[0] == 200
        return await figures(client)

    found = with_engine(scenario, ranks=3, ignore_pin=True)
    assert sum(found["generation_tokens_total", rank] for rank in range(3)) == 6


def test_without_a_pin_ranks_take_turns_and_the_emptier_one_is_next():
    cluster = Cluster(EngineParams(ranks=3))
    assert [cluster.choose() for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    for rank, count in enumerate((3, 0, 2)):
        for _ in range(count):
            cluster.submit(Task(10, 100, Told(), rank))
    while cluster.clock_s < 0.2:
        cluster.begin()
        cluster.finish()
    # One that was sent weighs as much as four that run.
    assert [cluster.choose() for _ in range(4)] == [1, 2, 0, 1]


def test_each_rank_has_a_port_and_one_barrier():
    async def scenario(engine, client):
        await asyncio.gather(
            *(post(client, f"{url}{COMPLETIONS}", exactly(3)) for url in engine.rank_urls)
        )
        return await asyncio.gather(*(figures(client, url) for url in engine.rank_urls))

    found = with_engine(scenario, ranks=3, ports_per_rank=0)
    for rank, of in enumerate(found):
        assert {at for _, at in of} == {rank}
        assert of["generation_tokens_total", rank] == 3


def transferring(**role):
    """Run a scenario with a prefill engine and a decode engine."""

    def run(scenario):
        async def both():
            async with (
                asyncio.timeout(60),
                engine_of(role="prefill", capacity=1000, **role) as prefill,
                engine_of(role="decode", budget=256) as decode,
                aiohttp.ClientSession() as client,
            ):
                return await scenario(prefill, decode, client)

        return asyncio.run(both())

    return run


DECODE_ELSEWHERE = {"do_remote_decode": True, "do_remote_prefill": False}


def test_a_prompt_computed_elsewhere_needs_no_prefill():
    async def scenario(prefill, decode, client):
        body = exactly(1, [5] * 600, kv_transfer_params=DECODE_ELSEWHERE)
        _, computed = await post(client, f"{prefill.url}{COMPLETIONS}", body)
        kept = prefill.cluster.kv_usage(0)
        body = exactly(7, [5] * 600, kv_transfer_params=computed["kv_transfer_params"])
        _, answer = await post(client, f"{decode.url}{COMPLETIONS}", body)
        return kept, prefill.cluster.kv_usage(0), answer, await figures(client, decode.url)

    kept, after, answer, found = transferring()(scenario)
    assert (kept, after) == (0.6, 0.0)
    assert answer["choices"][0]["text"] == counted(7)
    # Only the prompt's last token is computed, from which the first one follows.
    assert found["iteration_tokens_total_count", 0] == 7
    assert found["iteration_tokens_total_sum", 0] == 1 + 6


@pytest.mark.parametrize("by_header", [True, False])
@pytest.mark.parametrize("several", [{"prompt": [[5] * 60, [6] * 40]}, {"n": 2}])
def test_what_was_computed_for_one_prompt_is_not_taken_for_several(several, by_header):
    async def scenario(prefill, decode, client):
        asked = exactly(2, [5] * 60) | several
        headers, kv = {}, None
        if by_header:
            headers = {"x-prefiller-host-port": prefill.url.removeprefix("http://")}
        else:
            body = asked | {"kv_transfer_params": DECODE_ELSEWHERE}
            _, computed = await post(client, f"{prefill.url}{COMPLETIONS}", body)
            kv = computed["kv_transfer_params"]
        body = asked | {"kv_transfer_params": kv}
        return await post(client, f"{decode.url}{COMPLETIONS}", body, **headers)

    status, answer = transferring()(scenario)
    assert status == 400
    assert "for 2 sequences, must be for one" in answer["error"]["message"]


def test_the_kv_of_every_prompt_is_kept_and_the_first_one_s_is_told():
    async def scenario(prefill, decode, client):
        body = exactly(1, [[5] * 600, [6] * 40], kv_transfer_params=DECODE_ELSEWHERE)
        _, computed = await post(client, f"{prefill.url}{COMPLETIONS}", body)
        kept = prefill.cluster.kept_tokens(0)
        body = exactly(7, [5] * 600, kv_transfer_params=computed["kv_transfer_params"])
        await post(client, f"{decode.url}{COMPLETIONS}", body)
        return kept, prefill.cluster.kept_tokens(0)

    assert transferring()(scenario) == (640, 40)


@pytest.mark.parametrize("there", [True, False])
def test_a_header_names_who_computes_the_prompt(there):
    async def scenario(prefill, decode, client):
        url = f"{decode.url}{COMPLETIONS}"
        where = prefill.url.removeprefix("http://") if there else "127.0.0.1:1"
        body = exactly(7, [5] * 600, min_tokens=7)
        status, answer = await post(client, url, body, **{"x-prefiller-host-port": where})
        assert (status, answer["choices"][0]["text"]) == (200, counted(7))
        return await asyncio.gather(*(figures(client, engine.url) for engine in (prefill, decode)))

    first, second = transferring()(scenario)
    assert first["prompt_tokens_total", 0] == 600 * there
    assert second["iteration_tokens_total_sum", 0] == (1 if there else 600) + 6


def test_a_prompt_that_is_not_there_any_more_is_computed():
    async def scenario(prefill, decode, client):
        kv = {"do_remote_prefill": True, "remote_host": "127.0.0.1", "remote_request_id": "gone"}
        kv["remote_port"] = int(prefill.url.rpartition(":")[2])
        body = exactly(2, [5] * 600, kv_transfer_params=kv)
        status, _ = await post(client, f"{decode.url}{COMPLETIONS}", body)
        return status, await figures(client, decode.url)

    status, found = transferring()(scenario)
    assert status == 200
    assert found["iteration_tokens_total_sum", 0] == 600 + 1


def test_the_kv_of_a_prompt_is_not_kept_for_ever():
    async def scenario(prefill, _, client):
        url = f"{prefill.url}{COMPLETIONS}"
        await post(client, url, exactly(1, [5] * 600, kv_transfer_params=DECODE_ELSEWHERE))
        assert prefill.cluster.kept_tokens(0) == 600
        await post(client, url, exactly(100, [5]))
        return prefill.cluster.kept_tokens(0)

    assert transferring(keep_kv_s=1.0)(scenario) == 0


def test_tiers_refuse_what_is_the_other_s():
    async def scenario(prefill, decode, client):
        kv = [{"do_remote_prefill": True}, DECODE_ELSEWHERE]
        return [
            await post(client, f"{engine.url}{COMPLETIONS}", exactly(1, kv_transfer_params=params))
            for engine, params in zip((prefill, decode), kv, strict=True)
        ]

    for status, answer in transferring()(scenario):
        assert status == 400
        assert answer["error"]["param"] == "kv_transfer_params"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ranks": 0}, "ranks is 0, must be at least 1"),
        ({"slots": 0}, "slots is 0, must be at least 1"),
        ({"capacity": 0}, "capacity is 0, must be at least 1 KV tokens"),
        ({"role": "other"}, "role is 'other', must be both, prefill or decode"),
        ({"speed": 0}, "speed is 0, must be at least 1e-06"),
        ({"model": ""}, "model is '', must be a name"),
        ({"host": ""}, "host is '', must be an address"),
        ({"port": 65536}, "port is 65536, must be at most 65,535"),
        ({"ports_per_rank": 65535, "ranks": 2}, "port of the last rank is 65536, must be at most"),
        ({"ports_per_rank": 7999, "ranks": 2}, "port is 8000, must not be one of 7999 to 8000"),
        ({"budget": 8}, "budget is 8, must be at least 256"),
        ({"hardware": "abacus"}, "unknown hardware 'abacus'"),
        ({"characters_per_token": 0}, "characters_per_token is 0, must be at least 0.1"),
        ({"mean_output": 0.5}, "mean_output is 0.5, must be at least 1"),
        ({"keep_kv_s": -1}, "keep_kv_s is -1, must be at least 0"),
        ({"seed": -1}, "seed is -1, must be at least 0"),
        ({"max_model_len": 1}, "max_model_len is 1, must be at least 2"),
    ],
)
def test_engines_that_cannot_be_are_refused(change, says):
    with pytest.raises(ParameterError, match=says):
        replace(EngineParams(speed=FAST), **change)
