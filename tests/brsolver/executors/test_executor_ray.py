"""A real cluster of several nodes on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import executor_tasks as tasks
import numpy as np
import pytest

from brsolver.errors import BrsolverError, MissingExtraError, ParameterError
from brsolver.executors import ExecutorParams, Lost, carry_out, executor_of
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Gates

ray = pytest.importorskip("ray")
# Ray leaves sockets of its connections to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def on(cluster: Any, **more: Any) -> Any:
    return executor_of(ExecutorParams(executor="ray", ray_address=cluster.address, **more))


def trace() -> Trace:
    rng = np.random.default_rng(3)
    return Trace(prompt_tokens=rng.integers(50, 900, 120), output_tokens=rng.integers(5, 60, 120))


def test_a_killed_node_costs_its_own_task_alone(
    whole: Any, gates: Gates, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes = {node.node_id: node for node in whole.spare}
    with on(whole).open(tasks.held_at_gate) as lane:
        assert lane.slots == 3
        for each in range(3):
            lane.submit((str(gates.folder), each))
        where = dict(line.split() for line in gates.hello(3))
        assert len(set(where.values())) == 3
        victim = next(each for each, node in where.items() if node in nodes)
        killed = nodes[where[victim]]
        whole.spare.remove(killed)
        whole.remove_node(killed, allow_graceful=False)
        for each in set(where) - {victim}:
            gates.let_through(int(each))
        found = dict(lane.next() for _ in range(3))
    assert [found[each][0] for each in range(3)] == [0, 1, 2]
    ran = {str(each): node for each, node in found.values()}
    assert all(ran[each] == where[each] for each in set(where) - {victim})
    assert ran[victim] != where[victim]
    (said,) = (record.message for record in caplog.records)
    assert said.startswith(f"task {int(victim) + 1} was lost (")
    assert said.endswith("and is begun again, 2 of 3 times")
    assert capfd.readouterr().out == ""


def test_a_killed_process_costs_its_own_task_alone(cluster: Any, tmp_path: Path) -> None:
    shared = {"folder": str(tmp_path), "deadly": {1}}
    found = dict(carry_out(on(cluster), tasks.dies_once, list(range(4)), shared))
    assert found == {at: at for at in range(4)}
    begun = {at: len((tmp_path / f"begun-{at}").read_text()) for at in range(4)}
    assert begun == {0: 1, 1: 2, 2: 1, 3: 1}


def test_a_task_that_kills_every_process_is_given_up(cluster: Any) -> None:
    found = dict(carry_out(on(cluster), tasks.always_dies, list(range(3)), {}))
    assert "ended abruptly 3 times" in found.pop(1).reason
    assert found == {0: 0, 2: 2}


def test_figures_are_those_of_this_process_to_the_bit(cluster: Any) -> None:
    asked = [(policy, seed) for policy in ("br-h", "random", "br-0") for seed in (0, 1)]
    shared = {"trace": trace()}
    there = dict(carry_out(on(cluster), tasks.simulated, asked, shared))
    here = dict(carry_out(executor_of(ExecutorParams(jobs=1)), tasks.simulated, asked, shared))
    assert there == here
    assert not any(isinstance(each, Lost) for each in here.values())


def test_what_is_shared_arrives_as_in_a_process_of_this_machine(cluster: Any) -> None:
    array = np.arange(300_000)
    found = dict(carry_out(on(cluster), tasks.facts, ["a", "b"], {"array": array}))
    for writable, same, total, limits in found.values():
        assert (writable, same, total) == (True, True, int(array.sum()))
        assert set(limits.values()) == {"1"}


def test_no_more_run_at_once_than_asked_for(cluster: Any) -> None:
    with on(cluster, jobs=1).open(tasks.shifted, {"offset": 5}) as lane:
        assert lane.slots == 1
        for each in range(3):
            lane.submit(each)
        assert [lane.next() for _ in range(3)] == [(0, 5), (1, 6), (2, 7)]


def test_a_process_that_is_connected_stays_so(cluster: Any) -> None:
    import logging

    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        job = ray.get_runtime_context().get_job_id()
        found = dict(carry_out(on(cluster), tasks.shifted, [1], {"offset": 5}))
        assert found == {0: 6}
        assert ray.get_runtime_context().get_job_id() == job
    finally:
        ray.shutdown()


def test_functions_and_plugins_of_a_script_are_found_and_all_is_silent(
    cluster: Any, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    (place / "own-1.dist-info").mkdir(parents=True)
    (place / "own-1.dist-info" / "METADATA").write_text("Name: own\nVersion: 1\n")
    (place / "own-1.dist-info" / "entry_points.txt").write_text(
        "[brsolver.policies]\nown = own_policy:Own\n"
    )
    (place / "own_policy.py").write_text(
        "class Own:\n    def route(self, cluster, waiting):\n        return [(0, 0)]\n"
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.append({str(place)!r})\n"
        "from brsolver.executors import ExecutorParams, carry_out, executor_of\n"
        "def called(task, shared):\n"
        "    from brsolver.registry import policy_class\n"
        "    print('noise of a task')\n"
        "    return policy_class(task).__name__ + shared['mark']\n"
        "if __name__ == '__main__':\n"
        f"    where = ExecutorParams(executor='ray', ray_address={cluster.address!r})\n"
        "    print(*carry_out(executor_of(where), called, ['own'], {'mark': '!'}))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("(0, 'Own!')\n", "", 0)


def test_a_cluster_with_another_version_is_refused(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brsolver.executors.ray.__version__", "0.0.7")
    with pytest.raises(BrsolverError, match=r"has brsolver \S+, must be 0\.0\.7 as here"):
        list(carry_out(on(cluster), tasks.shifted, [1], {"offset": 0}))


def test_a_cluster_with_other_code_of_the_same_version_is_refused(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brsolver.executors.ray.own_code", lambda: "edited")
    with pytest.raises(BrsolverError, match=r"with code \w{12}, must be that with code edited as"):
        list(carry_out(on(cluster), tasks.shifted, [1], {"offset": 0}))


def test_without_an_address_a_cluster_is_started_here_and_ended(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from brsolver.executors import ExecutorParams, carry_out, executor_of\n"
        "def limit(task, shared):\n"
        "    return os.environ['OMP_NUM_THREADS'], os.getppid()\n"
        "if __name__ == '__main__':\n"
        "    before = dict(os.environ)\n"
        "    executor = executor_of(ExecutorParams(executor='ray', jobs=2))\n"
        "    (_, (threads, raylet)), = carry_out(executor, limit, [None])\n"
        "    print(threads, os.path.exists(f'/proc/{raylet}'))\n"
        "    assert os.environ.get('RAY_AUTH_MODE') == before.get('RAY_AUTH_MODE')\n"
        "    import ray\n"
        "    assert not ray.is_initialized()\n"
    )
    # In a process of its own: what Ray sets for its own clusters is set for good.
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1 False\n", "", 0)


@pytest.fixture
def mute() -> Iterator[int]:
    """Listen, and say nothing to anybody who asks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_what_is_no_cluster_is_one_line_within_seconds(
    mute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brsolver.executors._ray_session.CONNECT_S", 0.2)
    free = _free_port()
    for port, cause in ((free, "Connection refused"), (mute, "timed out")):
        with pytest.raises(BrsolverError, match=f"127.0.0.1:{port}: {cause}.*leave the address"):
            list(carry_out(_at(f"127.0.0.1:{port}"), tasks.shifted, [1], {"offset": 0}))
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free}")
    with pytest.raises(BrsolverError, match=f"127.0.0.1:{free}: .*unset RAY_ADDRESS"):
        list(carry_out(_at(None), tasks.shifted, [1], {"offset": 0}))


def test_a_server_of_something_else_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        child = os.fork()
        if child == 0:
            stream, _ = server.accept()
            stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            stream.close()
            os._exit(0)
        with pytest.raises(BrsolverError, match="does not answer as Ray does"):
            list(carry_out(_at(f"127.0.0.1:{port}"), tasks.shifted, [1], {"offset": 0}))
        os.waitpid(child, 0)


@pytest.mark.parametrize("address", ["nowhere", "host:port", "host:0", "host:70000", ":80"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ParameterError, match="must be HOST:PORT, ray://HOST:PORT or auto"):
        list(carry_out(_at(address), tasks.shifted, [1], {"offset": 0}))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'brsolver\[ray\]'"):
        executor_of(ExecutorParams(executor="ray"))


def _at(address: str | None) -> Any:
    return executor_of(ExecutorParams(executor="ray", ray_address=address))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
