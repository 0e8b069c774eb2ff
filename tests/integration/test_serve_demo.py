"""``make demo-serve`` with few requests: says where its page is, and ends with its table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from integration.serve.comparison import SHOWN
from integration.serve.demo import ARMS, LEAST, main

MODULE = "integration.serve.demo"


def test_few_requests_give_all_that_many_do():
    ran = subprocess.run(
        [sys.executable, "-m", MODULE, "--requests", str(LEAST)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert len(re.findall(r"page .*: http://127\.0\.0\.1:\d+/$", ran.stderr, re.MULTILINE)) == 2
    _, headings, *rows = ran.stdout.splitlines()
    assert re.split(r" {2,}", headings.strip()) == list(SHOWN.values())
    names = [arm.name for arm in ARMS]
    expected = [*names, *(f"{name} (simulated)" for name in names)]
    for name, line in zip(expected, rows, strict=False):
        assert line.startswith(name)
        figures = [float(each.replace(",", "")) for each in line.removeprefix(name).split()]
        assert len(figures) == len(SHOWN)
        assert all(figure > 0 for figure in figures), line  # NaN is none
    assert any(line.startswith("the simulator foretold:") for line in rows)


def test_make_runs_it():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^demo-serve:.*\n\t\$\(BIN\)/python -m {MODULE}$", makefile, re.MULTILINE)


@pytest.mark.parametrize("requests", ["0", "901", "many"])
def test_numbers_that_cannot_be_are_refused(capsys, requests):
    with pytest.raises(SystemExit, match="2"):
        main(["--requests", requests])
    assert requests in capsys.readouterr().err
