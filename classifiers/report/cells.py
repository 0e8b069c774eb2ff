"""Figures of a study as texts, the same in the terminal and on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifiers.evaluation.candidates import SURVIVAL

if TYPE_CHECKING:
    from classifiers.evaluation.bootstrap import Interval
    from classifiers.evaluation.decision import Value
    from classifiers.evaluation.scores import Judgement
    from classifiers.evaluation.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A score as a column of tables.

    Attributes
    ----------
    name : str
        Attribute of `classifiers.evaluation.scores.Scores`.
    label, unit : str
    digits : int
        Decimals.
    """

    name: str
    label: str
    digits: int
    unit: str = ""


COLUMNS = (
    Column(name="auc", label="AUC", digits=3),
    Column(name="average_precision", label="avg. precision", digits=3),
    Column(name="brier", label="Brier", digits=4),
    Column(name="log_loss", label="log-loss", digits=4),
    Column(name="ece", label="ECE", digits=4),
    Column(name="mae", label="MAE of μ", digits=2, unit="steps"),
    Column(name="contribution_mae", label="MAE of ĉ", digits=2, unit="steps"),
    Column(name="crps", label="CRPS", digits=3, unit="steps"),
)
PARTS = (
    Column(name="brier", label="Brier", digits=4),
    Column(name="reliability", label="reliability", digits=4),
    Column(name="resolution", label="resolution", digits=4),
    Column(name="uncertainty", label="uncertainty", digits=4),
    Column(name="within_bin", label="within bins", digits=4),
)
DECISION_HEADINGS = (
    "predictor",
    "G",
    "projection",
    "imbalance",
    "share of gap",
    "tok/s",
    "share of gap",
)


def score_text(judgement: Judgement, column: Column) -> str:
    """Write a score; – where it is undefined."""
    return number(getattr(judgement.scores, column.name), column.digits)


def interval_text(judgement: Judgement, column: Column) -> str:
    """Write a score's interval as ``low–high``; nothing without one."""
    return _interval(judgement.intervals.get(column.name), column.digits)


def against_text(judgement: Judgement) -> str:
    """Say how a Brier score compares with Survival's, judged by the paired interval."""
    found = judgement.against.get("brier")
    if found is None:
        return ""
    if found.high < 0:
        return "better"
    return "worse" if found.low > 0 else "no difference shown"


def _interval(interval: Interval | None, digits: int) -> str:
    return "" if interval is None else f"{interval.low:.{digits}f}–{interval.high:.{digits}f}"


def number(value: float, digits: int) -> str:
    """Write a number; – for NaN."""
    # Rounded first, or a tiny negative would show as -0.000.
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:,.{digits}f}"


def share_text(share: float | None) -> str:
    """Write a share of the gap as per cent; – where there is no gap to speak of."""
    return "–" if share is None else f"{100 * share:.0f} %"


def value_cells(value: Value) -> list[str]:
    """Return a decision value as a row of `DECISION_HEADINGS`."""
    spread = "" if math.isnan(value.imbalance_spread) else f" ± {value.imbalance_spread:,.0f}"
    rate = "" if math.isnan(value.throughput_spread) else f" ± {value.throughput_spread:,.0f}"
    return [
        value.kind,
        str(value.workers),
        value.projection or "–",
        f"{value.imbalance:,.0f}{spread}",
        share_text(value.share_imbalance),
        f"{value.throughput:,.0f}{rate}",
        share_text(value.share_throughput),
    ]


def headline(study: Study) -> str:
    """Say what the scores are made from."""
    samples = study.samples
    return (
        f"{study.trace_name}: H = {study.params.horizon}, {len(samples):,} samples of "
        f"{study.testing_rows:,} requests after {study.training_rows:,} of training, "
        f"{100 * float(samples.ends.mean()):.1f} % end within H"
    )


def reading() -> str:
    """Say how to read the scores."""
    return f"Intervals: 95 %, block bootstrap over requests; differences are to {SURVIVAL}, paired."
