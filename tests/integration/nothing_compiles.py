"""Serves in every way, in a process of its own, and prints what was compiled meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fake_vllm import Deployment
from numba.core.dispatcher import Dispatcher

from integration.vllm.config import MODE, PREDICTOR, ROUTER, from_environment
from integration.vllm.reload import switch
from integration.vllm.router import compile_all, parts_of

if TYPE_CHECKING:
    from integration.vllm.config import AdapterConfig

SLOTS, STEPS = 4, 80
HARDWARE = "minimax-m2.7-h200-dp4"
FOLDER = tempfile.TemporaryDirectory()


def compiled() -> set[tuple[str, str, str]]:
    """Module, name and argument types of everything that has been compiled or loaded."""
    return {
        (each.py_func.__module__, each.py_func.__name__, str(signature))
        for each in gc.get_objects()
        if isinstance(each, Dispatcher)
        for signature in each.signatures
    }


def file_for(policy: str) -> str:
    """A file that names a policy, and what a step costs."""
    path = Path(FOLDER.name) / "router.toml"
    path.write_text(f'policy = "{policy}"\nhardware = "{HARDWARE}"\n')
    return str(path)


def config(policy: str, mode: str, predictor: str) -> AdapterConfig:
    environ = {ROUTER: file_for(policy), MODE: mode, PREDICTOR: predictor}
    found = from_environment(environ)
    assert found is not None
    return found


class Traffic:
    """Requests that come, grow and end at ranks of few slots."""

    def __init__(self, policy: str, mode: str, predictor: str) -> None:
        environ = {PREDICTOR: predictor}
        self.d = Deployment(
            file_for(policy), mode, slots=SLOTS, capacity=400, budget=32, environ=environ
        )
        assert self.d.session.costs
        self.serial = 0

    async def go_on(self, steps: int, **fields: object) -> None:
        d = self.d
        for step in range(steps):
            for _ in range(2):
                self.serial += 1
                await d.add(str(self.serial), 10 + self.serial % 50, **fields)
            await d.settle()
            for rank in (0, 1):
                here = [
                    n for n, at in d.sent().items() if at == rank and n in d.client.reqs_in_flight
                ]
                ended = set(here[:1]) if step % 3 else None
                await d.report(rank, dict.fromkeys(here, 1), ended)
            await d.settle()


async def serve(policy: str, mode: str, predictor: str) -> None:
    first = Traffic(policy, mode, predictor)
    await first.go_on(STEPS)
    pinned = Traffic(policy, mode, predictor)
    await pinned.go_on(STEPS, data_parallel_rank=1)
    await pinned.go_on(STEPS)
    changed = Traffic("vllm", "observe", predictor)
    await changed.go_on(STEPS)
    switch(changed.d.adapter, config(policy, mode, predictor))
    await changed.go_on(STEPS)
    for each in (first, pinned, changed):
        assert each.d.adapter.failsafe.failures == 0, policy
        assert len(each.d.sent()) > STEPS


def main() -> None:
    policy, mode, predictor = sys.argv[1:]
    os.environ.pop(ROUTER, None)
    for each in (config(policy, mode, predictor), config("vllm", "observe", predictor)):
        compile_all(each, parts_of(each))
    before = compiled()
    assert before
    asyncio.run(serve(policy, mode, predictor))
    for each in sorted(compiled() - before):
        sys.stdout.write(" ".join(each) + "\n")


if __name__ == "__main__":
    main()
