"""Clusters of their own: tokens, a driver that is told to end, a head that is lost."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import executor_tasks as tasks
import pytest

from brsolver.errors import BrsolverError
from brsolver.executors import ExecutorParams, carry_out, executor_of
from brsolver.executors._ray_greeting import UNAUTHENTICATED, greeted
from brsolver.executors._ray_session import _said

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("ray")

TOKEN = "of-this-test-alone"  # noqa: S105 # nobody else's
HEAD = """
import logging, sys, ray
ray.init("local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)
node = ray._private.worker._global_node
print(node.gcs_address, node.get_session_dir_path(), flush=True)
sys.stdin.read()
"""
GATED = """
from pathlib import Path
here = Path(__file__).parent
class Gated:
    def route(self, cluster, waiting):
        (here / "hello").write_text("began\\n")
        (here / "gate").read_text()
        return [(0, int(cluster.room.argmax()))]
"""
CHECK = "/ray.rpc.NodeInfoGcsService/CheckAlive"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start a cluster that wants a token; return its address and the folder of its session."""
    script = tmp_path_factory.mktemp("head") / "head.py"
    script.write_text(HEAD)
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    head = subprocess.Popen(
        [sys.executable, str(script)], env=env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert head.stdout is not None
    address, session = head.stdout.readline().split()
    yield address, session
    head.communicate()


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    """Return a folder with a policy that says that it is asked, and then waits."""
    for name in ("hello", "gate"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "gated_in_a_folder.py").write_text(GATED)
    return tmp_path


def started(folder: Path, *more: str, **env: str) -> subprocess.Popen[str]:
    """Start a comparison, and wait until its policy is asked."""
    command = [
        sys.executable, "-m", "brsolver", "compare", "preset:uniform:n=20", "--policies",
        "gated_in_a_folder:Gated", "--workers", "2", "--slots", "2", "--seeds", "1", "--out", "out",
        "--executor", "ray", *more,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    # Open at both ends, so that it is not waited for if the process ends before it writes.
    hello = os.open(folder / "hello", os.O_RDWR | os.O_NONBLOCK)
    while not select.select([hello], [], [], 1.0)[0]:
        assert process.poll() is None, process.communicate()
    os.close(hello)
    return process


def _at(address: str | None) -> Any:
    return executor_of(ExecutorParams(executor="ray", ray_address=address))


def test_without_its_token_a_cluster_is_refused_in_one_line(keyed: tuple[str, str]) -> None:
    address, _ = keyed
    with pytest.raises(BrsolverError, match=f"cluster at {address} .* wants a token, must") as said:
        list(carry_out(_at(address), tasks.shifted, [1], {"offset": 0}))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("token", "status"),
    [("", UNAUTHENTICATED), ("Bearer wrong", UNAUTHENTICATED), (f"Bearer {TOKEN}", 0)],
)
def test_what_a_cluster_says_of_tokens_is_understood(
    keyed: tuple[str, str], token: str, status: int
) -> None:
    host, _, port = keyed[0].rpartition(":")
    found = greeted((host, int(port)), CHECK, token, 60.0)
    assert (found.speaks, found.status) == (True, status)


def test_long_tokens_are_written_as_http_has_them(keyed: tuple[str, str]) -> None:
    host, _, port = keyed[0].rpartition(":")
    for length in (126 - 7, 127 - 7, 128 - 7, 255 - 7, 400):
        found = greeted((host, int(port)), CHECK, f"Bearer {'x' * length}", 60.0)
        assert found.status == UNAUTHENTICATED


def test_a_token_that_is_kept_for_the_user_is_used_and_an_end_leaves_no_noise(
    keyed: tuple[str, str], gated: Path
) -> None:
    address, _ = keyed
    (gated / ".ray").mkdir()
    (gated / ".ray" / "auth_token").write_text(TOKEN)
    process = started(gated, "--ray-address", address, HOME=str(gated))
    process.send_signal(signal.SIGTERM)
    assert process.communicate() == ("", "")
    assert process.returncode == 128 + signal.SIGTERM


def test_a_head_that_is_lost_is_one_line(keyed: tuple[str, str], gated: Path) -> None:
    """The last, as the head is lost."""
    address, session = keyed
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    process = started(gated, "--ray-address", address, **env)
    os.kill(_gcs(session), signal.SIGKILL)
    out, err = process.communicate()
    assert out == ""
    assert err.startswith("brsolver: error: the head of the Ray cluster at ")
    assert "does not answer any more" in err
    assert err.count("\n") == 1
    assert process.returncode == 2


def _gcs(session: str) -> int:
    """Return the process of a session's head."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if words[0].endswith("gcs_server") and any(session in word for word in words):
                return int(entry.name)
    raise AssertionError(session)


def test_of_a_traceback_its_error_is_told() -> None:
    cause = (
        "Initialization failure from server:\nTraceback (most recent call last):\n"
        '  File "proxier.py", line 772, in Datapath\n    raise RuntimeError(\n'
        "RuntimeError: Starting Ray client server failed. See its log.\n"
    )
    assert _said(cause) == "RuntimeError: Starting Ray client server failed. See its log."
    assert _said("ray client connection timeout") == "ray client connection timeout"
