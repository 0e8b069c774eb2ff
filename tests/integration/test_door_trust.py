"""Engines that speak TLS: asked for figures and for prompts, trusted by who signed them."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from aiohttp import web
from door_support import house, to, until
from front_door import certificate
from small_http import http_server

from brsolver.errors import ParameterError
from integration.doors.poller import Poller, PollerParams
from integration.doors.prefill_pool import PrefillPool
from integration.doors.tiers import Tiers, TiersParams
from integration.doors.trust import trusting
from integration.picker import Ask, WorkerSpec


@pytest.fixture
def signed(tmp_path):
    certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context, tmp_path / "cert.pem"


async def engine(request):
    if request.path == "/metrics":
        return web.Response(text="vllm:num_requests_running 3.0\n")
    return web.json_response({"choices": [], "kv_transfer_params": {"from": "tls"}})


@pytest.mark.parametrize("trusted", [True, False])
def test_polls_trust_who_is_named(signed, trusted):
    context, ca = signed

    async def scenario():
        async with http_server(engine, secure=context) as address:
            home = house(specs=[WorkerSpec(name="w", address=address)])
            params = PollerParams(scheme="https", ca=ca if trusted else None)
            poller = Poller(home.pump, home.fleet, params)
            task = asyncio.create_task(poller.run())
            await until(lambda: poller.rounds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return home.pump

    pump = asyncio.run(scenario())
    assert pump.workers == [("up" if trusted else "missed", 0)]
    assert [gauges.running for _, gauges in pump.gauges] == ([3] if trusted else [])


@pytest.mark.parametrize("trusted", [True, False])
def test_prefill_calls_do_too(signed, trusted):
    context, ca = signed

    async def scenario():
        async with http_server(engine, secure=context) as address:
            home = house(to(1))
            pool = PrefillPool([WorkerSpec(name="p", address=address)])
            params = TiersParams(scheme="https", ca=ca if trusted else None)
            tiers = Tiers(home.reception, pool, params)
            body = b'{"prompt": "a", "max_tokens": 3}'
            routed = await tiers.route(Ask("r", 1), "/v1/completions", body, {})
            await tiers.close()
            return routed.body, tiers

    body, tiers = asyncio.run(scenario())
    assert (body is not None and b'"from":"tls"' in body) == trusted
    assert (tiers.prefilled, tiers.failed) == ((1, 0) if trusted else (0, 1))


def test_a_file_that_is_no_certificate_is_one_line(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(ParameterError, match="must be a PEM file"):
            trusting(tmp_path / name)
