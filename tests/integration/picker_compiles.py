"""Drives a picker's core in every way, in a process of its own, and prints what was compiled."""

from __future__ import annotations

import gc
import sys

from numba.core.dispatcher import Dispatcher
from picking import Picking, spec

from integration.picker import End, Gauges, Usage


def compiled() -> set[tuple[str, str, str]]:
    """Module, name and argument types of everything that has been compiled or loaded."""
    return {
        (each.py_func.__module__, each.py_func.__name__, str(signature))
        for each in gc.get_objects()
        if isinstance(each, Dispatcher)
        for signature in each.signatures
    }


def drive(p: Picking) -> None:
    """Let requests of all kinds come, move, end and be held, and workers come and go."""
    core = p.core
    for turn in range(60):
        name = f"r{turn}"
        p.request(name, 5 + turn % 40, blocks=(turn % 3, 7), sequences=1 + (turn % 7 == 0))
        p.run(0.05)
        live = [n for n, answers in p.answers.items() if answers and n in core._books.known]
        for each in live:
            core.started(each, core._books.known[each].worker)
        if turn % 5 == 0 and live:
            core.first_token(live[-1])
        core.told(turn % 2, Gauges(running=turn % 3, kv_usage=0.3, steps=10 * turn))
        if turn == 20:
            core.add_worker(spec(9))
        if turn == 30:
            core.retire(2)
        if turn == 35:
            core.down(1)
        if turn == 40:
            core.up(1)
            core._driver._begin_anew(ValueError("broken"), p.clock.now)
        if turn % 3 and live:
            core.ended(live[0], End.FINISHED, Usage(10, 5))
    for name in list(core._books.known):
        core.ended(name, End.RESET)
    p.run(0.5)


def main(policy: str, mode: str, predictor: str) -> None:
    p = Picking(
        policy=policy, mode=mode, predictor=predictor, slots=3, capacity=300, refresh_steps=8
    )
    before = compiled()
    drive(p)
    for module, name, signature in sorted(compiled() - before):
        sys.stdout.write(f"{module} {name} {signature}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
