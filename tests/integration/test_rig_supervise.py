"""A supervised command never outlives whoever wanted it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brsolver.errors import ParameterError
from integration.bench import supervise
from integration.bench.server import Server, ServerError, ServerParams
from integration.free_ports import free_port

SUPERVISE = [sys.executable, str(Path(supervise.__file__))]
# A child and a grandchild that both ignore the kind signal.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
os.write(1, f"{os.getpid()}\\n".encode())
time.sleep(120)
"""
OWNER = """
import subprocess, sys, time
subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
time.sleep(120)
"""


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(map(_alive, pids)):
        assert time.monotonic() < deadline, f"still alive: {[p for p in pids if _alive(p)]}"
        time.sleep(0.05)


def test_closing_the_pipe_ends_a_whole_stubborn_tree() -> None:
    short = [sys.executable, "-c", _with_short_grace(), sys.executable, "-c", STUBBORN]
    with subprocess.Popen(short, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        assert all(map(_alive, pids))
        process.stdin.close()
        _wait_until_gone(pids)


def test_the_tree_ends_when_its_owner_is_killed() -> None:
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(120)"
    command = [sys.executable, "-c", OWNER, *SUPERVISE, sys.executable, "-c", sleeper]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
        _wait_until_gone([pid])


@pytest.mark.parametrize(("code", "status"), [(0, 0), (7, 7)])
def test_the_commands_status_is_passed_on(code: int, status: int) -> None:
    command = [*SUPERVISE, sys.executable, "-c", f"raise SystemExit({code})"]
    assert subprocess.run(command, stdin=subprocess.PIPE, check=False).returncode == status


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n", encoding="utf-8")
    fake.chmod(0o755)
    params = ServerParams(model="m", python=str(fake), log=tmp_path / "logs" / "server.log")
    with pytest.raises(ServerError, match=r"ended while starting.*no such model"):
        Server(params).__enter__()


def test_a_server_that_never_answers_is_taken_down(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho $$\nexec sleep 120\n", encoding="utf-8")
    fake.chmod(0o755)
    server = Server(ServerParams(model="m", python=str(fake), startup_s=1.0))
    with pytest.raises(ServerError, match="did not answer within 1 s"):
        server.__enter__()
    _wait_until_gone([int(server.log_text().split()[0])])
    assert not server.running


def test_the_command_line_carries_what_was_asked_for() -> None:
    params = ServerParams(model="m", ranks=4, slots=8, api_servers=2, arguments=("--seed", "1"))
    command = params.command(free_port())
    for pair in (
        ("--data-parallel-size", "4"),
        ("--max-num-seqs", "8"),
        ("--api-server-count", "2"),
        ("--seed", "1"),
    ):
        at = command.index(pair[0])
        assert command[at + 1] == pair[1]
    assert "--enable-expert-parallel" in command
    assert "--data-parallel-size" not in ServerParams(model="m", ranks=1).command(1)


@pytest.mark.parametrize("name", ["ranks", "slots", "api_servers", "startup_s"])
def test_impossible_sizes_are_refused(name: str) -> None:
    with pytest.raises(ParameterError, match=f"{name} is 0"):
        ServerParams(model="m", **{name: 0})  # type: ignore[arg-type] # one name at a time


def test_our_own_variables_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRSOLVER_ROUTER", "random")
    monkeypatch.setenv("UNRELATED", "kept")
    server = Server(ServerParams(model="m", environment={"BRSOLVER_MODE": "observe"}))
    environment = server._environment()
    assert "BRSOLVER_ROUTER" not in environment
    assert environment["BRSOLVER_MODE"] == "observe"
    assert environment["UNRELATED"] == "kept"


def _with_short_grace() -> str:
    folder = str(Path(supervise.__file__).parents[2])
    return (
        f"import sys; sys.path.insert(0, {folder!r}); from integration.bench import supervise; "
        "supervise.GRACE_S = 0.3; sys.exit(supervise.main(sys.argv[1:]))"
    )
