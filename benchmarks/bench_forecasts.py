"""How good forecasts are, and what they are worth: the tables of docs/classifiers.md.

Run ``python -m benchmarks.bench_forecasts [FILE ...] [--kinds A,B] [--value-workers 8,16]``;
without files, on synthetic traces. Every trace is split in two by time.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from benchmarks._table import show
from brsolver.traces import load_trace
from classifiers.evaluation import candidates as c
from classifiers.evaluation.study import JudgingParams, Study, study
from classifiers.report.cells import COLUMNS, DECISION_HEADINGS, score_text, value_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.traces.trace import Trace
    from classifiers.evaluation.scores import Judgement

PRESETS = (
    "preset:azure2024-long-like",
    "preset:proprietary-like",
    "preset:recurring-prompts",
    "preset:chat",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print two tables per trace; arguments None are those of the command line."""
    options = _options(arguments)
    for source in options.traces or PRESETS:
        _show(_judge(load_trace(source), c.check_kinds(options.kinds), options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--kinds", default=",".join(c.KINDS))
    parser.add_argument("--value-workers", default="8,16")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--starts", type=int, default=1)
    parser.add_argument("--bootstrap", type=int, default=200)
    return parser.parse_args(arguments)


def _judge(trace: Trace, kinds: tuple[str, ...], options: argparse.Namespace) -> Study:
    params = JudgingParams(slots=options.slots, replicates=options.bootstrap)
    split = c.split_at(trace, len(trace) // 2)
    predictors = {
        kind: c.make(kind, split.training, horizon=params.horizon, seed=params.seed)
        for kind in kinds
    }
    workers = options.value_workers
    return study(
        trace,
        split,
        predictors,
        params,
        workers=() if workers == "none" else tuple(map(int, workers.split(","))),
        starts=options.starts,
    )


def _show(found: Study) -> None:
    show(
        f"{found.trace_name}: {found.testing_rows:,} requests, {len(found.samples):,} samples, "
        f"base rate {found.samples.ends.mean():.3f}",
        ("predictor", *(column.label for column in COLUMNS), "Brier - Survival's, 95 %"),
        [
            (each.kind, *(score_text(each, column) for column in COLUMNS), _difference(each))
            for each in found.judgements
        ],
    )
    if found.values:
        show("Decision value", DECISION_HEADINGS, [value_cells(value) for value in found.values])


def _difference(judgement: Judgement) -> str:
    interval = judgement.against.get("brier")
    return "" if interval is None else f"{interval.low:+.4f}..{interval.high:+.4f}"


if __name__ == "__main__":
    main()
