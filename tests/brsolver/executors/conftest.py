from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any


@pytest.fixture
def cluster_of() -> Iterator[Callable[..., Any]]:
    """Start a real cluster of several nodes on this machine, each with its own processes."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    started: list[Cluster] = []

    def start(*processors: int) -> Cluster:
        cluster = Cluster()
        started.append(cluster)
        for count in processors:
            cluster.add_node(num_cpus=count, include_dashboard=False)
        return cluster

    yield start
    for cluster in started:
        cluster.shutdown()


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    """Return a folder of pipes: `hello`, where tasks say that they begin, and a gate for each."""
    for name in ("hello", *(f"gate-{task}" for task in range(4))):
        os.mkfifo(tmp_path / name)
    return tmp_path
