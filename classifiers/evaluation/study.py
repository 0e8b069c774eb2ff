"""Everything about the forecasts on one trace: split, scores, decision value."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.simulator import SimulationParams
from brsolver.streams import stream
from classifiers.evaluation import candidates as c
from classifiers.evaluation.climatology import ClimatologyPredictor
from classifiers.evaluation.decision import decision_values
from classifiers.evaluation.samples import MAX_SAMPLES, collect
from classifiers.evaluation.scores import REPLICATES, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from brsolver.predictors import Predictor
    from brsolver.traces.trace import Trace
    from classifiers.evaluation.decision import Value
    from classifiers.evaluation.samples import Samples
    from classifiers.evaluation.scores import Judgement

SLOTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingParams:
    """How forecasts are judged.

    Attributes
    ----------
    horizon : int
        Steps H.
    workers, slots : int
        Cluster of the run that asks for forecasts.
    samples : int
        About how many samples to keep at most.
    replicates : int
        Bootstrap replicates; 0 gives no intervals.
    refresh_steps : int
        Decode steps between refreshes.
    seed : int
    """

    horizon: int = 80
    workers: int = 8
    slots: int = SLOTS
    samples: int = MAX_SAMPLES
    replicates: int = REPLICATES
    refresh_steps: int = 32
    seed: int = 0

    def cluster(self) -> SimulationParams:
        """Return the parameters of the run."""
        return SimulationParams(
            workers=self.workers,
            slots=self.slots,
            refresh_steps=self.refresh_steps,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Study:
    """Predictors judged on one trace.

    Attributes
    ----------
    trace_name, trace_fingerprint : str
        The whole trace.
    training_rows, testing_rows : int
        Requests before and after the split.
    params : JudgingParams
    samples : Samples
        What the scores are made from.
    judgements : tuple of Judgement
        Climatology and Survival among them.
    values : tuple of Value
        Decision values; empty if they were not asked for.
    notes : tuple of str
        What a reader must know.
    """

    trace_name: str
    trace_fingerprint: str
    training_rows: int
    testing_rows: int
    params: JudgingParams
    samples: Samples
    judgements: tuple[Judgement, ...]
    values: tuple[Value, ...] = ()
    notes: tuple[str, ...] = ()

    def judgement(self, kind: str) -> Judgement:
        """Return the judgement of one kind."""
        return next(each for each in self.judgements if each.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "trace": self.trace_name,
            "trace_fingerprint": self.trace_fingerprint,
            "training_rows": self.training_rows,
            "testing_rows": self.testing_rows,
            "horizon": self.params.horizon,
            "n": len(self.samples),
            "left_out": self.samples.unknown,
            "base_rate": float(self.samples.ends.mean()),
            "workers": self.params.workers,
            "slots": self.params.slots,
            "seed": self.params.seed,
            "scores": [judgement.to_dict() for judgement in self.judgements],
            "decision_value": [value.to_dict() for value in self.values],
            "notes": list(self.notes),
        }


def judge_predictors(
    split: c.Split,
    predictors: Mapping[str, Predictor],
    params: JudgingParams,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Samples, tuple[Judgement, ...]]:
    """Score predictors on the later part of a trace, next to climatology and Survival.

    Parameters
    ----------
    split : Split
    predictors : mapping of str to Predictor
        They have seen the earlier part; copies of them learn from the later one.
    params : JudgingParams
    progress : callable, optional
        Called with (finished, all) requests of the run.
    """
    climatology = ClimatologyPredictor(
        split.training,
        horizon=params.horizon,
        refresh_steps=params.refresh_steps,
        seed=params.seed,
    )
    everyone: dict[str, Predictor] = {c.CLIMATOLOGY: climatology}
    if c.SURVIVAL not in predictors:
        everyone[c.SURVIVAL] = c.make(
            c.SURVIVAL, split.training, horizon=params.horizon, seed=params.seed
        )
    everyone |= copy.deepcopy(dict(predictors))
    samples = collect(
        split.testing,
        everyone,
        horizon=params.horizon,
        params=params.cluster(),
        max_samples=params.samples,
        progress=progress,
    )
    rng = stream(params.seed, "bootstrap")
    found = judge(samples, reference=c.SURVIVAL, rng=rng, replicates=params.replicates)
    return samples, found


def study(
    trace: Trace,
    split: c.Split,
    predictors: Mapping[str, Predictor],
    params: JudgingParams,
    *,
    workers: Sequence[int] = (),
    starts: int = 1,
    notes: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Study:
    """Judge predictors as forecasters and, for every G in `workers`, by what they are worth.

    Parameters
    ----------
    trace : Trace
        The whole trace.
    split : Split
        Its parts.
    predictors : mapping of str to Predictor
        They have seen the earlier part.
    params : JudgingParams
    workers : sequence of int
        Values of G for the decision value; none without it.
    starts : int
        Runs per decision value.
    notes : sequence of str
        What is to be said of the split.
    progress : callable, optional
        Called with (what, done, total).
    """
    report = progress or _silent
    samples, judgements = judge_predictors(
        split,
        predictors,
        params,
        progress=lambda done, total: report("running, requests", done, total),
    )
    values = decision_values(
        split.testing,
        predictors,
        horizon=params.horizon,
        params=params.cluster(),
        workers=workers,
        starts=starts,
        progress=lambda done, total: report("routing, runs", done, total),
    )
    return Study(
        trace_name=trace.name,
        trace_fingerprint=trace.fingerprint(),
        training_rows=len(split.training),
        testing_rows=len(split.testing),
        params=params,
        samples=samples,
        judgements=judgements,
        values=values,
        notes=(*notes, *_remarks(trace, samples)),
    )


def _remarks(trace: Trace, samples: Samples) -> list[str]:
    remarks = []
    if trace.surrogate:
        remarks.append(f"{trace.name} is a synthetic surrogate, not the published trace")
    if trace.skipped_rows:
        remarks.append(f"{trace.skipped_rows} bad rows of {trace.name} were skipped")
    if samples.unknown:
        remarks.append(
            f"{samples.unknown:,} samples with fewer than {samples.horizon} tokens to their "
            "max_tokens are left out"
        )
    if _is_constant(samples.ends):
        outcome = "ended" if samples.ends[0] else "stayed"
        remarks.append(
            f"all samples {outcome} within {samples.horizon} steps: nothing can be ranked, "
            "AUC is undefined"
        )
    return remarks


def _is_constant(ends: NDArray[Any]) -> bool:
    return bool(ends.all() or not ends.any())


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total
