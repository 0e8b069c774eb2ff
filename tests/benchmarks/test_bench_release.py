"""The command that measures how soon held requests go on: what it says when it cannot."""

from __future__ import annotations

import asyncio
import runpy
import sys
from types import SimpleNamespace

import pytest

from benchmarks import bench_release
from brsolver.errors import BrsolverError
from integration.serve import demo


class Down:
    """Engines that do not come up."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        raise BrsolverError("brsolver fake-engine did not come up: a line |\nanother")

    def __exit__(self, *_):
        pass


def test_what_goes_wrong_is_one_line_and_exit_status_2(monkeypatch, capsys):
    monkeypatch.setattr(demo, "Engines", Down)
    monkeypatch.setattr(sys, "argv", ["bench_release"])
    monkeypatch.delitem(sys.modules, "benchmarks.bench_release", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("benchmarks.bench_release", run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "bench_release: error: brsolver fake-engine did not come up: a line | another\n"
    )


@pytest.mark.parametrize("waits", ["_round", "_another"])
def test_what_takes_too_long_is_one_line_and_exit_status_1(monkeypatch, capsys, waits):
    nobody = SimpleNamespace(page="http://127.0.0.1:1", url="http://127.0.0.1:1", pid=-1)
    arguments = {"_round": (nobody, "killed", 1, 1), "_another": (nobody, 0)}[waits]
    whole = getattr(bench_release, waits)
    monkeypatch.setattr(bench_release, "_rows", lambda _: asyncio.run(whole(*arguments)))
    monkeypatch.setattr(bench_release, "PATIENCE_S", 0.0)
    assert bench_release.main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    what = {"_round": "all had ended", "_another": "another picker was there"}[waits]
    assert said.err == f"bench_release: error: it took more than 0 s until {what}\n"
