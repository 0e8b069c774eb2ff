"""One simulation of a reproduction: what is asked for, and the figures kept of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.reproduce._policies import POLICIES
from brsolver import SimulationParams, load_trace, simulate
from brsolver.campaign import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from brsolver import Trace
    from brsolver.results.logs import StepLog

Row = dict[str, Any]

METRICS = (
    "avg_imbalance_range", "avg_imbalance_sum", "avg_imbalance_sum_post", "idle_rate",
    "idle_rate_post", "throughput_tok_s", "tpot_mean_s", "tpot_p95_s", "energy_j_post",
    "slot_utilization", "makespan_s", "max_wait_s", "steps",
)  # fmt: skip
ASKED = "asked"
"""Column of a digest of all that a row's figures follow from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A simulation.

    Attributes
    ----------
    trace : str
        A preset's specification, or the name of a trace that the campaign's cells share.
    requests : int
        How many of a shared trace's requests are drawn, with replacement, as in the public code
        of [BFIO]; of a preset, which is drawn anew, how many there are.
    policy : str
        A specification, or one of `POLICIES`.
    predictor : str or None
    params : SimulationParams
        Its seed draws the trace, too.
    """

    trace: str
    requests: int
    policy: str
    params: SimulationParams
    predictor: str | None = None

    @property
    def digest(self) -> str:
        """Return a short text that differs where any of it differs."""
        facts = [self.trace, self.requests, self.policy, self.predictor, self.params.to_dict()]
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def cell(self, **key: Any) -> Cell:
        """Return it as a campaign's cell, told from others by `key` and its seed."""
        return Cell(key={**key, "seed": self.params.seed, ASKED: self.digest}, task=self)

    def draw(self, shared: Mapping[str, Any]) -> Trace:
        """Return the trace."""
        if self.trace not in shared:
            text = f"{self.trace}{',' if ':' in self.trace else ':'}"
            return load_trace(f"preset:{text}n={self.requests},seed={self.params.seed}")
        whole: Trace = shared[self.trace]
        rng = np.random.default_rng(self.params.seed)
        rows = rng.choice(len(whole), size=self.requests)
        return replace(whole, arrival_s=None).take(rows)


def simulated(asked: Asked, shared: Mapping[str, Any]) -> dict[str, float]:
    """Simulate; returns `METRICS`, and sums over the window of averages and over the whole run."""
    trace = asked.draw(shared)
    policy = POLICIES[asked.policy]() if asked.policy in POLICIES else asked.policy
    result = simulate(trace, policy, asked.params, predictor=asked.predictor)
    metrics = result.metrics
    window = slice(metrics.window_first, metrics.window_end)
    return {
        **{name: float(getattr(metrics, name)) for name in METRICS},
        **_sums(result.steps, window, "window"),
        **_sums(result.steps, slice(None), "whole"),
    }


def _sums(steps: StepLog, part: slice, name: str) -> dict[str, float]:
    count = len(steps.duration_s[part])
    return {
        f"{name}_steps": float(count),
        f"{name}_tokens": float(steps.active[part].sum()),
        f"{name}_max": float(steps.load_max[part].sum()),
        f"{name}_mean": float((steps.load_sum[part] / steps.alive[part]).sum()),
        f"{name}_seconds": float(steps.duration_s[part].sum()),
    }


def tokens_s(
    base: float = 0.0, per_token: float = 0.0, per_mean_token: float = 0.0, part: str = "window"
) -> Callable[[Row], float]:
    """Return a row's tokens per second under another step time.

    A step lasts ``base + per_token·max_g L_g + per_mean_token·mean_g L_g``. That is what a run
    under this step time would have only where time decides nothing: where requests come as the
    pool is filled, or by steps, and policies do not look at seconds.
    """

    def of(row: Row) -> float:
        seconds = (
            base * row[f"{part}_steps"]
            + per_token * row[f"{part}_max"]
            + per_mean_token * row[f"{part}_mean"]
        )
        return float(row[f"{part}_tokens"] / seconds)

    return of


def measured_tokens_s(row: Row) -> float:
    """Return the tokens of the whole run over its duration, idle seconds included."""
    return float(row["whole_tokens"] / row["makespan_s"])
