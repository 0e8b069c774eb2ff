"""What forecasts are worth to the router: BR-H with each, between BR-0 and the oracle."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.simulator import SimulationParams, simulate
from brsolver.stand_ins import as_predictor
from classifiers.evaluation.candidates import ORACLE
from classifiers.oracle import OraclePredictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from brsolver.predictors import BasePredictor, Predictor
    from brsolver.traces.trace import Trace

WORKERS = (8, 16)
PROJECTIONS = ("expected", "survival")
NO_FORECAST = "br-0"
START_SHIFT = 1
# A gap below this share of BR-0's figure is within what a shift by one request moves it.
_LEAST_GAP = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One router with one predictor on one cluster size.

    Attributes
    ----------
    kind : str
        The predictor; ``br-0`` for the router that uses none.
    workers : int
    projection : str
        BR-H's; empty for BR-0.
    imbalance : float
        Mean of ``G·M - Σ L`` over the steps before the last admission, in KV tokens.
    throughput : float
        Tokens per second over the same steps.
    imbalance_spread, throughput_spread : float
        Standard deviation over the starts; NaN for one.
    share_imbalance, share_throughput : float or None
        Share of the way from BR-0 to the oracle, ``(BR-0 - this)/(BR-0 - oracle)``: 0 is no
        better than without forecasts, negative is worse, 1 is as good as knowing. None where
        the oracle is not better than BR-0 by half a percent, so that there is no way to go.
    """

    kind: str
    workers: int
    projection: str
    imbalance: float
    throughput: float
    imbalance_spread: float
    throughput_spread: float
    share_imbalance: float | None = None
    share_throughput: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def gap_share(
    value: float, below: float, above: float, *, lower_is_better: bool, noise: float = 0.0
) -> float | None:
    """Return the share of the way from `below` to `above` that `value` is.

    Parameters
    ----------
    value, below, above : float
        Figures of the predictor, of BR-0 and of the oracle.
    lower_is_better : bool
        As for imbalance.
    noise : float
        How far runs of the same differ.

    Returns
    -------
    float or None
        None where `above` is not better than `below` by half a percent and by more than `noise`.
    """
    gap = below - above if lower_is_better else above - below
    if not gap >= max(_LEAST_GAP * abs(below), noise):
        return None
    return (below - value if lower_is_better else value - below) / gap


def decision_values(
    trace: Trace,
    predictors: Mapping[str, Predictor],
    *,
    horizon: int,
    params: SimulationParams | None = None,
    workers: Sequence[int] = WORKERS,
    projections: Sequence[str] = PROJECTIONS,
    starts: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Value, ...]:
    """Route a trace with each predictor, without any, and with the truth.

    Parameters
    ----------
    trace : Trace
        Requests that none of the predictors has seen.
    predictors : mapping of str to Predictor
        Every run starts from a copy.
    horizon : int
        BR-H's steps H.
    params : SimulationParams, optional
        Everything else about the runs.
    workers : sequence of int
        Values of G.
    projections : sequence of str
        BR-H's ways to use a forecast.
    starts : int
        Runs per figure, each beginning one request later, which is enough to make another
        packing of them; figures are their means.
    progress : callable, optional
        Called with (runs done, all runs).
    """
    params = params or SimulationParams()
    traces = [trace.after(shift * START_SHIFT) for shift in range(starts)]
    known = {kind: as_predictor(predictor) for kind, predictor in predictors.items()}
    plans = list(_plans(known, horizon, workers, projections))
    values = []
    for done, (kind, count, projection, policy) in enumerate(plans, start=1):
        sized = replace(params, workers=count)
        figures = [_run(each, policy, sized, known.get(kind), kind) for each in traces]
        values.append(_value(kind, count, projection, np.array(figures)))
        if progress is not None:
            progress(done, len(plans))
    return tuple(_placed(value, values) for value in values)


def _plans(
    predictors: Mapping[str, BasePredictor],
    horizon: int,
    workers: Sequence[int],
    projections: Sequence[str],
) -> Iterator[tuple[str, int, str, str]]:
    for count in workers:
        yield NO_FORECAST, count, "", NO_FORECAST
        # True ends are certain: both projections of them are the same.
        yield ORACLE, count, "", f"br-h:horizon={horizon}"
        for projection in projections:
            for kind, predictor in predictors.items():
                if projection == "expected" or predictor.has_survival:
                    policy = f"br-h:horizon={horizon},projection={projection}"
                    yield kind, count, projection, policy


def _run(
    trace: Trace, policy: str, params: SimulationParams, predictor: BasePredictor | None, kind: str
) -> tuple[float, float]:
    if kind == ORACLE:
        predictor = OraclePredictor(output_tokens=trace.output_tokens)
    metrics = simulate(trace, policy, params, predictor=copy.deepcopy(predictor)).metrics
    return metrics.avg_imbalance_sum, metrics.throughput_tok_s


def _value(kind: str, workers: int, projection: str, figures: np.ndarray) -> Value:
    mean = figures.mean(axis=0)
    spread = figures.std(axis=0, ddof=1) if len(figures) > 1 else np.full(2, np.nan)
    return Value(
        kind=kind,
        workers=workers,
        projection=projection,
        imbalance=float(mean[0]),
        throughput=float(mean[1]),
        imbalance_spread=float(spread[0]),
        throughput_spread=float(spread[1]),
    )


def _placed(value: Value, values: Sequence[Value]) -> Value:
    """Say how far from BR-0 to the oracle a value lies."""
    ends = {each.kind: each for each in values if each.workers == value.workers}
    below, above = ends[NO_FORECAST], ends[ORACLE]
    return replace(
        value,
        share_imbalance=gap_share(
            value.imbalance,
            below.imbalance,
            above.imbalance,
            lower_is_better=True,
            noise=float(np.nansum([below.imbalance_spread, above.imbalance_spread])),
        ),
        share_throughput=gap_share(
            value.throughput,
            below.throughput,
            above.throughput,
            lower_is_better=False,
            noise=float(np.nansum([below.throughput_spread, above.throughput_spread])),
        ),
    )
