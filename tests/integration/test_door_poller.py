"""Engines asked how they are: their metrics read, their silence reported."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web
from door_support import house, until
from hypothesis import given
from hypothesis import strategies as st
from small_http import http_server

from brsolver.errors import ParameterError
from integration.doors.engine_metrics import NAMES, read_metrics
from integration.doors.poller import MOST_BYTES, Poller, PollerParams
from integration.picker import Gauges, WorkerSpec

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 5.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 7.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 2.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 5.0
vllm:request_prefill_time_seconds_sum{engine="0",model_name="m"} 0.25
vllm:request_prefill_time_seconds_count{engine="0",model_name="m"} 3.0
vllm:generation_tokens_total{engine="0",model_name="m"} 2e+02
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.5",model_name="m"} 2.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 3.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 1.5
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 190.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 9.5
vllm:time_per_output_token_seconds_count{engine="0",model_name="m"} 1.0
vllm:request_time_per_output_token_seconds_sum{engine="0",model_name="m"} 1.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 7.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 42.0
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 999.0
"""
SGLANG = """\
sglang:num_running_reqs{engine_type="unified",dp_rank="0",model_name="a \\"b\\", c"} 3.0
sglang:num_queue_reqs{engine_type="unified",dp_rank="0",model_name="m"} 2.0
sglang:token_usage{engine_type="unified",dp_rank="0",model_name="m"} 0.75
sglang:generation_tokens_total{model_name="m",dp_rank="0"} 10.0
sglang:prompt_tokens_total{model_name="m",dp_rank="0"} 20.0 1700000000000
sglang:time_to_first_token_seconds_sum{model_name="m",dp_rank="0"} 2.5
sglang:time_to_first_token_seconds_count{model_name="m",dp_rank="0"} 4.0
sglang:time_per_output_token_seconds_sum{model_name="m",dp_rank="0"} 0.75
sglang:time_per_output_token_seconds_count{model_name="m",dp_rank="0"} 3.0
"""
FIRST = Gauges(
    running=3,
    waiting=1,
    kv_usage=0.25,
    steps=42,
    generation_tokens=200,
    prompt_tokens=100,
    finished=9,
    prefills=3,
    prefill_s=0.25,
    firsts=3,
    firsts_s=1.5,
    gaps=190,
    gaps_s=9.5,
)


def test_vllms_names_by_engine():
    found = read_metrics(VLLM)
    assert found == {0: FIRST, 1: Gauges(running=5, waiting=0, kv_usage=0.5)}


def test_sglangs_names():
    assert read_metrics(SGLANG) == {
        0: Gauges(
            running=3,
            waiting=2,
            kv_usage=0.75,
            generation_tokens=10,
            prompt_tokens=20,
            firsts=4,
            firsts_s=2.5,
            gaps=3,
            gaps_s=0.75,
        )
    }


def test_models_of_one_engine_are_added_up():
    text = 'vllm:num_requests_running{model_name="a"} 1\nvllm:num_requests_running{m="b"} 2\n'
    assert read_metrics(text) == {None: Gauges(running=3)}


CACHE = "vllm:cache_config_info"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{engine="0",block_size="16",num_gpu_blocks="100"} 1.0', {0: 1600}),
        # Where layers have caches of several kinds, blocks times their size is too much.
        ('{block_size="16",kv_cache_size_tokens="900",num_gpu_blocks="100"} 1.0', {None: 900}),
        ('{engine="0",block_size="16",num_gpu_blocks="None"} 1.0', {}),
        ('{engine="0",enable_prefix_caching="True"} 1.0', {}),
    ],
)
def test_vllm_says_in_labels_how_much_its_cache_holds(text, found):
    gauges = read_metrics(f"{CACHE}{text}\n")
    assert {rank: each.capacity for rank, each in gauges.items()} == found


def test_what_is_said_of_a_cache_without_a_rank_holds_for_all_ranks():
    cache = f'{CACHE}{{block_size="16",num_gpu_blocks="10"}} 1.0\n'
    found = read_metrics(VLLM + cache)
    assert {rank: each.capacity for rank, each in found.items()} == {0: 160, 1: 160}
    assert found[0].kv_usage == 0.25


def test_sglang_says_how_much_its_cache_holds():
    found = read_metrics(SGLANG + 'sglang:max_total_num_tokens{dp_rank="0",model_name="m"} 777\n')
    assert found[0].capacity == 777


@given(st.text(max_size=300), st.sampled_from(sorted(NAMES)), st.text(max_size=20))
def test_whatever_an_engine_says_is_read_or_left_out(noise, name, value):
    read_metrics(noise)
    for gauges in read_metrics(f"{noise}\n{name} {value}\n{name}{{a={value}}} {value}").values():
        assert gauges.running is None or gauges.running >= 0
        assert gauges.kv_usage is None or gauges.kv_usage >= 0.0


@contextlib.asynccontextmanager
async def polled(handle, ranks=None, **params):
    async with http_server(handle) as address:
        specs = [
            WorkerSpec(name=f"w{rank}", address=address, rank=rank)
            for rank in ([None] if ranks is None else range(ranks))
        ]
        home = house(specs=specs)
        async with aiohttp.ClientSession() as client:
            poller = Poller(home.pump, home.fleet, PollerParams(**params))
            yield home, poller, client


def test_ranks_of_one_server_by_their_label():
    async def handle(request):
        return web.Response(text=VLLM if request.path == "/metrics" else "")

    async def scenario():
        async with polled(handle, ranks=2) as (home, poller, client):
            await poller.round(client)
            assert home.pump.gauges[0] == (0, FIRST)
            assert home.pump.gauges[1][1].running == 5
            assert home.pump.workers == [("up", 0), ("up", 1)]

    asyncio.run(scenario())


def test_server_of_one_rank_with_a_label_is_a_worker():
    async def handle(request):
        return web.Response(text=SGLANG)

    async def scenario():
        async with polled(handle) as (home, poller, client):
            await poller.round(client)
            assert home.pump.gauges[0][1].kv_usage == 0.75

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("status", "health", "seen"),
    [(200, "/health", "up"), (404, "/health", "up"), (503, "/health", "missed"), (503, "", "up")],
)
def test_health(status, health, seen):
    async def handle(request):
        return web.Response(status=status)

    async def scenario():
        async with polled(handle, health_path=health) as (home, poller, client):
            await poller.round(client)
            assert home.pump.workers == [(seen, 0)]

    asyncio.run(scenario())


def test_silence_is_reported_and_the_end_of_it():
    async def handle(request):
        return web.Response()

    async def scenario():
        async with polled(handle, timeout_s=1.0) as (home, poller, client):
            address = home.fleet.addresses()[0]
        async with aiohttp.ClientSession() as client:
            await poller.round(client)
            assert home.pump.workers == [("missed", 0)]
        assert address

    asyncio.run(scenario())


def test_rounds_go_on_until_cancelled():
    async def handle(request):
        return web.Response()

    async def scenario():
        async with polled(handle, interval_s=1e-3) as (home, poller, _):
            task = asyncio.create_task(poller.run())
            await until(lambda: len(home.pump.workers) > 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert poller.rounds > 1

    asyncio.run(scenario())


def test_server_that_hangs_keeps_no_other_waiting():
    go = asyncio.Event()

    async def hanging(request):
        await go.wait()
        return web.Response()

    async def handle(request):
        return web.Response(text=SGLANG)

    async def scenario():
        async with http_server(hanging) as slow, polled(handle, interval_s=1e-3) as polling:
            home, poller, _ = polling
            task = asyncio.create_task(poller.run())
            await until(lambda: poller.rounds)
            home.fleet.set([*home.fleet.specs, WorkerSpec(name="slow", address=slow)])
            told = len(home.pump.gauges)
            await until(lambda: len(home.pump.gauges) > told + 3)
            assert not [what for what in home.pump.workers if what == ("up", 1)]
            go.set()
            await until(lambda: ("up", 1) in home.pump.workers)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (SGLANG, "text/plain; charset=hex"),
        ('vllm:num_requests_running{engine="' + "9" * 5000 + '"} 1\n', "text/plain"),
        ("vllm:" * (MOST_BYTES // 4), "text/plain"),
    ],
    ids=["charset", "digits", "endless"],
)
def test_odd_metrics_of_one_server_end_nobodys_polls(text, kind):
    async def handle(request):
        return web.Response(body=text.encode(), headers={"content-type": kind})

    async def scenario():
        async with polled(handle, timeout_s=60.0) as (home, poller, client):
            await poller.round(client)
            assert home.pump.workers == [("up", 0)]

    asyncio.run(scenario())


def test_whatever_fails_with_one_server_counts_against_it_alone(monkeypatch):
    async def handle(request):
        return web.Response(text=SGLANG)

    async def scenario():
        async with http_server(handle) as good, polled(handle) as (home, poller, client):
            bad = home.fleet.addresses()[0]
            home.fleet.set([*home.fleet.specs, WorkerSpec(name="good", address=good)])
            told = Poller._told

            def broken(self, address, text):
                if address == bad:
                    raise RuntimeError(text)
                told(self, address, text)

            monkeypatch.setattr(Poller, "_told", broken)
            await poller.round(client)
            assert {("missed", 0), ("up", 1)} <= set(home.pump.workers[-2:])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "bad", [{"interval_s": 0.0}, {"scheme": "ftp"}, {"metrics_path": "metrics"}]
)
def test_bad_parameters_are_one_line(bad):
    with pytest.raises(ParameterError, match=f"^{next(iter(bad))} is "):
        PollerParams(**bad)
