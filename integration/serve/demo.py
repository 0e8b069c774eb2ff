"""``make demo-serve``: all of it on one machine, on engines that only pretend.

Fake engines step as the simulator's ranks do. The same requests are sent twice, routed by vLLM's
rule and by ``br-t`` with a pool, and the table says what each gave and what the simulator foretells.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from integration.bench.workload import Workload, WorkloadParams, workloads
from integration.ports import free_ports
from integration.serve.comparison import (
    POOLED,
    VLLM,
    Arm,
    Cluster,
    as_table,
    foretold,
    gains_line,
    measured,
)
from integration.serve.processes import ProcessError, Running
from integration.serve.traffic import Fate, Reply, TrafficParams, drive

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST = "127.0.0.1"
TRACE = "preset:uniform:n=900,s_low=100,s_high=2500,o_low=20,o_high=160"
CLUSTER = Cluster(ranks=8, slots=24, budget=4096, concurrency=256)


def engine_arguments(cluster: Cluster, ports: list[int]) -> list[str]:
    """Return the command that runs the engines."""
    return [
        "fake-engine",
        *("--ranks", str(cluster.ranks), "--hardware", cluster.hardware),
        *("--slots", str(cluster.slots), "--budget", str(cluster.budget)),
        *("--ports", ",".join(map(str, ports))),
    ]
