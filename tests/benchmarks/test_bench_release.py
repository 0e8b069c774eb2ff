"""The command that measures how soon held requests go on: what it says when it cannot."""

from __future__ import annotations

import runpy
import sys

import pytest

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
