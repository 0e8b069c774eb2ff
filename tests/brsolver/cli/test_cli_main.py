from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from brsolver._version import __version__
from brsolver.cli import main
from brsolver.cli import simulate as simulate_module
from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from collections.abc import Callable

HEAVY = (
    *("numpy", "numba", "scipy", "pyarrow", "matplotlib", "rich", "jinja2"),
    *("brsolver.simulator", "brsolver.cli.simulate"),
)
COMMAND = str(Path(sys.executable).with_name("brsolver"))


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("start", [(COMMAND,), (sys.executable, "-m", "brsolver")])
def test_help_names_every_command(start: tuple[str, ...]) -> None:
    done = call(*start, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("simulate", "compare", "policies", "trace"):
        assert command in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom brsolver.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    assert call(sys.executable, "-c", code).stderr.strip() == "[]"


def test_overview_says_what_the_commands_say(brsolver: Callable[..., Any]) -> None:
    for name, line in main.COMMANDS.items():
        assert main._built_in(name).help.partition("\n\n")[0] == line
        assert brsolver(name, "--help").code == 0


def test_version() -> None:
    assert call(COMMAND, "--version").stdout == f"brsolver {__version__}\n"


def test_nothing_asked_shows_help(brsolver: Callable[..., Any]) -> None:
    outcome = brsolver()
    assert outcome.code == 2
    assert "Commands" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["nope"], "nope"),
        (["simulate", "x.csv"], "--policy"),
        (
            ["simulate", "x.csv", "--policy", "br-0", "--workers", "many"],
            "workers is 'many', must be",
        ),
        (["simulate", "x.csv", "--policy", "br-0", "--wrokers", "4"], "--wrokers"),
        (["compare", "x.csv", "--policies", "br-0"], "--out"),
    ],
)
def test_misuse_is_one_line(refused: Callable[..., str], arguments: list[str], hint: str) -> None:
    assert hint in refused(*arguments)


def test_bad_input_of_the_real_command() -> None:
    done = call(COMMAND, "simulate", "no-such-file.csv", "--policy", "br-0", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "brsolver: error: no-such-file.csv: no such file\n"


def test_messages_are_put_on_one_line(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BrsolverError("first\n  second")

    monkeypatch.setattr(simulate_module, "_simulate", fail)
    line = refused("simulate", "x.csv", "--policy", "br-0")
    assert line == "brsolver: error: first second\n"


def test_bugs_keep_their_traceback(
    monkeypatch: pytest.MonkeyPatch, brsolver: Callable[..., Any]
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(simulate_module, "_simulate", crash)
    with pytest.raises(ZeroDivisionError):
        brsolver("simulate", "x.csv", "--policy", "br-0")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory: use a smaller trace"),
        (OverflowError("int too large"), "a number is too large: int too large"),
        (OSError(28, "No space left on device", "there"), "there: No space left on device"),
    ],
)
def test_limits_of_the_machine_are_one_line(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], error: Exception, message: str
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(simulate_module, "_simulate", crash)
    assert message in refused("simulate", "x.csv", "--policy", "br-0")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("options", [["simulate", "--policy", "jsq"], ["trace", "info"]])
def test_full_disk_is_one_line(trace_file: Path, options: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [COMMAND, *options, str(trace_file)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "brsolver: error: output: No space left on device\n"


def test_interruption_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, brsolver: Callable[..., Any]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate_module, "_simulate", interrupt)
    outcome = brsolver("simulate", "x.csv", "--policy", "br-0")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")


def test_interrupted_comparison_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [COMMAND, "compare", "preset:uniform:n=200000", "--policies", "br-h,br-0", "--out",
         str(out), "--jobs", "2", "--predictor", "oracle"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=6)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


def test_closed_pipe_is_no_error(trace_file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [COMMAND, "simulate", str(trace_file), "--policy", "jsq", "--json"],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


def test_json_is_all_there_is_on_stdout(trace_file: Path) -> None:
    done = call(COMMAND, "simulate", str(trace_file), "--policy", "jsq", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["policy"] == "jsq"
