"""How soon requests that are held get to a worker when the picker is killed, or frozen.

Fake engines have more slots than the picker believes: those are full, further requests are held,
and each gets its first token as soon as Envoy sends it on by itself. So what is printed has the
engine's own time to the first token in it. All running streams must end whole:

    python -m benchmarks.bench_release --held 64 --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._table import show
from brsolver.errors import BrsolverError
from integration.bench.workload import Workload, random_prompts
from integration.serve.comparison import POOLED, Cluster
from integration.serve.demo import Engines, FrontDoor, settings
from integration.serve.processes import fetch
from integration.serve.traffic import Fate, TrafficParams, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from integration.serve.traffic import Reply

ENGINES = Cluster(ranks=4, slots=64, budget=4096, concurrency=1)
SLOTS = 4
"""Of each worker, as the picker believes."""
PROMPT, ANSWER = 64, 4
EVENTS = {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP}
DOORS = ("ext_authz", "ext_proc")
LOOK_S = 0.05
PATIENCE_S = 120.0
TOO_LATE, BAD_INPUT = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round showed.

    Attributes
    ----------
    released_s : ndarray, shape (N,)
        From the event to the first token of each request that was held.
    back_s : float
        Until another picker answered.
    """

    released_s: np.ndarray
    back_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a row for each door and event; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench_release", description=__doc__)
    parser.add_argument("--held", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--running-tokens", type=int, default=600)
    options = parser.parse_args(arguments)
    try:
        rows = _rows(options)
    except (BrsolverError, TimeoutError) as error:
        sys.stderr.write(f"bench_release: error: {' '.join(str(error).split())}\n")
        return TOO_LATE if isinstance(error, TimeoutError) else BAD_INPUT
    show(
        f"{options.held} held, {ENGINES.ranks * SLOTS} running, {options.rounds} rounds: seconds "
        "from the event to the first token",
        ("door", "picker is", "requests", "P50", "P99", "last", "another picker after"),
        rows,
    )
    return 0


def _rows(options: argparse.Namespace) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder, Engines(ENGINES) as engines:
        for door in DOORS:
            config = Path(folder) / f"{door}.toml"
            believed = replace(ENGINES, slots=SLOTS)
            text = settings(engines.addresses, POOLED, believed)
            config.write_text(f'{text}[picker]\ndoor = "{door}"\n', encoding="utf-8")
            with FrontDoor(config) as front:
                for event in EVENTS:
                    found = [
                        asyncio.run(_round(front, event, options.held, options.running_tokens))
                        for _ in range(options.rounds)
                    ]
                    rows.append((door, event, options.held * options.rounds, *_figures(found)))
    return rows


def _figures(rounds: Sequence[Round]) -> tuple[float, ...]:
    all_s = np.concatenate([each.released_s for each in rounds])
    return (
        float(np.quantile(all_s, 0.5)),
        float(np.quantile(all_s, 0.99)),
        float(all_s.max()),
        max(each.back_s for each in rounds),
    )


async def _round(front: FrontDoor, event: str, held: int, tokens: int) -> Round:
    await _until(front, "all had ended", lambda audit: not audit["reserved"] and not audit["held"])
    full = ENGINES.ranks * SLOTS
    running = asyncio.ensure_future(_ask(front, full, tokens))
    await _until(front, f"{full} ran", lambda audit: audit["started"] == full)
    waiting = asyncio.ensure_future(_ask(front, held, ANSWER))
    await _until(front, f"{held} were held", lambda audit: audit["held"] == held)
    picker = _picker(front)
    began_s = time.monotonic()
    os.kill(picker, EVENTS[event])
    back_s = await _another(front, picker) - began_s
    replies = await waiting
    for reply in [*replies, *await running]:
        if reply.fate is not Fate.COMPLETE:
            raise BrsolverError(f"a request was {reply.fate}: {reply.why}")
    return Round(released_s=np.array([r.first_s - began_s for r in replies]), back_s=back_s)


async def _ask(front: FrontDoor, count: int, tokens: int) -> list[Reply]:
    prompts = random_prompts(np.random.default_rng(0), np.full(count, PROMPT))
    workload = Workload(prompts=prompts, output_tokens=np.full(count, tokens), trace=None)
    return await send(TrafficParams(url=front.url, concurrency=count), workload)


async def _until(front: FrontDoor, what: str, holds: Callable[[dict[str, Any]], bool]) -> float:
    """Wait until the audit is as it should be; return when it was."""
    async with _patience(what):
        while True:
            # A picker that is just coming back does not answer yet, and a frozen one not at all.
            with contextlib.suppress(OSError):
                text = await asyncio.to_thread(fetch, f"{front.page}/admin/audit", 1.0)
                if holds(json.loads(text)):
                    return time.monotonic()
            await asyncio.sleep(LOOK_S)


async def _another(front: FrontDoor, before: int) -> float:
    what = "another picker was there"
    async with _patience(what):
        while await asyncio.to_thread(_picker, front) in {0, before}:
            await asyncio.sleep(LOOK_S)
    return await _until(front, what, lambda _: True)


@contextlib.asynccontextmanager
async def _patience(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        raise TimeoutError(f"it took more than {PATIENCE_S:g} s until {what}") from None


def _picker(front: FrontDoor) -> int:
    """Return the picker's process; 0 if there is none at the moment."""
    listed = subprocess.run(
        ["/bin/ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        pid, parent, command = line.split(None, 2)
        if int(parent) == front.pid and "integration.serve.child" in command:
            return int(pid)
    return 0


if __name__ == "__main__":
    sys.exit(main())
