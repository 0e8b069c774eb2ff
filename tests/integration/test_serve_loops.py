"""The picker's event loop: the fastest that is installed, and Python's own without."""

from __future__ import annotations

import asyncio
import sys

import pytest

from integration.serve.loops import fastest_loop


def test_without_another_it_is_pythons_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert fastest_loop() is None
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        assert isinstance(runner.get_loop(), asyncio.BaseEventLoop)


def test_the_faster_one_is_taken():
    uvloop = pytest.importorskip("uvloop", reason="there is none for Windows")
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)
