"""A miniature of everything that happens while serving, so that nothing compiles then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from brsolver.forecasting import Forecaster
from brsolver.policy import Waiting
from integration.vllm.requests import Request
from integration.vllm.router import Router, add_others

if TYPE_CHECKING:
    from integration.vllm.config import AdapterConfig

RANKS = 2
SLOTS = 4


def run(config: AdapterConfig) -> None:
    """Route, report and finish a few requests."""
    router = Router(config, ranks=RANKS, slots=SLOTS, capacity=1000)
    for immediate in (True, False):
        _fill(router, immediate=immediate)
        _begin_anew(router)
        _decode(router, steps=3)
        router.books.release(_names())
        # Whoever learns has now something to learn from, and forecasts differently with it.
        router.books.step += config.params.refresh_steps
        router.refresh()
    router.fits(1)
    add_others(router._table, router.books.others, False)  # noqa: SLF001 # its own miniature


def _begin_anew(router: Router) -> None:
    """Forecast as who has learnt something and has not been asked anything yet.

    Such is a router that takes over while serving.
    """
    if router.forecaster is not None:
        fresh = Forecaster(
            router.forecaster.predictor,
            horizon=router.horizon,
            refresh_steps=1,
            columns=router.books.columns,
        )
        fresh.update(router.books.state, router.books.take_admitted(), 0)


def _fill(router: Router, *, immediate: bool) -> None:
    for round_ in range(3):
        waiting = [Request(f"{round_}.{i}", 3 + i, 8, 0.0) for i in range(1 if immediate else 3)]
        for request in waiting:
            router.books.identify(request)
        queue = Waiting(
            np.array([request.prompt_tokens for request in waiting], np.int64),
            np.array([request.identity for request in waiting], np.int64),
            np.zeros(len(waiting), np.int64),
        )
        router.room(immediate=immediate)
        for at, rank in router.place(queue, 0.0, immediate=immediate):
            router.books.charge(waiting[at], rank)


def _decode(router: Router, *, steps: int) -> None:
    for step in range(steps):
        for rank in range(RANKS):
            router.books.report(rank)
        ends = 0 if step == steps - 1 else None
        router.books.progress(
            SimpleNamespace(
                request_id=name,
                new_token_ids=[1],
                finish_reason=ends,
                events=None,
                prefill_stats=None,
            )
            for name in _names()
        )
        router.refresh()


def _names() -> list[str]:
    return [f"{round_}.{i}" for round_ in range(3) for i in range(3)]
