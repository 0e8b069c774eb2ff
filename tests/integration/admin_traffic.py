"""A real core with traffic on a clock of its own, which needs no engines and no time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from integration.admin.replay import Replay, Replayed
from integration.picker.asks import Ask
from integration.picker.params import PickerParams, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 4


def specs(workers: int = WORKERS) -> list[WorkerSpec]:
    return [WorkerSpec(name=f"rank {g}", address=f"10.0.0.{g + 1}:8000") for g in range(workers)]


def served(workers: int = WORKERS, **fields) -> Replay:
    """Return a core that serves by itself whatever it is fed."""
    told = {"slots": 16, "hardware": "minimax-m2.7-h200-dp4", **fields}
    params = PickerParams(**told)
    return Replay(params, specs(workers), start_s=50.0, window_s=3_600.0, folder=Path())


def traffic(
    requests: int, *, per_second: float, seed: int = 0, longest: int = 200, start_s: float = 50.0
) -> list[Replayed]:
    """Draw requests with prompts and outputs of very different lengths."""
    rng = np.random.default_rng(seed)
    times = start_s + np.cumsum(rng.exponential(1 / per_second, requests))
    prompts = np.clip(rng.lognormal(6.0, 1.2, requests), 1, 20_000).astype(int)
    outputs = np.clip(rng.lognormal(3.8, 0.8, requests), 1, longest).astype(int)
    return [
        Replayed(ask=Ask(f"r{i}", int(p), longest), at_s=float(t), output_tokens=int(o))
        for i, (t, p, o) in enumerate(zip(times, prompts, outputs, strict=True))
    ]


def play(replay: Replay, requests: list[Replayed], between: Callable[[], object] = lambda: None):
    """Let a core serve all of them; `between` is called after every moment."""
    for each in requests:
        replay.feed(each)
    while replay.next_s < float("inf"):
        replay.live_on()
        between()
