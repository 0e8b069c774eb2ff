"""What ``brsolver classifier evaluate`` and ``compare`` do."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from brsolver.cli._progress import LateBar, late_bar
from brsolver.errors import ParameterError
from brsolver.report.write import check_out_dir
from classifiers.evaluation import candidates as c
from classifiers.evaluation.study import JudgingParams, Study, study
from classifiers.report.page import check_out_file, json_text, write_page, write_study
from classifiers.report.terminal import print_study

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.compare import TraceSource
    from brsolver.predictors import Predictor
    from brsolver.traces.trace import Trace
    from classifiers.model_file import Header

DEFAULT_HORIZON = 80
_MAX_REPLICATES = 100_000
_MAX_STARTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be judged on, and how.

    Attributes
    ----------
    source : TraceSource
    horizon : int or None
        Steps H; None is the model's own, or 80.
    share : float
        Earlier share of the trace to learn from.
    workers, slots, samples, replicates, seed : int
        As in `classifiers.evaluation.study.JudgingParams`.
    """

    source: TraceSource
    horizon: int | None
    share: float
    workers: int
    slots: int
    samples: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.replicates <= _MAX_REPLICATES:
            raise ParameterError(
                f"bootstrap is {self.replicates}, must be between 0 and {_MAX_REPLICATES:,}"
            )
        if self.samples < 1:
            raise ParameterError(f"samples is {self.samples}, must be at least 1")
        if self.horizon is not None and self.horizon < 1:
            raise ParameterError(f"horizon is {self.horizon}, must be at least 1 step")

    def judging(self, horizon: int | None = None) -> JudgingParams:
        """Return the parameters, H being `horizon` or what was asked for."""
        return JudgingParams(
            horizon=horizon or self.horizon or DEFAULT_HORIZON,
            workers=self.workers,
            slots=self.slots,
            samples=self.samples,
            replicates=self.replicates,
            seed=self.seed,
        )

    def split(self, trace: Trace) -> tuple[c.Split, str]:
        """Cut a trace at the share, and say so."""
        rows = c.rows_of_share(trace, self.share)
        split = c.split_at(trace, rows)
        return (
            split,
            f"split by time: the first {rows:,} of {len(trace):,} requests are for learning",
        )


def evaluate_one(
    request: Request, *, model: str | None, kind: str | None, json: bool, html: str | None
) -> None:
    """Judge a model file, or a kind made from the earlier part of the trace, and print it.

    Parameters
    ----------
    request : Request
    model, kind : str or None
        A model file or the name of a kind, one of them.
    json : bool
        Whether to print JSON rather than a table.
    html : str or None
        Page to write.
    """
    if (model is None) == (kind is None):
        raise ParameterError("give --model FILE or --kind KIND, one of them")
    if kind is not None:
        kind = "hazard-gb" if kind == "hazard" else kind
        c.check_kind(kind)
    with late_bar("loading") as bar:
        if html is not None:
            check_out_file(html)
        if model is not None:
            name, found, header = _of_model(request, model, bar)
        else:
            name, found, header = str(kind), _of_kinds(request, (str(kind),), bar), None
        if html is not None:
            bar.rename("drawing")
            write_page(found, html)
    _print(found, evaluation_facts(found, name, header) if json else None)
    _say_written(html)


def compare_kinds(
    request: Request,
    kinds: str,
    *,
    value_workers: str,
    starts: int,
    json: bool,
    out: str | None,
) -> None:
    """Judge several kinds, and print and write what was found."""
    from brsolver.cli._params import parse_workers

    chosen = c.check_kinds(kinds)
    if not 1 <= starts <= _MAX_STARTS:
        raise ParameterError(f"starts is {starts}, must be between 1 and {_MAX_STARTS:,}")
    workers = () if value_workers == "none" else parse_workers(value_workers)
    if out is not None:
        check_out_dir(out)
    with late_bar("loading") as bar:
        found = _of_kinds(request, chosen, bar, workers=workers, starts=starts)
        if out is not None:
            bar.rename("drawing")
            write_study(found, out)
    _print(found, found.to_dict() if json else None)
    _say_written(out)


def _of_kinds(
    request: Request,
    kinds: tuple[str, ...],
    bar: LateBar,
    *,
    workers: tuple[int, ...] = (),
    starts: int = 1,
) -> Study:
    params = request.judging()
    params.cluster()
    trace = request.source.load(request.seed)
    split, note = request.split(trace)
    predictors = {}
    for kind in kinds:
        bar.rename(f"training {kind}")
        predictors[kind] = c.make(kind, split.training, horizon=params.horizon, seed=params.seed)
    return study(
        trace,
        split,
        predictors,
        params,
        workers=workers,
        starts=starts,
        notes=(note,),
        progress=_shown(bar),
    )


def _of_model(request: Request, path: str, bar: LateBar) -> tuple[str, Study, Header]:
    from classifiers.model_file import load

    classifier, header = load(path, horizon=request.horizon)
    params = request.judging(header.horizon)
    params.cluster()
    trace, split, note = _unseen(request, header)
    name = f"hazard-{classifier.kind}"
    predictors: dict[str, Predictor] = {name: c.deployed(classifier, split.training)}
    found = study(trace, split, predictors, params, notes=(note,), progress=_shown(bar))
    return name, found, header


def _unseen(request: Request, header: Header) -> tuple[Trace, c.Split, str]:
    """Cut a trace so that the later part holds nothing that trained the model."""
    rows, options = header.training_rows, request.source.options
    limit = options.limit
    # A limit below the training rows would keep them from being recognised, and be judged on.
    enough = None if limit is None else max(limit, rows)
    source = replace(request.source, options=replace(options, limit=enough))
    trace = source.load(request.seed)
    header.check_unseen(trace)
    if not header.trained_on(trace):
        trace = trace.head(limit)
        split, note = request.split(trace)
        return trace, split, f"the model was trained on {header.trace_name}; {note}"
    trace = trace.head(limit)
    if len(trace) - rows < c.MIN_REQUESTS:
        raise ParameterError(
            f"{trace.name}: its first {rows:,} of {len(trace):,} requests trained the model, "
            f"{max(0, len(trace) - rows)} are left, must be at least {c.MIN_REQUESTS}; train with "
            "a smaller --train, or evaluate on another trace"
        )
    note = f"the first {rows:,} of {len(trace):,} requests trained the model and are left out"
    return trace, c.split_at(trace, rows), note


def evaluation_facts(found: Study, kind: str, header: Header | None) -> dict[str, Any]:
    """Return what ``evaluate --json`` prints: one flat object, and everybody's scores in full."""
    facts = found.to_dict()
    own = next(each for each in facts["scores"] if each["kind"] == kind)
    return {
        **{key: value for key, value in own.items() if key != "calibration"},
        "brier_survival": found.judgement(c.SURVIVAL).scores.brier,
        "brier_climatology": found.judgement(c.CLIMATOLOGY).scores.brier,
        **{key: value for key, value in facts.items() if key != "decision_value"},
        "model": None if header is None else asdict(header),
    }


def _shown(bar: LateBar) -> Callable[[str, int, int], None]:
    last = ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        if what != last:
            bar.rename(what)
            last = what
        bar.update(done, total)

    return show


def _print(found: Study, facts: dict[str, Any] | None) -> None:
    if facts is None:
        print_study(found)
    else:
        sys.stdout.write(json_text(facts) + "\n")


def _say_written(path: str | None) -> None:
    if path is not None:
        sys.stderr.write(f"wrote {path}\n")
