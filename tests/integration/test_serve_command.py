"""``brsolver serve`` and ``brsolver picker`` as commands: wrong settings, reload, end in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest
from serve_stack import DEADLINE_S, Stack, ask, idle, toml

from integration.serve.processes import Running, fetch

LONG = 200


def refused(command, path, *more):
    """Run a command that must end by itself; return its line."""
    ran = subprocess.run(
        [sys.executable, "-m", "brsolver", command, "--config", str(path), *more],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("brsolver: error: ")
    assert ran.stderr.count("\n") == 1, ran.stderr
    return ran.stderr


@contextlib.contextmanager
def listening():
    """Hold a port of this machine that takes connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def dead_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_wrong_settings_are_one_line_each(tmp_path):
    path = tmp_path / "serve.toml"
    assert "serve.toml" in refused("serve", path)
    path.write_text("[listen\n")
    assert "TOML" in refused("serve", path)
    path.write_text(toml(workers={"addresses": ["127.0.0.1:1"]}, router={"polcy": "br-t"}))
    assert "did you mean 'policy'" in refused("picker", path)


@pytest.mark.parametrize("package", ["httptools", "grpc", "google.protobuf"])
@pytest.mark.parametrize("command", ["serve", "picker"])
def test_without_the_extra_it_is_named(tmp_path, monkeypatch, command, package):
    parent = package.partition(".")[0]
    blocked = f"import sys\nsys.modules[{parent!r}] = None\n"
    (tmp_path / "sitecustomize.py").write_text(blocked)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    path = tmp_path / "serve.toml"
    path.write_text(toml(workers={"addresses": ["127.0.0.1:1"]}))
    told = refused(command, path)
    assert f"{package} is not installed" in told
    assert "brsolver[proxy]" in told


def test_no_worker_can_be_reached(tmp_path):
    path = tmp_path / "serve.toml"
    address = f"127.0.0.1:{dead_port()}"
    path.write_text(toml(workers={"addresses": [address]}, listen={"port": 0}, admin={"port": 0}))
    told = refused("serve", path)
    assert f"{path}: [workers] addresses names workers of which at least one must be" in told
    assert f"{address} (connection refused)" in told


ANY = "0.0.0.0"  # noqa: S104 # refused
PAIR = {"certificate": "junk", "key": "junk"}
AT_THE_START = {
    "certificate": ({"listen": PAIR}, "[listen] certificate is 'junk' and key 'junk', must be PEM"),
    "picker's": ({"picker": PAIR}, "[picker] certificate is 'junk' and key 'junk', must be PEM"),
    "no file": ({"picker": {"certificate": ".", "key": "junk"}}, "[picker] certificate is '.', "),
    "no path": ({"listen": {**PAIR, "key": "a\0b"}}, "[listen] key is 'a\\x00b', must be a file"),
    "ca": ({"workers": {"tls": True, "ca": "junk"}}, "[workers] ca is '"),
    "record": (
        {"trace": {"record": "folder.jsonl"}},
        "[trace] record is 'folder.jsonl', must be",
    ),
    "envoy": ({"envoy": {"path": "junk"}}, "envoy.path is '"),
    "host": ({"listen": {"host": "203.0.113.7"}}, "[listen] port is 203.0.113.7:0, must be"),
    "file": ({"workers": {"file": "none.toml"}}, "[workers] file is 'none.toml': "),
    "file of junk": ({"workers": {"file": "junk"}}, "[workers] file is 'junk': "),
    "dns": ({"workers": {"dns": "no.such.invalid:1"}}, "[workers] dns: address is 'no.such.inval"),
    # What only the picker finds.
    "shadow": ({"admin": {"shadows": ["no-such"]}}, "[admin] unknown policy 'no-such'"),
    "others": ({"admin": {"host": ANY}}, f"[admin] host is {ANY}, which others can reach"),
    "token": ({"admin": {"token_env": "NO_SUCH"}}, "[admin] token_env is 'NO_SUCH', must be a"),
    "nowhere": ({"trace": {"record": "no/where.jsonl"}}, "[trace] record is "),
    "service": (
        {"workers": {"service": "a:1"}},
        "[workers] service is 'a:1', must be run in",
    ),
}


@pytest.mark.parametrize("what", AT_THE_START)
def test_what_is_found_at_the_start_names_file_and_setting(tmp_path, what):
    more, line = AT_THE_START[what]
    path = tmp_path / "serve.toml"
    (tmp_path / "junk").write_text("junk\n")
    (tmp_path / "folder.jsonl").mkdir()
    with listening() as port:
        tables = {"listen": {"port": 0}, "admin": {"port": 0}}
        if not {"file", "dns", "service"} & more.get("workers", {}).keys():
            tables["workers"] = {"addresses": [f"127.0.0.1:{port}"]}
        for name, values in more.items():
            tables[name] = {**tables.get(name, {}), **values}
        path.write_text(toml(**tables))
        assert refused("serve", path).startswith(f"brsolver: error: {path}: {line}")


@pytest.mark.parametrize("kind", ["file", "dns"])
def test_workers_of_files_and_names_are_looked_for_too(tmp_path, kind):
    path, address = tmp_path / "serve.toml", f"127.0.0.1:{dead_port()}"
    (tmp_path / "workers.toml").write_text(f'[[worker]]\naddress = "{address}"\n')
    named = "workers.toml" if kind == "file" else address.replace("127.0.0.1", "localhost")
    path.write_text(toml(workers={kind: named}, listen={"port": 0}, admin={"port": 0}))
    assert f"{address}" in refused("serve", path)


def test_port_is_taken(tmp_path):
    path = tmp_path / "serve.toml"
    with listening() as port:
        tables = {"workers": {"addresses": [f"127.0.0.1:{port}"]}, "admin": {"port": 0}}
        path.write_text(toml(listen={"port": port}, **tables))
        assert f"[listen] port is 127.0.0.1:{port}" in refused("serve", path)


def test_what_only_the_picker_can_know_is_one_line_too(tmp_path):
    path = tmp_path / "serve.toml"
    with listening() as port:
        path.write_text(
            toml(
                workers={"addresses": [f"127.0.0.1:{port}"]},
                listen={"port": 0},
                admin={"port": 0},
                router={"policy": "no-such"},
            )
        )
        assert f"{path}: [router] unknown policy 'no-such'" in refused("serve", path)


def test_no_such_envoy(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(toml(workers={"addresses": ["127.0.0.1:1"]}))
    assert "envoy" in refused("serve", path, "--envoy", str(tmp_path / "none")).lower()


def test_bootstrap_is_printed_without_anything_being_started(tmp_path):
    import json

    path = tmp_path / "serve.toml"
    path.write_text(toml(workers={"addresses": ["127.0.0.1:1"]}))
    ran = subprocess.run(
        [sys.executable, "-m", "brsolver", "serve", "--config", str(path), "--print-bootstrap"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert "static_resources" in json.loads(ran.stdout)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with Stack(tmp_path_factory.mktemp("command"), ranks=3) as running:
        yield running


def test_slots_are_never_exceeded_while_nothing_fails(stack):
    asyncio.run(ask(stack, [12] * 40, concurrency=20))
    assert [relay.most_live for relay in stack.relays] == [2] * 3


def test_workers_leave_and_come_on_sighup_without_a_stream_lost(stack):
    async def run():
        await stack.until_idle()
        running = asyncio.ensure_future(ask(stack, [LONG] * 6, tag="reload"))
        await stack.until(lambda audit: audit["started"] == 6, what="full")
        stack.configure(stack.addresses[:2])
        stack.door.signal(signal.SIGHUP)
        await stack.until(lambda audit: audit["workers"][2]["state"] == "draining")
        assert [str(reply.fate) for reply in await running] == ["complete"] * 6
        await stack.until(lambda audit: idle(audit) and audit["workers"][2]["state"] == "gone")
        before = stack.relays[2].most_live, stack.seen.answered.total()
        assert {str(r.fate) for r in await ask(stack, [5] * 8, tag="two")} == {"complete"}
        stack.configure(stack.addresses)
        stack.door.signal(signal.SIGHUP)
        await stack.until(lambda audit: [w["state"] for w in audit["workers"]].count("up") == 3)
        assert before[0] == 2

    asyncio.run(run())


def test_settings_that_cannot_be_are_refused_while_serving(stack):
    async def run():
        stack.config.write_text("[workers\n")
        stack.door.signal(signal.SIGHUP)
        async with asyncio.timeout(DEADLINE_S):
            while not any("settings stay" in line for line in stack.door.lines):
                await asyncio.sleep(0)
        assert {str(r.fate) for r in await ask(stack, [5] * 3, tag="stay")} == {"complete"}

    asyncio.run(run())


def test_sigterm_ends_it_when_the_streams_have(stack):
    async def run():
        await stack.until_idle()
        running = asyncio.ensure_future(ask(stack, [LONG] * 4, tag="last"))
        await stack.until(lambda audit: audit["started"] == 4, what="busy")
        pids = [stack.picker, stack.envoy]
        stack.door.signal(signal.SIGTERM)
        assert [str(reply.fate) for reply in await running] == ["complete"] * 4
        assert await asyncio.to_thread(stack.door.wait, DEADLINE_S) == 0
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    asyncio.run(run())


def test_picker_alone_answers_health_and_metrics(tmp_path):
    pages = []

    def ready(line):
        if line.startswith("page on "):
            pages.append(line.split()[2])
        return line == "ready"

    with listening() as port:
        path = tmp_path / "serve.toml"
        path.write_text(
            toml(
                workers={"addresses": [f"127.0.0.1:{port}"]},
                picker={"door": "ext_proc"},
                admin={"port": 0, "shadows": []},
            )
        )
        with Running(["picker", "--config", str(path)], ready=ready) as picker:
            assert "brsolver_" in fetch(f"{pages[0]}metrics")
            picker.signal(signal.SIGTERM)
            assert picker.wait(DEADLINE_S) == 0
