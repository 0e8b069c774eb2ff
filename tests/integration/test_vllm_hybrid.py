"""Hybrid load balancing: each node's server routes among its own ranks, which others number."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from integration.bench.server import Server

pytestmark = pytest.mark.vllm

RANKS, PER_NODE = 4, 2
# How fast decisions are is not asked here, on machines that do much else meanwhile.
ROUTER = 'policy = "br-0"\nbudget_ms = 5000\n'


def node(first: int, port: int, folder: Path) -> Server:
    """One of two nodes of this machine, whose first rank is `first`."""
    from rig.servers import rig_server

    router = folder / "router.toml"
    router.write_text(ROUTER)
    return rig_server(
        router=str(router),
        ranks=RANKS,
        slots=4,
        kv_mib=64,
        max_model_len=500,
        log=folder / f"from-rank-{first}.log",
        arguments=(
            "--data-parallel-hybrid-lb",
            *("--data-parallel-size-local", str(PER_NODE)),
            *("--data-parallel-start-rank", str(first)),
            *("--data-parallel-address", "127.0.0.1"),
            *("--data-parallel-rpc-port", str(port)),
        ),
    )


def told(server: Server) -> list[str]:
    """What the adapter has said there."""
    return [line for line in server.log_text().splitlines() if "brsolver:" in line]


def test_the_second_nodes_ranks_are_told_apart_by_their_global_numbers(tmp_path: Path):
    from serving import await_figures, empty, mixed

    from integration.free_ports import free_port

    port = free_port()
    nodes = [node(first, port, tmp_path) for first in (0, PER_NODE)]
    with ExitStack() as running, ThreadPoolExecutor() as threads:
        # Neither answers before the other is there.
        for each in nodes:
            running.callback(each.close)
        list(threads.map(lambda each: each.__enter__(), nodes))
        second = nodes[1]
        assert sum(mixed(second, 24).values()) == 24
        found = await_figures(second, empty)
        assert empty(found), found
        assert found["brsolver_routed_requests_total"] > 0
        assert found["brsolver_kv_max_tokens_total"] > 0
        assert found.get("brsolver_fallbacks_total", 0) == 0, told(second)
        assert f"{PER_NODE} ranks of 4 sequences" in second.log_text()
