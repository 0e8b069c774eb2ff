"""What ``brsolver classifier train`` does."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from brsolver.cli._progress import late_bar
from brsolver.errors import ParameterError
from classifiers.evaluation import candidates as c
from classifiers.evaluation.study import JudgingParams, judge_predictors
from classifiers.report.page import check_out_file

if TYPE_CHECKING:
    from brsolver.compare import TraceSource
    from brsolver.traces.trace import Trace
    from classifiers.hazard import HazardClassifier

JUDGED_ON = 20_000
"""Requests after the training part that the scores in a model's header are made from at most."""


def train_to_file(
    source: TraceSource, kind: str, out: str, *, horizon: int, share: float, seed: int
) -> None:
    """Train on the earlier part of a trace, judge on what follows, write the model, and say so.

    Parameters
    ----------
    source : TraceSource
    kind : str
        One of `classifiers.evaluation.candidates.TRAINED_KINDS`.
    out : str
        File to write.
    horizon : int
        Steps H.
    share : float
        Earlier share of the trace; all of it leaves nothing to judge on.
    seed : int
    """
    c.check_kind(kind, tuple(c.TRAINED_KINDS))
    if horizon < 1:
        raise ParameterError(f"horizon is {horizon}, must be at least 1 step")
    check_out_file(out)
    with late_bar("loading") as bar:
        trace = source.load(seed)
        rows = c.rows_of_share(trace, share)
        if rows < c.MIN_REQUESTS:
            raise ParameterError(
                f"{trace.name}: {rows} of {len(trace):,} requests are too few to train on, must "
                f"be at least {c.MIN_REQUESTS}"
            )
        bar.rename("training")
        classifier = c.train(kind, trace.head(rows), horizon=horizon, seed=seed)
        bar.rename("judging, requests")
        scores = _scores(trace, rows, classifier, horizon, seed)
        _save(out, classifier, trace, rows, scores)
    _print(classifier, trace, rows, scores)
    sys.stderr.write(f"wrote {out}\n")


def _scores(
    trace: Trace, rows: int, classifier: HazardClassifier, horizon: int, seed: int
) -> dict[str, float]:
    """Score the classifier on the requests after its training; {} if there are too few."""
    later = trace.head(rows + JUDGED_ON)
    if len(later) - rows < c.MIN_REQUESTS:
        return {}
    split = c.split_at(later, rows)
    predictors = {"model": c.deployed(classifier, split.training)}
    params = JudgingParams(horizon=horizon, replicates=0, seed=seed)
    samples, judgements = judge_predictors(split, predictors, params)
    scores = {each.kind: each.scores for each in judgements}
    facts = {name: float(value) for name, value in asdict(scores["model"]).items()}
    return {"n": float(len(samples)), **facts, "brier_survival": scores[c.SURVIVAL].brier}


def _save(
    out: str, classifier: HazardClassifier, trace: Trace, rows: int, scores: dict[str, float]
) -> None:
    from classifiers.model_file import save

    save(out, classifier, trace, rows, scores)


def _print(classifier: Any, trace: Trace, rows: int, scores: dict[str, float]) -> None:
    typer.echo(
        f"hazard-{classifier.kind}, H = {classifier.horizon}: trained on the first {rows:,} of "
        f"{len(trace):,} requests of {trace.name}"
    )
    if not scores:
        typer.echo("nothing is left to judge it on")
        return
    typer.echo(
        f"on the requests after: AUC {scores['auc']:.3f}, Brier {scores['brier']:.4f} "
        f"(survival {scores['brier_survival']:.4f}), ECE {scores['ece']:.4f}, MAE of μ "
        f"{scores['mae']:.2f} steps, {scores['n']:,.0f} samples"
    )
