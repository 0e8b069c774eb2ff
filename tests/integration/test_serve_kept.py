"""What a picker and an Envoy find that are started anew: what serving began with."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest
from serve_stack import DEADLINE_S, Stack, ask, idle
from test_serve_command import refused

from integration.serve import kept
from integration.settings.workers import Whence

FOLDER = "front"


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with Stack(tmp_path_factory.mktemp("kept"), ranks=3, envoy={"folder": FOLDER}) as running:
        yield running


@pytest.fixture
def settings(stack):
    """Put the settings back as they were."""
    yield stack.config.read_text()
    stack.configure(stack.addresses)
    stack.door.signal(signal.SIGHUP)
    asyncio.run(stack.until(lambda audit: idle(audit) and states(audit).count("up") == 3))


def states(audit):
    return [each["state"] for each in audit["workers"]]


async def said(stack, words, since):
    """Wait until a line that came after so many others has these words."""
    async with asyncio.timeout(DEADLINE_S):
        while not any(words in line for line in stack.door.lines[since:]):
            await asyncio.sleep(0)


async def picker_again(stack):
    """Kill the picker; return the audit of the one that comes then."""
    await stack.until_idle()
    since = len(stack.door.lines)
    os.kill(stack.picker, signal.SIGKILL)
    await said(stack, "the picker is back", since)
    return await stack.until_idle()


async def serves(stack, tag):
    replies = await ask(stack, [5] * 6, tag=tag)
    assert {str(reply.fate) for reply in replies} == {"complete"}
    return await stack.until_idle()


def test_settings_that_were_refused_keep_no_picker_away(stack, settings):
    async def run():
        since = len(stack.door.lines)
        stack.config.write_text(settings + "[workers\n")
        stack.door.signal(signal.SIGHUP)
        await said(stack, "settings stay", since)
        await picker_again(stack)
        audit = await serves(stack, "refused")
        assert audit["begun"] == 6

    asyncio.run(run())


def test_what_is_for_the_next_start_is_not_taken_in_by_a_picker_that_is_started_anew(
    stack, settings
):
    async def run():
        stack.configure(stack.addresses[:2])
        changed = stack.config.read_text()
        assert "slots = 2\n" in changed
        changed = changed.replace("slots = 2\n", "slots = 5\n").replace('"br-t"', '"jsq-load"')
        pair = '[picker]\ndoor = "ext_proc"\ncertificate = "none.pem"\nkey = "none.pem"\n'
        stack.config.write_text(changed + pair)
        stack.door.signal(signal.SIGHUP)
        await stack.until(lambda audit: idle(audit) and states(audit) == ["up", "up", "gone"])
        # Not even what nobody has taken in yet.
        stack.config.write_text(changed + pair + "[workers\n")
        audit = await picker_again(stack)
        assert states(audit) == ["up", "up"]
        assert {each["slots"] for each in audit["workers"]} == {2}
        audit = await serves(stack, "next")
        assert audit["begun"] == 6

    asyncio.run(run())


def test_settings_that_a_picker_was_told_of_as_it_was_away_are_taken_in(stack, settings):
    async def run():
        await stack.until_idle()
        os.kill(stack.picker, signal.SIGSTOP)
        stack.configure(stack.addresses[:1])
        stack.door.signal(signal.SIGHUP)
        # The watchdog ends the one that was told; whoever comes after it knows.
        await stack.until(lambda audit: idle(audit) and states(audit).count("up") == 1)

    asyncio.run(run())


def test_an_emptied_folder_keeps_no_picker_away(stack):
    async def run():
        await stack.until_idle()
        folder = stack.config.parent / FOLDER
        for each in folder.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        await picker_again(stack)
        assert {"places.json", "endpoints.json"} <= {each.name for each in folder.iterdir()}
        audit = await serves(stack, "emptied")
        assert audit["begun"] == 6

    asyncio.run(run())


def test_the_folder_is_held(stack):
    folder = os.open(stack.config.parent / FOLDER, os.O_RDONLY)
    # What tidies temporary folders asks so, and leaves what it does not get.
    with pytest.raises(BlockingIOError):
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)
    told = refused("serve", stack.config)
    assert f"folder is '{stack.config.parent / FOLDER}', must be one that nothing else" in told


def test_a_temporary_folder_is_held_too(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Stack(tmp_path, ranks=1):
        [path] = tmp_path.glob("brsolver-*/places.json")
        folder = os.open(path.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
    assert not path.parent.exists()


def test_an_envoy_is_started_again_when_there_is_room_on_the_disk(stack):
    async def run():
        await stack.until_idle()
        since = len(stack.door.lines)
        # A file cannot be put where a folder is, whoever asks.
        path = stack.config.parent / FOLDER / "envoy.json"
        path.unlink(missing_ok=True)
        path.mkdir()
        os.kill(stack.envoy, signal.SIGKILL)
        await said(stack, "Envoy's configuration goes there", since)
        path.rmdir()
        await said(stack, "Envoy is back", since)
        assert stack.envoy is not None
        await serves(stack, "room")

    asyncio.run(run())


def test_a_picker_without_its_files_is_one_line(tmp_path):
    command = [sys.executable, "-m", "integration.serve.child", "serve.toml"]
    ran = subprocess.run(
        [*command, str(tmp_path / "none" / "places.json")],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("brsolver: error: ")


def test_all_that_says_where_workers_are_is_taken_in():
    for tier in ("prefill", "decode"):
        keys = {Whence(tier=tier).key(name) for name in ("addresses", "file", "dns", "service")}
        assert keys <= set(kept._RELOADED["tiers"])
