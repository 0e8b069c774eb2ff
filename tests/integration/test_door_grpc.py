"""The doors' gRPC server: with TLS, and where it cannot listen."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

import grpc
import pytest

from brsolver.errors import ParameterError
from integration.doors.grpc_server import GrpcServer
from integration.doors.health import Health
from integration.messages import services
from integration.messages.health import STATUSES, HealthCheckRequest

OPENSSL = shutil.which("openssl")


@pytest.mark.skipif(OPENSSL is None, reason="makes its certificate with openssl")
def test_tls(tmp_path):
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run([OPENSSL, *made, *files], check=True, capture_output=True)

    async def scenario():
        server = GrpcServer([Health().handler()], certificate=certificate, key=key)
        port = await server.start()
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", trusted) as channel:
            check = services.call(channel, services.HEALTH, "Check")
            answer = await check(HealthCheckRequest(service="liveness"))
            assert answer.status == STATUSES["SERVING"]
        await server.stop()

    asyncio.run(scenario())


def test_port_that_is_taken_is_one_line():
    async def scenario():
        first, second = (GrpcServer([Health().handler()]) for _ in range(2))
        port = await first.start()
        with pytest.raises(ParameterError, match=f"^port {port} on 127.0.0.1 cannot be listened"):
            await second.start(port=port)
        await first.stop()

    asyncio.run(scenario())


def test_certificate_and_key_belong_together(tmp_path):
    with pytest.raises(ParameterError, match="one of them is missing"):
        GrpcServer([], certificate=tmp_path / "tls.crt")


def test_files_that_are_not_there_are_one_line(tmp_path):
    async def scenario():
        server = GrpcServer([], certificate=tmp_path / "a", key=tmp_path / "b")
        with pytest.raises(ParameterError) as error:
            await server.start()
        assert "\n" not in str(error.value)

    asyncio.run(scenario())
