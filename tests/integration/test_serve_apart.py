"""``brsolver serve --no-envoy``: an Envoy that somebody else starts from what was printed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import subprocess
import sys

import pytest
from serve_stack import DEADLINE_S, Stack, ask, fates, in_the_books, toml
from test_serve_command import refused

from integration.envoy import EnvoyAdmin, find_envoy
from integration.free_ports import LOOPBACK, free_ports
from integration.serve.demo import FrontDoor

LONG = 300
KEY = "very-secret"


def printed(config, *more):
    """Return what ``--print-bootstrap`` prints, and what it says beside."""
    command = [sys.executable, "-m", "brsolver", "serve", "--config", str(config)]
    ran = subprocess.run(
        [*command, "--print-bootstrap", *more],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return ran.stdout, ran.stderr


@contextlib.contextmanager
def envoy_by_hand(folder, text, admin_port):
    """Start Envoy as anybody would, and wait until it is ready."""
    path = folder / "bootstrap.json"
    path.write_text(text)
    command = [find_envoy(), "-c", path, "--disable-hot-restart", "--log-level", "error"]
    with (folder / "envoy.log").open("ab") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            assert asyncio.run(until_ready(process, EnvoyAdmin(admin_port)))
            yield process
        finally:
            process.kill()


async def until_ready(process, admin):
    async with asyncio.timeout(DEADLINE_S):
        while process.poll() is None:
            if await admin.ready():
                return True
    return False


class ApartStack(Stack):
    """A front door without an Envoy of its own, and one that was started by hand."""

    def __init__(self, folder, **tables):
        listen, door, grpc, self.admin_port = free_ports([LOOPBACK] * 4)
        (folder / "keys").write_text(f"one={KEY}\n")
        super().__init__(
            folder,
            listen={"port": listen},
            picker={"port": door, "grpc_port": grpc, **tables.pop("picker", {})},
            envoy={"folder": "front", "admin_port": self.admin_port, "path": "no-such-program"},
            auth={"keys_file": "keys"},
            **tables,
        )
        self._listen = listen

    def _start_door(self):
        self.config = self._folder / "serve.toml"
        self.configure(self.addresses)
        self.text, _ = printed(self.config, "--with-keys")
        self.door = self._exits.enter_context(FrontDoor(self.config, "--no-envoy"))
        self.url, self.page = f"http://127.0.0.1:{self._listen}", self.door.page

    async def said(self, words):
        async with asyncio.timeout(DEADLINE_S):
            while not any(words in line for line in self.door.lines):
                await asyncio.sleep(0)


def by_key(stack, outputs, **more):
    return ask(stack, outputs, headers={"authorization": f"Bearer {KEY}"}, **more)


async def go_on_sending(stack):
    """Always have a request under way."""
    for turn in itertools.count():
        await asyncio.gather(*(by_key(stack, [LONG], tag=f"on{turn}-{n}") for n in range(2)))


@pytest.mark.parametrize("door", ["ext_authz", "ext_proc"])
def test_what_is_printed_and_what_runs_fit_together(tmp_path, door):
    async def placed(stack):
        return await by_key(stack, [5, 1, 20, 8, 3, 11], tag="placed")

    async def run(stack):
        await stack.said(f"Envoy answers at 127.0.0.1:{stack.admin_port}")
        replies, ends = await in_the_books(stack, placed)
        assert (set(fates(replies)), ends) == ({"complete"}, {"finished": 6})
        # Its figures are looked at.
        await stack.until(lambda audit: [w["at_envoy"] for w in audit["workers"]] == [0, 0])
        assert set(fates(await ask(stack, [5], tag="nokey"))) == {"refused"}
        running = asyncio.create_task(by_key(stack, [LONG] * 4, tag="last"))
        audit = await stack.until(lambda audit: audit["started"] == 4, what="busy")
        assert [each["reserved"] for each in audit["workers"]] == [2, 2]
        # It waits for what it has placed, but for nobody who comes after that.
        traffic = asyncio.create_task(go_on_sending(stack)) if door == "ext_authz" else None
        stack.door.signal(signal.SIGTERM)
        ended = asyncio.create_task(asyncio.to_thread(stack.door.wait, DEADLINE_S))
        await asyncio.wait([running, ended], return_when=asyncio.FIRST_COMPLETED)
        assert running.done()
        assert set(fates(await running)) == {"complete"}
        assert await ended == 0
        assert not any("streams still ran" in line for line in stack.door.lines)
        if traffic is not None:
            traffic.cancel()
            await asyncio.gather(traffic, return_exceptions=True)
        # Nobody has ended Envoy, which routes by itself.
        assert set(fates(await by_key(stack, [5] * 2, tag="alone"))) == {"complete"}

    with ApartStack(tmp_path, picker={"door": door}) as stack:
        asyncio.run(stack.said(f"no Envoy answers at 127.0.0.1:{stack.admin_port}"))
        assert any("API keys are looked at by Envoy alone" in line for line in stack.door.lines)
        with envoy_by_hand(tmp_path, stack.text, stack.admin_port) as envoy:
            asyncio.run(run(stack))
            assert envoy.poll() is None


def test_an_envoy_that_goes_and_one_of_other_settings_are_told_of(tmp_path):
    async def run(stack, envoy):
        await stack.said("Envoy answers at")
        before = await stack.until_idle()
        running = asyncio.create_task(by_key(stack, [LONG] * 4, tag="gone"))
        await stack.until(lambda audit: audit["started"] == 4, what="busy")
        envoy.kill()
        assert set(fates(await running)) == {"broken off"}
        # Its streams have gone with it.
        after = await stack.until(lambda audit: audit["reserved"] == 0, what="empty")
        assert after["begun"] - before["begun"] == 4

    with ApartStack(tmp_path) as stack:
        with envoy_by_hand(tmp_path, stack.text, stack.admin_port) as envoy:
            asyncio.run(run(stack, envoy))
        stack.configure(stack.addresses)
        changed = stack.config.read_text().replace("idle_s = 5.0", "idle_s = 6.0")
        stack.config.write_text(changed)
        text, _ = printed(stack.config, "--with-keys")
        assert text != stack.text
        with envoy_by_hand(tmp_path, text, stack.admin_port):
            asyncio.run(stack.said("was not started with these settings"))


def test_a_second_sigterm_ends_it_at_once(tmp_path):
    async def run(stack):
        running = asyncio.create_task(by_key(stack, [5000] * 2, tag="long"))
        await stack.until(lambda audit: audit["started"] == 2, what="busy")
        stack.door.signal(signal.SIGTERM)
        await stack.said("has been placed has 600 s")
        stack.door.signal(signal.SIGTERM)
        assert await asyncio.to_thread(stack.door.wait, DEADLINE_S) == 0
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with (
        ApartStack(tmp_path, limits={"drain_s": 600.0, "idle_s": 60.0}) as stack,
        envoy_by_hand(tmp_path, stack.text, stack.admin_port),
    ):
        asyncio.run(run(stack))


def test_no_key_is_printed_and_none_that_anybody_knows_opens_the_door(tmp_path):
    with ApartStack(tmp_path) as stack:
        text, told = printed(stack.config)
    assert KEY in stack.text
    assert KEY not in text + told
    assert "warning: API keys are left out" in told
    (tmp_path / "shown.json").write_text(text)
    command = [find_envoy(), "--mode", "validate", "-c", tmp_path / "shown.json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert ran.returncode != 0
    # Protobuf puts more or fewer spaces between words, lest anybody rely on them.
    assert "a key of auth.keys_file" in " ".join(ran.stderr.split())


def test_what_would_be_another_at_every_start_must_be_set(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(toml(workers={"addresses": ["127.0.0.1:1"]}, picker={"port": 9001}))
    told = refused("serve", path, "--no-envoy")
    assert "picker.grpc_port is 0, must be set with --no-envoy" in told
    text, warned = printed(path)
    assert "picker.grpc_port, envoy.admin_port, envoy.folder must be set" in warned
    assert json.loads(text)["node"]["metadata"]["brsolver"]


def test_options_that_exclude_each_other(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(toml(workers={"addresses": ["127.0.0.1:1"]}))
    assert "exclude each other" in refused("serve", path, "--no-envoy", "--envoy", "any")
    assert "must be beside --print-bootstrap" in refused("serve", path, "--with-keys")
