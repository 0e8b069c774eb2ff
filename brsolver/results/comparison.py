"""What a comparison holds: its runs, and estimates over seeds."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.results.notes import folded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.results.curves import Curves
    from brsolver.results.metrics import Metrics
    from brsolver.results.request_times import RequestTimes
    from brsolver.results.result import SimulationResult
    from brsolver.results.waiting import RankFigures
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One metric of one policy over the seeds.

    Attributes
    ----------
    mean : float
        NaN if it was never measured.
    half_width : float
        Half of the 95 % interval of the mean (Student t); NaN for fewer than two seeds.
    ratio : float
        Mean over the seeds of value / baseline's value with the same seed, where that is positive.
    ratio_half_width : float
        Half of the 95 % interval of that ratio.
    seeds : int
        Values it is made of.
    """

    mean: float
    half_width: float
    ratio: float
    ratio_half_width: float
    seeds: int

    @property
    def deterministic(self) -> bool:
        """Whether several seeds all gave the same value."""
        return self.seeds > 1 and self.half_width == 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """One simulation of the grid.

    Attributes
    ----------
    policy : str
        Specification it was asked for by.
    workers, seed : int
    metrics : Metrics
    policy_params : mapping of str to object
    predictor : str
    sees_future : bool
        True if the predictor is an oracle.
    trace_name, trace_fingerprint : str
    notes : tuple of str
    curves : Curves or None
        Kept for the first seed only.
    ranks : RankFigures or None
        What each worker did.
    times : RequestTimes or None
        Of every request, where they were asked for.
    start : int
        Leading requests of the trace that were left out, so that seeds differ.
    """

    policy: str
    workers: int
    seed: int
    metrics: Metrics
    policy_params: Mapping[str, object]
    predictor: str
    sees_future: bool
    trace_name: str
    trace_fingerprint: str
    notes: tuple[str, ...] = ()
    curves: Curves | None = None
    ranks: RankFigures | None = None
    times: RequestTimes | None = None
    start: int = 0

    @classmethod
    def of(
        cls,
        result: SimulationResult,
        trace: Trace,
        *,
        policy: str,
        keep_curves: bool = True,
        keep_times: bool = False,
        start: int = 0,
        first_row: int = 0,
    ) -> Run:
        """Reduce a finished simulation of `trace` to what a report shows of it.

        `keep_times` keeps the times of every request; `start` is how many requests were left out
        at the start, `first_row` the row of the trace's first in what was given.
        """
        from brsolver.results.curves import curves_of
        from brsolver.results.request_times import request_times
        from brsolver.results.waiting import rank_figures

        lengths = trace.prompt_tokens, trace.output_tokens
        return cls(
            policy=policy,
            workers=result.params.workers,
            seed=result.params.seed,
            metrics=result.metrics,
            policy_params=dict(result.policy_params),
            predictor=result.predictor,
            sees_future=result.sees_future,
            trace_name=result.trace_name,
            trace_fingerprint=result.trace_fingerprint,
            notes=result.notes,
            curves=curves_of(result, *lengths) if keep_curves else None,
            ranks=rank_figures(result.requests, result.samples.load, result.steps.end_s()),
            times=request_times(result, trace, first_row=first_row) if keep_times else None,
            start=start,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run of the grid that failed.

    Attributes
    ----------
    policy : str
        Specification it was asked for by.
    workers, seed : int
    reason : str
        One line.
    """

    policy: str
    workers: int
    seed: int
    reason: str

    def to_dict(self) -> dict[str, str | int]:
        """Return plain values."""
        return {
            "policy": self.policy,
            "workers": self.workers,
            "seed": self.seed,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Comparison:
    """A grid of runs: policies × workers × seeds.

    Attributes
    ----------
    runs : tuple of Run
        By workers, then policy, then seed, each in the order asked for.
    policies : tuple of str
        Those of which no run failed.
    workers : tuple of int
    seeds : tuple of int
    baseline : str
        Policy that ratios refer to.
    params : SimulationParams
        As given; `workers` and `seed` are replaced in every run.
    trace_name : str
    predictor : str or None
        As asked for; None is each policy's own.
    version : str
    wall_s : float
        Duration of the whole grid in seconds.
    failures : tuple of Failure
        Runs that failed, of policies that are left out of `policies` for it.
    """

    runs: tuple[Run, ...]
    policies: tuple[str, ...]
    workers: tuple[int, ...]
    seeds: tuple[int, ...]
    baseline: str
    params: SimulationParams
    trace_name: str
    predictor: str | None
    version: str
    wall_s: float
    failures: tuple[Failure, ...] = ()

    @classmethod
    def single(cls, run: Run, params: SimulationParams, *, predictor: str | None) -> Comparison:
        """Wrap one run, for a report of its own."""
        return cls(
            runs=(run,),
            policies=(run.policy,),
            workers=(run.workers,),
            seeds=(run.seed,),
            baseline=run.policy,
            params=params,
            trace_name=run.trace_name,
            predictor=predictor,
            version=run.metrics.version,
            wall_s=run.metrics.wall_s,
        )

    def cell(self, policy: str, workers: int) -> tuple[Run, ...]:
        """Return the runs of one policy on that many workers, by seed."""
        return tuple(r for r in self.runs if r.policy == policy and r.workers == workers)

    def pictured(self, workers: int) -> dict[str, Curves]:
        """Return the curves kept for that many workers, by policy."""
        kept = ((p, run.curves) for p in self.policies for run in self.cell(p, workers))
        return {policy: curves for policy, curves in kept if curves is not None}

    def estimate(
        self, policy: str, workers: int, metric: str, *, base: str | None = None
    ) -> Estimate:
        """Estimate one metric of one policy, with its ratio to another's paired per seed.

        The ratio is to policy `base`, by default the baseline.
        """
        values = [_value(run, metric) for run in self.cell(policy, workers)]
        others = [_value(run, metric) for run in self.cell(base or self.baseline, workers)]
        ratios = [v / b if b > 0 else math.nan for v, b in zip(values, others, strict=True)]
        mean, half_width, seeds = mean_and_half_width(values)
        ratio, ratio_half_width, _ = mean_and_half_width(ratios)
        return Estimate(
            mean=mean,
            half_width=half_width,
            ratio=ratio,
            ratio_half_width=ratio_half_width,
            seeds=seeds,
        )

    def notes(self) -> tuple[str, ...]:
        """Return every run's notes once, marked with the runs they hold for if not all.

        Notes of one policy's runs with several seeds that differ in numbers are one, with ranges.
        """
        shown = [run for run in self.runs if run.policy in self.policies]
        holders: dict[str, list[Run]] = {}
        for run in shown:
            for note in run.notes:
                holders.setdefault(note, []).append(run)
        places = {run: (run.policy, run.workers) for run in shown}
        return tuple(self._marked(note, runs) for note, runs in folded(holders, places))

    def _marked(self, note: str, runs: list[Run]) -> str:
        if len(runs) == sum(run.policy in self.policies for run in self.runs):
            return note
        policies = [p for p in self.policies if any(run.policy == p for run in runs)]
        everywhere = len(policies) == len(self.policies)
        where = "" if everywhere or note.startswith(policies[0]) else ", ".join(policies)
        workers = [g for g in self.workers if any(run.workers == g for run in runs)]
        if len(workers) < len(self.workers):
            where += f"{' ' if where else ''}at G = {', '.join(map(str, workers))}"
        return f"{where}: {note}" if where else note


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float, int]:
    """Return the mean, half its 95 % interval (Student t) and the number of finite values."""
    finite = [value for value in values if math.isfinite(value)]
    count = len(finite)
    if count == 0:
        return math.nan, math.nan, 0
    if count == 1:
        return finite[0], math.nan, 1
    if min(finite) == max(finite):
        return finite[0], 0.0, count
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    quantile = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2))
    half_width = quantile * statistics.stdev(finite) / math.sqrt(count)
    return statistics.fmean(finite), half_width, count


def _value(run: Run, metric: str) -> float:
    return float(getattr(run.metrics, metric))
