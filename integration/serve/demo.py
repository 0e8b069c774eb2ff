"""``make demo-serve``: all of it on one machine, on engines that only pretend.

Fake engines step as the simulator's ranks do. The same requests are sent twice, routed by vLLM's
rule and by ``br-t`` with a pool, by the client of ``brsolver load``; the table says what each gave
and what the simulator foretells.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError
from integration.bench.workload import Workload, WorkloadParams, workloads
from integration.serve.comparison import (
    POOLED,
    VLLM,
    Arm,
    Cluster,
    as_table,
    foretold,
    gains_line,
    loaded,
)
from integration.serve.processes import Running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.load.driving import Drive

REQUESTS = 900
LEAST = 12
"""Requests of which figures can be had: some must be sent after the first has ended."""
TRACE = f"preset:uniform:n={REQUESTS},s_low=100,s_high=2500,o_low=20,o_high=160"
CLUSTER = Cluster(ranks=8, slots=24, budget=4096, concurrency=256)
ARMS = (VLLM, POOLED)
TAKES = "It takes two to three minutes; the first time it compiles, which takes another."
EVERY = 50
"""Answers between two signs of progress."""


class Engines(Running):
    """Fake engines, a port for each rank.

    Attributes
    ----------
    addresses : list of str
        ``host:port`` of each rank, known once they are up.
    together : str
        That of all of them.
    """

    def __init__(self, cluster: Cluster, *more: str) -> None:
        self.addresses: list[str] = []
        self.together = ""
        arguments = [
            "fake-engine",
            *("--ranks", str(cluster.ranks), "--hardware", cluster.hardware),
            *("--slots", str(cluster.slots), "--budget", str(cluster.budget)),
            *("--port", "0", "--ports-per-rank", "0", *more),
        ]
        super().__init__(arguments, ready=self._said)

    def _said(self, line: str) -> bool:
        url, _, what = line.partition(" ")
        if what.startswith("rank "):
            self.addresses.append(url.removeprefix("http://"))
        elif what.startswith("all "):
            self.together = url.removeprefix("http://")
        return line == "ready"


class FrontDoor(Running):
    """``brsolver serve``.

    Attributes
    ----------
    url, page : str
        Where clients come in, and the admin listener; known once it is up.
    """

    def __init__(self, config: Path, *more: str) -> None:
        self.url = self.page = ""
        super().__init__(["serve", "--config", str(config), *more], ready=self._said)

    def _said(self, line: str) -> bool:
        if line.startswith("serving on "):
            self.url = line.split()[2].rstrip("/")
        if line.startswith("page on "):
            self.page = line.split()[2].rstrip("/")
        return line == "ready"


def settings(addresses: Sequence[str], arm: Arm, cluster: Cluster) -> str:
    """Return a ``serve.toml`` for engines on this machine; all ports are free ones."""
    listed = ", ".join(f'"{address}"' for address in addresses)
    return "\n".join(
        [
            "[listen]",
            "port = 0",
            "[admin]",
            "port = 0",
            "[workers]",
            f"addresses = [{listed}]",
            "[router]",
            f'policy = "{arm.policy}"',
            f'mode = "{arm.mode}"',
            f'hardware = "{cluster.hardware}"',
            f"slots = {cluster.slots}",
            f"budget = {cluster.budget}",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration and print its table; return the exit status."""
    requests = _requests(arguments)
    workload = workloads(WorkloadParams(trace=TRACE, requests=requests, max_tokens=8192), 1)[0]
    # Clients that come again when they are answered, most of them more than once.
    cluster = replace(CLUSTER, concurrency=min(CLUSTER.concurrency, requests // 3))
    _say(
        f"{cluster.ranks} fake ranks of {cluster.hardware}, {cluster.slots} slots each, and a door"
    )
    _say(f"before them. {TAKES if requests == REQUESTS else ''}".rstrip())
    rows: dict[str, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="brsolver-demo-") as folder,
        Engines(cluster) as engines,
    ):
        for turn, arm in enumerate(ARMS, 1):
            _say(f"{turn} of {len(ARMS)}, {arm.name}: {len(workload)} requests")
            rows[arm.name] = run_arm(arm, cluster, engines.addresses, workload, Path(folder))
    for arm in ARMS:
        rows[f"{arm.name} (simulated)"] = foretold(workload.trace, arm, cluster)
    sys.stdout.write(f"\n{as_table(rows)}\n\n{_verdict(rows)}\n")
    return 0


def _requests(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="demo-serve", description=__doc__)
    parser.add_argument(
        "--requests", type=int, default=REQUESTS, help=f"sent to each policy ({REQUESTS})"
    )
    requests: int = parser.parse_args(arguments).requests
    if not LEAST <= requests <= REQUESTS:
        parser.error(f"--requests is {requests}, must be {LEAST} to {REQUESTS}")
    return requests


def run_arm(
    arm: Arm, cluster: Cluster, addresses: Sequence[str], workload: Workload, folder: Path
) -> dict[str, float]:
    """Serve the workload under one policy; return its figures.

    Raises
    ------
    BrsolverError
        An answer was not complete.
    """
    config = folder / f"{arm.mode}.toml"
    config.write_text(settings(addresses, arm, cluster), encoding="utf-8")
    with FrontDoor(config) as door:
        _say(f"  {cluster.concurrency} in flight; page for as long as they run: {door.page}/")
        return loaded(door.url, workload.trace, cluster.concurrency, progress=_Progress())


def _verdict(rows: dict[str, dict[str, float]]) -> str:
    real = gains_line(rows[POOLED.name], rows[VLLM.name])
    simulated = gains_line(rows[f"{POOLED.name} (simulated)"], rows[f"{VLLM.name} (simulated)"])
    heads = f"{POOLED.name}, has beside {VLLM.name}:", "the simulator foretold:"
    width = max(map(len, heads))
    return (
        f"{heads[0]:{width}} {real}\n{heads[1]:{width}} {simulated}\n"
        "Other work on this machine makes the first line less. Before engines of your own: "
        "brsolver serve (docs/serve.md)"
    )


class _Progress:
    def __init__(self) -> None:
        self._said = 0

    def __call__(self, drive: Drive) -> None:
        done = len(drive.replies)
        if done - self._said >= EVERY and sys.stderr.isatty():
            self._said = done
            _say(f"  {done} of {drive.total} answered")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrsolverError as error:
        sys.stderr.write(f"demo-serve: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
