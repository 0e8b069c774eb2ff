"""What a policy did wrong, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.policy import ROOM, TOKEN_ROOM
from brsolver.simulator import _layout as lay
from brsolver.simulator.checks import name_of

if TYPE_CHECKING:
    from brsolver.simulator.engine import Engine


def explain_fault(engine: Engine, found: int, at: int, worker: int) -> str:
    """Say why a decision cannot be carried out.

    Parameters
    ----------
    engine : Engine
        The run, as it was when its policy decided.
    found : int
        What is wrong, as `brsolver.simulator._decision_kernels.apply` codes it.
    at, worker : int
        Index into the waiting requests and worker of the pair that is wrong.
    """
    where = f"{name_of(engine.policy)} at step {engine.step}"
    head = int(engine.control[lay.C_WAIT_HEAD])
    waiting = int(engine.control[lay.C_WAIT_TAIL]) - head
    inside = 0 <= at < waiting
    request = int(engine.book[lay.B_WAITING, head + at]) if inside else -1
    return {
        lay.BAD_INDEX: f"{where} named waiting request {at}, there are {waiting}",
        lay.TWICE: f"{where} placed waiting request {at} twice",
        lay.BAD_WORKER: f"{where} chose worker {worker}, which is not there",
        lay.NO_SLOT: (
            f"{where} gave worker {worker} more requests than it has free slots, "
            f"with request {request}"
        ),
        lay.NO_TOKENS: (
            f"{where} gave worker {worker} more KV tokens than its capacity, with request {request}"
        ),
    }[found]


def explain_stall(engine: Engine) -> str | None:
    """Say why a run in which nothing can happen any more is its policy's fault; None if not."""
    head, tail = engine.control[lay.C_WAIT_HEAD], engine.control[lay.C_WAIT_TAIL]
    if head == tail:
        return None
    room = engine.state.view_table()
    tokens = engine.book[lay.B_WAITING_TOKENS, head]
    fits = np.flatnonzero((room[ROOM] > 0) & (room[TOKEN_ROOM] >= tokens))
    if fits.size == 0:
        return None
    return (
        f"{name_of(engine.policy)} leaves {tail - head} requests waiting on an idle cluster "
        f"at step {engine.step}, though worker {int(fits[0])} has room"
    )
