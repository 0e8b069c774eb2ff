"""Stale forecasts, believed and under guard: the drift figures of docs/classifiers.md.

Run ``python -m benchmarks.bench_drift [--seeds N]``. Output lengths double half-way through 6,000
requests, and Survival has learnt from the first fifth and learns no more. Figures are means over
seeds of BR-H's mean imbalance over BR-0's.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._table import show
from brsolver import SimulationParams, Trace, simulate
from brsolver.hardware.model import step_time_of
from brsolver.predictors import BasePredictor
from classifiers.guard import GuardedPredictor
from classifiers.survival import SurvivalParams, SurvivalPredictor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.predictors import FloatArray, Forecast, ForecastQuery, Predictor

REQUESTS, CHANGE, MEAN_OUTPUT = 6000, 3000, 150
PARAMS = SimulationParams(workers=8, slots=64, step_time=step_time_of("bfio"))
POLICIES = ("br-h:projection=expected,gamma=0.86", "br-h")


class Frozen(BasePredictor):
    """Survival as learned from the first fifth of a trace, and never again."""

    def __init__(self, trace: Trace) -> None:
        self._learned = SurvivalPredictor(SurvivalParams(train=0.2), trace=trace)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast; see `brsolver.predictors.BasePredictor`."""
        return self._learned.predict(query, horizon)

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Forecast whole curves; see `brsolver.predictors.BasePredictor`."""
        return self._learned.survival(query, horizon)


def doubling_trace(seed: int) -> Trace:
    """Return requests whose outputs, gamma distributed, double half-way."""
    rng = np.random.default_rng(seed)
    outputs = rng.gamma(4, MEAN_OUTPUT / 4, REQUESTS).astype(np.int64) + 1
    outputs[CHANGE:] *= 2
    return Trace(prompt_tokens=rng.integers(50, 4000, REQUESTS), output_tokens=outputs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables; arguments None are those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    traces = [doubling_trace(seed) for seed in range(parser.parse_args(arguments).seeds)]
    without = np.array([_imbalance(trace, "br-0", None) for trace in traces])
    rows, guards = [], []
    for policy in POLICIES:
        guards = [GuardedPredictor(Frozen(trace)) for trace in traces]
        for label, predictors in (
            ("frozen, believed", [Frozen(trace) for trace in traces]),
            ("frozen, under guard", guards),
            ("online", ["survival"] * len(traces)),
        ):
            pairs = zip(traces, predictors, strict=True)
            ratios = np.array([_imbalance(t, policy, p) for t, p in pairs]) / without
            rows.append((policy, label, *_spread(ratios)))
        _show_switches(policy, guards)
    show(
        f"Imbalance over BR-0's, lengths double half-way, {len(traces)} seeds",
        ("policy", "Survival", "mean", "lowest", "highest"),
        rows,
    )


def _imbalance(trace: Trace, policy: str, predictor: Predictor | str | None) -> float:
    return simulate(trace, policy, PARAMS, predictor=predictor).metrics.avg_imbalance_sum


def _spread(ratios: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{value:.3f}" for value in (ratios.mean(), ratios.min(), ratios.max()))


def _show_switches(policy: str, guards: Sequence[GuardedPredictor]) -> None:
    show(
        f"Changes of trust under guard, {policy}: trust (finished requests)",
        ("seed", "changes"),
        [
            (seed, ", ".join(f"{each.after:g} ({each.finished:,})" for each in guard.switches))
            for seed, guard in enumerate(guards)
        ],
    )


if __name__ == "__main__":
    main()
