"""The constant ω of BR-H's discount γ = exp(-ω·λ): the figures of docs/formulation.md.

Run ``python -m benchmarks.bench_discount [FILE ...] [--starts N] [--each]``. Every trace is routed
at (G, B) = (8, 64), (16, 64) and (8, 16); two recipes of uniform lengths, two seeds each, in the
settings of the public [BFIO] simulator, both without their guard. A setting's figure is BR-H's
mean imbalance over BR-0's,
with true lengths and with online Survival.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._table import show
from brsolver import SimulationParams, load_trace, simulate
from brsolver.hardware.model import step_time_of
from brsolver.routers import BRH, BRHParams
from brsolver.routers._discounting import Turnover

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver import Policy, Trace

PRESETS = (
    "preset:uniform",
    "preset:proprietary-like:n=4000",
    "preset:azure2024-long-like:n=4000",
)
CLUSTERS = ((8, 64), (16, 64), (8, 16))
RECIPES = (
    *((f"preset:uniform:seed={s},n=2000,s_low=50,s_high=8000,o_low=10,o_high=900", 8, 32)
      for s in (1, 7)),
    *((f"preset:uniform:seed={s},n=3000,s_low=50,s_high=4000,o_low=10,o_high=400", 16, 72)
      for s in (1, 11)),
)  # fmt: skip
KAPPAS = (1.0, 1.5, 2.0, 3.0)
FIXED = 0.86
PREDICTORS = ("oracle", "survival")
LABELS = (*(f"ω = {kappa:g}" for kappa in KAPPAS), f"γ = {FIXED:g}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print means over settings; arguments None are those of the command line."""
    options = _options(arguments)
    sources = (*options.traces, *PRESETS)
    settings = [(source, *cluster) for source in sources for cluster in CLUSTERS] + [*RECIPES]
    ratios = np.array([_ratios(*setting, options.starts) for setting in settings])
    if options.each:
        _show_each(settings, ratios)
    given = len(options.traces) * len(CLUSTERS)
    if given:
        _show_means("settings of the files given", ratios[:given], options.starts)
    _show_means("settings", ratios, options.starts)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--starts", type=int, default=1, help="runs, each one request later")
    parser.add_argument("--each", action="store_true", help="print every setting, too")
    return parser.parse_args(arguments)


def _routers() -> list[Policy]:
    bare = BRHParams(guard=False)
    followed = [BRH(bare, turnover=Turnover(opportunities=kappa)) for kappa in KAPPAS]
    return [*followed, BRH(BRHParams(gamma=FIXED, guard=False))]


def _ratios(source: str, workers: int, slots: int, starts: int) -> np.ndarray:
    """Return imbalance over BR-0's, by router and predictor, both means over `starts` runs."""
    trace = load_trace(source)
    params = SimulationParams(workers=workers, slots=slots, step_time=step_time_of("bfio"))
    runs = np.array([_imbalances(trace.after(start), params) for start in range(starts)])
    mean = runs.mean(axis=0)
    return np.asarray(mean[1:].reshape(len(LABELS), -1) / mean[0])


def _imbalances(trace: Trace, params: SimulationParams) -> list[float]:
    """Return BR-0's mean imbalance, then each router's with each predictor."""
    plans: list[tuple[str | Policy, str | None]] = [("br-0:guard=false", None)]
    by_predictor = [_routers() for _ in PREDICTORS]
    for routers in zip(*by_predictor, strict=True):
        plans += zip(routers, PREDICTORS, strict=True)
    return [
        simulate(trace, policy, params, predictor=predictor).metrics.avg_imbalance_sum
        for policy, predictor in plans
    ]


def _show_each(settings: Sequence[tuple[str, int, int]], ratios: np.ndarray) -> None:
    show(
        "Imbalance over BR-0's (true lengths / Survival)",
        ("trace", "G", "B", *LABELS),
        [
            (load_trace(source).name, workers, slots, *(f"{o:.2f} / {s:.2f}" for o, s in row))
            for (source, workers, slots), row in zip(settings, ratios, strict=True)
        ],
    )


def _show_means(settings: str, ratios: np.ndarray, starts: int) -> None:
    means, worst = np.exp(np.log(ratios).mean(axis=0)), ratios.max(axis=0)
    show(
        f"Imbalance over BR-0's in {len(ratios)} {settings}, geometric mean and worst, "
        f"{starts} run(s) each",
        ("discount", "true lengths", "worst", "Survival", "worst"),
        [
            (label, *(f"{cell:.3f}" for pair in zip(mean, most, strict=True) for cell in pair))
            for label, mean, most in zip(LABELS, means, worst, strict=True)
        ],
    )


if __name__ == "__main__":
    main()
