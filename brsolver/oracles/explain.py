"""What better routing would buy: where a run's time goes, each cause measured by its absence."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError
from brsolver.oracles._switches import moved, switches

if TYPE_CHECKING:
    from brsolver.oracles._switches import Switch
    from brsolver.oracles.bounds.time_result import TimeBound
    from brsolver.registry import PolicySpec, PredictorSpec
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

Progress = Callable[[int, int], None]

NOTHING = 0.0005
"""Share of a run's time below which a cause counts as costing nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One thing that costs a run time, and what the run takes without it.

    Attributes
    ----------
    name, label : str
        For programs, and for people.
    without : str
        What the other run did differently.
    seconds : float or None
        Time of the run less that of the other run: what this cause costs, negative if it helped.
        None where it is not there to be switched off.
    share : float or None
        Part of the run's time.
    why_not : str
        Why it is not there; empty if it is.
    throughput_tok_s, tpot_mean_s : float or None
        Of the other run.
    """

    name: str
    label: str
    without: str
    seconds: float | None = None
    share: float | None = None
    why_not: str = ""
    throughput_tok_s: float | None = None
    tpot_mean_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "label": self.label,
            "without": self.without,
            "seconds": self.seconds,
            "share": self.share,
            "why_not": self.why_not,
            "throughput_tok_s": self.throughput_tok_s,
            "tpot_mean_s": self.tpot_mean_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """Where a run's time goes.

    Attributes
    ----------
    policy : str
    seconds : float
        Time of all steps of the run, ``Σ_k Δ(k)``.
    unavoidable_s : float or None
        Seconds that every run of these requests takes, proven; None where no bound holds.
    bound : TimeBound or None
        What proves it.
    causes : tuple of Cause
        Each measured by a run in which it alone was switched off. They overlap, so they need not
        add up to what lies between the run and the bound.
    counterfactuals : tuple of Cause
        Measured in the same way, but by runs that do what engines do not offer: no routing saves
        that. None of them is among the causes.
    result : SimulationResult
        The run.
    wall_s : float
    notes : tuple of str
    """

    policy: str
    seconds: float
    unavoidable_s: float | None
    bound: TimeBound | None
    causes: tuple[Cause, ...]
    result: SimulationResult
    wall_s: float
    notes: tuple[str, ...] = ()
    counterfactuals: tuple[Cause, ...] = ()

    @property
    def avoidable_s(self) -> float | None:
        """Seconds beyond what is proven unavoidable: no policy saves more."""
        return None if self.unavoidable_s is None else self.seconds - self.unavoidable_s

    @property
    def present(self) -> tuple[Cause, ...]:
        """The causes that are present, the most costly first."""
        there = [cause for cause in self.causes if cause.seconds is not None]
        return tuple(sorted(there, key=lambda cause: -(cause.seconds or 0.0)))

    def words(self) -> tuple[str, ...]:
        """Say it in sentences."""
        metrics = self.result.metrics
        lines = [
            f"{self.policy} took {self.seconds:,.1f} s of steps for {metrics.finished:,} requests, "
            f"{1e3 * metrics.step_mean_s:.1f} ms a step and {metrics.throughput_tok_s:,.0f} tokens "
            "per second."
        ]
        if self.unavoidable_s is not None:
            share = self.unavoidable_s / self.seconds
            lines.append(
                f"{self.unavoidable_s:,.1f} s of it ({share:.1%}) no policy could have avoided, "
                f"by proof; better routing saves at most {self.avoidable_s:,.1f} s "
                f"({1 - share:.1%})."
            )
        lines.extend(map(_sentence, self.present))
        absent = [f"{each.label} ({each.why_not})" for each in self.causes if each.why_not]
        if absent:
            lines.append(f"Not there to be switched off: {'; '.join(absent)}.")
        lines.extend(_if_it_were_so(each, metrics.tpot_mean_s) for each in self.counterfactuals)
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``brsolver explain --json`` prints."""
        metrics = self.result.metrics
        return {
            "policy": self.policy,
            "trace": self.result.trace_name,
            "hardware": self.result.params.step_time.hardware,
            "seconds": self.seconds,
            "unavoidable_s": self.unavoidable_s,
            "avoidable_s": self.avoidable_s,
            "bound": None if self.bound is None else self.bound.to_dict(),
            "causes": [cause.to_dict() for cause in self.causes],
            "counterfactuals": [each.to_dict() for each in self.counterfactuals],
            "words": list(self.words()),
            "metrics": metrics.to_dict(),
            "wall_s": self.wall_s,
            "notes": list(self.notes),
            "params": self.result.params.to_dict(),
        }


def explain(
    trace: Trace,
    policy: str | PolicySpec,
    params: SimulationParams | None = None,
    *,
    predictor: str | PredictorSpec | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Say where a run's time goes, and how much of it better routing could save.

    The run is made once as asked for, and once more with each cause alone switched off: prefill,
    KV tokens or sequences balanced perfectly, counts not padded, information fresh, nothing in
    transit, a pool in place of immediate routing, lengths known. Apart from these stands a run in
    which requests move between workers while they run.

    Parameters
    ----------
    trace : Trace
    policy : str or PolicySpec
    params : SimulationParams, optional
        The cluster, its hardware and the regime.
    predictor : str or PredictorSpec, optional
        As of `brsolver.simulator.simulate`.
    progress : callable, optional
        Called with (runs made, all runs).

    Raises
    ------
    BrsolverError
        As of `brsolver.simulator.simulate`; some requests do not finish, or steps take no time.

    Examples
    --------
    >>> from brsolver import SimulationParams, load_trace
    >>> from brsolver.oracles.explain import explain
    >>> trace = load_trace("preset:uniform:n=200,s_high=500,o_high=50")
    >>> found = explain(trace, "jsq-load", SimulationParams(workers=4, slots=8))
    >>> found.unavoidable_s < found.seconds
    True
    """
    from brsolver.simulator.held_out import hold_out
    from brsolver.simulator.params import SimulationParams
    from brsolver.wiring import read_policies

    began = time.perf_counter()
    used, (spec,) = params or SimulationParams(), read_policies([policy])
    # Every run gets the same requests, those that know lengths beforehand too.
    held = hold_out(trace, predictor, used.seed, horizons=[spec.horizon])
    run = _run(held, spec, used)
    _check(run)
    planned = [*switches(run), moved(run)]
    causes = []
    for done, switch in enumerate(planned, start=1):
        if progress is not None:
            progress(done, len(planned) + 1)
        causes.append(_cause(run, switch, held, spec))
    counterfactual = causes.pop()
    bound, why = _bound(held.trace, run)
    return Explanation(
        policy=run.policy,
        seconds=_seconds(run),
        unavoidable_s=None if bound is None else bound.seconds,
        bound=bound,
        causes=tuple(causes),
        result=run,
        wall_s=time.perf_counter() - began,
        notes=tuple(dict.fromkeys(filter(None, (held.note, why, *run.notes)))),
        counterfactuals=(counterfactual,),
    )


def _run(
    held: HeldOut, spec: PolicySpec, params: SimulationParams, *, oracle: bool = False
) -> SimulationResult:
    from brsolver.simulator import simulate

    if oracle:
        return simulate(held.trace, spec, params, predictor="oracle")
    # Predictors learn: every run starts from the same state.
    given = copy.deepcopy(held.predictor)
    return simulate(held.trace, spec, params, predictor=given, predictor_name=held.predictor_name)


def _check(run: SimulationResult) -> None:
    """Refuse a run that others cannot be held against."""
    if run.metrics.unfinished:
        raise ParameterError(
            f"{run.policy} leaves {run.metrics.unfinished} of {run.metrics.requests} requests "
            "unfinished, must finish all: runs that do different work cannot be compared"
        )
    if _seconds(run) <= 0:
        raise ParameterError(
            f"the steps of {run.policy} take 0 s by this step time, must take some to be explained"
        )


def _cause(run: SimulationResult, switch: Switch, held: HeldOut, spec: PolicySpec) -> Cause:
    named = Cause(
        name=switch.name, label=switch.label, without=switch.without, why_not=switch.why_not
    )
    if switch.why_not:
        return named
    if switch.logged_s is not None:
        return replace(named, seconds=switch.logged_s, share=switch.logged_s / _seconds(run))
    other = _run(held, spec, switch.params, oracle=switch.oracle)
    saved = _seconds(run) - _seconds(other)
    return replace(
        named,
        seconds=saved,
        share=saved / _seconds(run),
        throughput_tok_s=other.metrics.throughput_tok_s,
        tpot_mean_s=other.metrics.tpot_mean_s,
    )


def _seconds(run: SimulationResult) -> float:
    return float(run.steps.duration_s.sum())


def _bound(trace: Trace, run: SimulationResult) -> tuple[TimeBound | None, str]:
    """Return what no run can avoid, or why that is not known."""
    from brsolver.oracles._time_goal import rank_prefill_of
    from brsolver.oracles.bounds.time import any_time_bound

    params = run.params
    if reason := _unproven(run):
        return None, f"nothing is proven unavoidable: {reason}"
    # Fewer slots on some workers only make runs longer.
    bound = any_time_bound(
        trace,
        workers=params.workers,
        slots=max(params.slots_each()),
        step_time=params.step_time,
        prefill=rank_prefill_of(trace, params),
    )
    return bound, ""


def _unproven(run: SimulationResult) -> str:
    """Say why no bound is about the run; empty if one is."""
    if run.params.events:
        return "workers fail or join"
    if run.params.migration.active:
        return "running requests move between workers"
    if run.params.prefill.colocated and run.metrics.preemptions:
        # What is prefilled again gives its next token without decoding.
        return "requests were preempted"
    return ""


def _sentence(cause: Cause) -> str:
    seconds, share = cause.seconds or 0.0, cause.share or 0.0
    label = cause.label[0].upper() + cause.label[1:]
    if abs(share) < NOTHING:
        return f"{label} costs nothing: the run takes as long {cause.without}."
    longer, verb = ("less", "costs") if seconds > 0 else ("longer", "saves")
    return (
        f"{label} {verb} {abs(seconds):,.1f} s ({abs(share):.1%}): the run takes that much "
        f"{longer} {cause.without}."
    )


def _if_it_were_so(cause: Cause, tpot_mean_s: float) -> str:
    """Say what an engine would gain that did what none offers."""
    label = cause.label[0].upper() + cause.label[1:]
    if cause.why_not:
        return f"{label}; what that costs is not known: {cause.why_not}."
    seconds, share, tpot_s = cause.seconds or 0.0, cause.share or 0.0, cause.tpot_mean_s or 0.0
    longer = "less" if seconds > 0 else "longer"
    takes = (
        "as long" if abs(share) < NOTHING else f"{abs(seconds):,.1f} s ({abs(share):.1%}) {longer}"
    )
    return (
        f"{label}, whatever routes them. A counterfactual, which engines do not offer: "
        f"{cause.without} the run would take {takes}, and a token {1e3 * tpot_s:.2f} ms in the "
        f"mean instead of {1e3 * tpot_mean_s:.2f} ms."
    )
