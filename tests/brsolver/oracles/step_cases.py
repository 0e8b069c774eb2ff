"""Small random routing decisions, and their optima by trying everything."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import strategies as st

from brsolver.cluster.view import NO_LIMIT
from brsolver.oracles.step import Objective, StepInstance, objective_value, violation


@st.composite
def instances(
    draw: st.DrawFn, *, workers: int = 3, requests: int = 7, tokens: bool = True
) -> StepInstance:
    """Draw a decision: integer loads, repeated lengths, with and without growth and holding."""
    count = draw(st.integers(1, workers))
    steps = draw(st.integers(1, 5))
    length = st.integers(1, draw(st.sampled_from([3, 40, 5000])))
    waiting = draw(st.lists(length, min_size=1, max_size=requests))
    row = st.lists(st.integers(0, 3000), min_size=steps, max_size=steps)
    room = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    limited = tokens and draw(st.booleans())
    limit = st.integers(0, sum(waiting)) if limited else st.just(NO_LIMIT)
    each = draw(st.sampled_from([0, 0, 9, 1500]))
    return StepInstance(
        projected=np.array(draw(st.lists(row, min_size=count, max_size=count))),
        room=np.array(room),
        token_room=np.array(draw(st.lists(limit, min_size=count, max_size=count))),
        prompts=np.array(waiting) + each,
        weights=np.array(draw(st.lists(st.integers(1, 50), min_size=steps, max_size=steps))),
        alpha=draw(st.integers(1, 3)),
        beta=draw(st.integers(0, 9)),
        growth=draw(st.integers(0, 1)),
        admit=draw(st.sampled_from([None, min(len(waiting), sum(room))])),
        request_tokens=each,
    )


def brute_force(instance: StepInstance, objective: Objective) -> int | None:
    """Return the optimum over every assignment, None if none is possible."""
    choices = product(range(-1, instance.workers), repeat=instance.prompts.size)
    values = [
        objective_value(instance, choice, objective)
        for choice in choices
        if not violation(instance, choice)
    ]
    if not values:
        return None
    return max(values) if objective == "score" else min(values)


def random_instance(seed: int, workers: int, waiting: int, free: int, horizon: int) -> StepInstance:
    """Return a decision of realistic shape: lognormal prompts, decaying loads."""
    rng = np.random.default_rng(seed)
    prompts = np.minimum(rng.lognormal(6.5, 1.2, waiting).astype(np.int64) + 1, 16000)
    loads = rng.normal(90_000, 3000, workers).astype(np.int64)
    ended = rng.exponential(600, (workers, horizon)) * (rng.random((workers, horizon)) < 0.4)
    fallen = np.cumsum(ended.astype(np.int64), axis=1)
    projected = np.concatenate((loads[:, None], np.maximum(loads[:, None] - fallen, 0)), axis=1)
    return StepInstance(
        projected=projected,
        room=np.bincount(rng.integers(0, workers, free), minlength=workers),
        token_room=np.full(workers, NO_LIMIT),
        prompts=prompts,
        weights=np.rint(1000 * 0.86 ** np.arange(horizon + 1)).astype(np.int64) + 1,
        beta=workers,
        admit=min(waiting, free),
    )
