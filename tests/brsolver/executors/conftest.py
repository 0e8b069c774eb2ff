from __future__ import annotations

import gc
import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


SPARE = 2


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Return a cluster of three nodes on this machine, of which tests may take the last two."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves sockets to the collector
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        started.spare = [started.add_node(num_cpus=1) for _ in range(SPARE)]
        gc.collect()
    yield started
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        started.shutdown()
        gc.collect()


@pytest.fixture
def whole(cluster: Any) -> Any:
    """Return the cluster with all of its nodes, whichever tests before have taken."""
    while len(cluster.spare) < SPARE:
        cluster.spare.append(cluster.add_node(num_cpus=1))
    return cluster


class Gates:
    """Pipes: `hello`, where tasks say that they begin, and a gate at which each then waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("hello", *(f"gate-{task}" for task in range(4))):
            os.mkfifo(folder / name)
        # Both ends are open here, so that no task waits for a reader, or loses one.
        self._hello = os.fdopen(os.open(folder / "hello", os.O_RDWR), "r")

    def hello(self, lines: int) -> list[str]:
        """Wait for so many tasks to begin; returns what they said."""
        return [self._hello.readline().rstrip() for _ in range(lines)]

    def let_through(self, task: int) -> None:
        (self.folder / f"gate-{task}").write_text("")

    def close(self) -> None:
        self._hello.close()


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Gates]:
    made = Gates(tmp_path)
    yield made
    made.close()
