"""What is tuned for, and the figures of a run that go with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.results.comparison import mean_and_half_width
from brsolver.results.objectives import meets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.results.result import SimulationResult
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure of runs, and whether more of it is better.

    Attributes
    ----------
    name : str
    metric : str
        Field of `Metrics`.
    label, unit : str
        What reports call it.
    maximise : bool
    """

    name: str
    metric: str
    label: str
    unit: str
    maximise: bool

    @property
    def direction(self) -> str:
        """What Optuna calls it."""
        return "maximize" if self.maximise else "minimize"

    def better(self, value: float, other: float) -> bool:
        """Tell whether one value is better than another."""
        return value > other if self.maximise else value < other

    def told(self, gain: Gain, other: str) -> str:
        """Say what a gain is over something: by how much the figure rises, or falls."""
        if math.isnan(gain.mean):
            return f"{other} has no {self.label} at all, it does"
        if self.maximise:
            return f"{gain} {self.label} over {other}"
        fall = Gain(mean=-gain.mean, half_width=gain.half_width, starts=gain.starts)
        return f"{fall} {self.label} against {other}"

    def shown(self, value: float) -> str:
        """Write a value with its unit."""
        return f"{value:,.0f} {self.unit}" if abs(value) >= 1000 else f"{value:,.3g} {self.unit}"


BULK = 0.8
"""Share of a run's output tokens by which its throughput is taken.

What ends it must not be the policy's to choose: by the usual window, which ends with the last
admission, holding the last request back looks like throughput. And the few longest outputs, which
alone make the rest, take as long with any router.
"""
THROUGHPUT, GOODPUT = "bulk_tok_s", "bulk_good_req_s"

GOALS: Mapping[str, Goal] = MappingProxyType(
    {
        "throughput": Goal(
            name="throughput",
            metric=THROUGHPUT,
            label="throughput",
            unit="tok/s",
            maximise=True,
        ),
        "goodput": Goal(
            name="goodput",
            metric=GOODPUT,
            label="goodput",
            unit="req/s",
            maximise=True,
        ),
        "latency": Goal(
            name="latency",
            metric="e2e_mean_s",
            label="mean time to the last token",
            unit="s",
            maximise=False,
        ),
    }
)
"""Goals by name."""

FIGURES = (
    *("throughput_tok_s", "slo_met_share"),
    *("ttft_mean_s", "ttft_p50_s", "ttft_p95_s", "ttft_p99_s"),
    *("tpot_mean_s", "tpot_p50_s", "tpot_p95_s", "tpot_p99_s"),
    *("e2e_mean_s", "e2e_p50_s", "e2e_p95_s", "e2e_p99_s"),
    *("time_lost_share", "max_wait_s", "slot_utilization", "preemptions", "makespan_s", "steps"),
)
"""What is kept of every run."""


def goal_of(name: str, params: SimulationParams) -> Goal:
    """Return a goal by name.

    Raises
    ------
    UnknownNameError
        There is none of that name.
    ParameterError
        It needs an objective that the parameters do not have.
    """
    if name not in GOALS:
        raise UnknownNameError.suggest("goal", name, GOALS)
    if name == "goodput" and params.slo_ttft_ms is None and params.slo_tpot_ms is None:
        raise ParameterError(
            "goal is 'goodput' without an objective, must have slo_ttft or slo_tpot (or both): "
            "--slo-ttft MS, --slo-tpot MS"
        )
    return GOALS[name]


def figures_of(result: SimulationResult, trace: Trace) -> dict[str, float | None]:
    """Return what is kept of a run of a trace; what was not measured is None."""
    metrics = result.metrics
    found = {name: float(getattr(metrics, name)) for name in FIGURES}
    found[THROUGHPUT] = bulk_tokens_s(result)
    found[GOODPUT] = good_requests_s(result, trace)
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def bulk_tokens_s(result: SimulationResult) -> float:
    """Return tokens per second until `BULK` of all are out; NaN of a run without steps.

    As throughput elsewhere it counts a token of every sequence that runs in a step. Time goes from
    the first arrival, and on while nothing runs.
    """
    steps = result.steps
    out = np.cumsum(steps.active)
    if not out.size or out[-1] == 0:
        return math.nan
    last = int(np.searchsorted(out, BULK * float(out[-1])))
    before = float(steps.start_s[0] - np.nanmin(result.requests.arrival_s))
    seconds = before + steps.span_s(slice(0, last + 1))
    return float(out[last]) / seconds if seconds > 0 else math.nan


def good_requests_s(result: SimulationResult, trace: Trace) -> float:
    """Return requests per second that met the objectives; NaN without objectives.

    Of requests at times of their own it is those that did over the time in which all came: no
    setting has a say in that, so that settings differ in nothing but how many requests they serve
    well. Without an objective for the first token one that waited until all had come does not
    count, or it might wait for ever. Of requests that come as others end, it is the share that did
    at the rate of `bulk_tokens_s`.
    """
    metrics, params = result.metrics, result.params
    arrival = result.requests.arrival_s
    over_s = float(np.ptp(arrival)) if arrival.size else 0.0
    if params.arrivals.by_events or trace.follows.any() or not over_s > 0:
        tokens = float(result.steps.active.sum())
        rate = bulk_tokens_s(result) * metrics.requests / tokens if tokens else math.nan
        return metrics.slo_met_share * rate
    if math.isnan(metrics.slo_met_share):
        return math.nan
    good = meets(params, result.requests, trace.output_tokens[result.training_rows :])
    if params.slo_ttft_ms is None:
        good &= result.requests.first_token_s <= arrival.max()
    return float(good.sum()) / over_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """By how much one setting was better than another, on the same starts.

    Attributes
    ----------
    mean : float
        Mean difference as a share of the other's mean; positive is better. NaN if the other's mean
        is 0, unless both are.
    half_width : float
        Half of its 95 % interval (Student t over the starts); NaN for fewer than two.
    starts : int
    """

    mean: float
    half_width: float
    starts: int

    @classmethod
    def between(cls, goal: Goal, values: Sequence[float], others: Sequence[float]) -> Gain:
        """Compare values start by start.

        The differences are taken as shares of the mean of `others`, not each of its own: goodput
        may be near 0 on a start.
        """
        base = math.fsum(others) / len(others)
        sign = 1.0 if goal.maximise else -1.0
        if base <= 0 and max(values) <= 0:
            return cls(mean=0.0, half_width=0.0, starts=len(others))
        if base <= 0:
            return cls(mean=math.nan, half_width=math.nan, starts=len(others))
        shares = [sign * (v - o) / base for v, o in zip(values, others, strict=True)]
        mean, half_width, count = mean_and_half_width(shares)
        return cls(mean=mean, half_width=half_width, starts=count)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width

    @property
    def sure(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low > 0

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "not told: the other has none"
        mean = round(100 * self.mean, 1) + 0.0  # not -0.0
        return f"{mean:+.1f} % ± {100 * self.half_width:.1f}"
