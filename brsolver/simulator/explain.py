"""What a policy did wrong, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.view import ROOM, TOKEN_ROOM, TOKENS

if TYPE_CHECKING:
    from brsolver.simulator.engine import Engine


def explain_stall(engine: Engine) -> str | None:
    """Say why a run in which nothing can happen any more is its policy's fault; None if not."""
    head, tail = engine.cursor["wait_head"].item(), engine.cursor["wait_tail"].item()
    if head == tail:
        return None
    limits = engine.state.view_table()
    smallest = engine.waiting[TOKENS, head:tail].min()
    fits = (limits[ROOM] > 0) & (limits[TOKEN_ROOM] >= smallest)
    if not fits.any():
        return None
    return (
        f"policy {engine.session.policy.label} at step {engine.step} leaves {tail - head} requests "
        f"waiting on an idle cluster, though worker {int(np.flatnonzero(fits)[0])} has room"
    )
