"""The log of ``brsolver serve``."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from typing import TYPE_CHECKING

import httpx
import pytest
from serve_stack import DEADLINE_S, Stack, ask, fates

from brsolver.errors import ParameterError
from integration.serve.logs import LOGGER, LogFile, set_up
from integration.settings.tables import Log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_handlers_left() -> Iterator[None]:
    yield
    logger = logging.getLogger(LOGGER)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


class Disk:
    """A file on a disk that may be full."""

    def __init__(self) -> None:
        self.full = True
        self.written = ""

    def write(self, text: str) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written += text

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_full_disk_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger, disk = set_up(Log(file="serve.log"), tmp_path), Disk()
    (handler,) = logger.handlers
    assert isinstance(handler, LogFile)
    if (opened := handler.setStream(disk)) is not None:  # type: ignore[type-var] # as a file
        opened.close()
    for full, said in ((True, 1), (False, 0), (True, 1)):
        disk.full = full
        for at in range(3):
            logger.info("line %s", at)
        told = capsys.readouterr().err
        assert told.count("\n") == said
        assert "Traceback" not in told
    assert disk.written.count("\n") == 3


@pytest.mark.parametrize("name", ["no/such/folder.log", "a\0b", "."])
def test_a_file_that_cannot_be_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match=r"^\[log\] file is .* must be a file"):
        set_up(Log(file=name), tmp_path)


PROMPT, KEY, NOBODY = "prompt-for-no-log", "key-for-no-log", "key-of-nobody"
BAD = (
    '{{"model": "fake", "prompt": "{}',
    '"{}"',
    "{}",
    '{{"model": "fake", "prompt": {{"{}": 1}}}}',
    '{{"model": "fake", "prompt": "hello", "max_tokens": "{}"}}',
    '{{"model": "{}", "prompt": "hello"}}',
    '{{"model": "fake", "prompt": ["{}", 5]}}',
)
"""Bodies that are none of an API, or of no model; each holds what would be the prompt."""


def status(stack: Stack, body: str, *, key: str = KEY, path: str = "completions") -> int:
    answer = httpx.post(
        f"{stack.url}/v1/{path}",
        content=body,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        timeout=DEADLINE_S,
        trust_env=False,
    )
    return answer.status_code


async def one_dies(stack: Stack) -> list[str]:
    """Have a worker die under two of four streams; return what became of all."""
    headers = {"authorization": f"Bearer {KEY}"}
    running = asyncio.ensure_future(ask(stack, [300] * 4, headers=headers))
    await stack.until(lambda audit: audit["started"] == 4, what="full")
    await asyncio.to_thread(stack.call, stack.relays[0].die())
    replies = await running
    await stack.until(lambda audit: audit["workers"][0]["state"] == "down", what="down")
    return fates(replies)


def test_lines_of_json_hold_neither_prompts_nor_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"team={KEY}\n", encoding="utf-8")
    tables = {
        "log": {"format": "json", "level": "debug", "file": "serve.log"},
        "auth": {"keys_file": "keys"},
        "envoy": {"folder": "envoy"},
    }
    good = json.dumps({"model": "fake", "prompt": PROMPT, "max_tokens": 3})
    chat = {"role": "user", "content": PROMPT}
    with Stack(tmp_path, router={"down_after": 1}, **tables) as stack:
        assert status(stack, good) == 200
        chatted = json.dumps({"model": "fake", "messages": [chat], "max_tokens": 3})
        assert status(stack, chatted, path="chat/completions") == 200
        assert status(stack, good, key=NOBODY) == 401
        for body in BAD:
            assert 400 <= status(stack, body.format(PROMPT)) < 500
        assert asyncio.run(one_dies(stack)).count("broken off") == 2
        assert status(stack, good) == 200
        said = "\n".join(stack.door.lines)
    log = (tmp_path / "serve.log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    told = {line.get("event") for line in lines}
    assert {"Requested", "Decided", "Started", "Ended", "WorkerChanged"} <= told
    envoy = (tmp_path / "envoy" / "envoy.log").read_text(encoding="utf-8")
    for word in (PROMPT, KEY, NOBODY):
        assert word not in log
        assert word not in envoy
        assert word not in said
