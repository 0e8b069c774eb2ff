"""The figures of a forecast report, as matplotlib figures without pyplot.

Call them inside `brsolver.report.style.styled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import roc_curve

from brsolver.report.style import FAINT, figure, legend_beside, line_style
from classifiers.evaluation.candidates import CLIMATOLOGY, ORACLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from classifiers.evaluation.decision import Value
    from classifiers.evaluation.study import Study

_BINS = 25
_POINTS = 600
_BAR_IN = 0.3


def calibration(study: Study) -> Figure:
    """Draw observed shares over forecasts, and below how often each forecast is made."""
    drawn = figure(5.6)
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], ":", color=FAINT, lw=1.2)
    edges = np.linspace(0, 1, _BINS + 1)
    for index, each in enumerate(study.judgements):
        colour, dash = line_style(index)
        label = f"{each.kind}  (ECE {each.scores.ece:.3f})"
        above.plot(*each.curve[:2], dash, marker="o", ms=3.5, color=colour, label=label)
        told = study.samples.told[each.kind].p_finish
        share = np.histogram(told, edges)[0] / told.size
        below.stairs(share, edges, color=colour, lw=1.2)
    above.set(ylabel=f"share that ended within {study.params.horizon} steps")
    below.set(xlabel="forecast probability", ylabel="share of samples")
    above.set_xlim(-0.01, 1.01)
    below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    legend_beside(above, [each.kind for each in study.judgements])
    return drawn


def roc(study: Study) -> Figure:
    """Draw hits over false alarms as the threshold falls."""
    drawn = figure(4.4)
    axes = drawn.subplots()
    axes.plot([0, 1], [0, 1], ":", color=FAINT, lw=1.2)
    for index, each in enumerate(study.judgements):
        if np.isnan(each.scores.auc):
            continue
        colour, dash = line_style(index)
        alarms, hits = _roc(study, each.kind)
        axes.plot(
            alarms, hits, dash, color=colour, label=f"{each.kind}  (AUC {each.scores.auc:.3f})"
        )
    axes.set(
        xlabel="false alarms: share of those that stayed", ylabel="hits: share of those that ended"
    )
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    if axes.get_legend_handles_labels()[1]:
        legend_beside(axes, [each.kind for each in study.judgements])
    return drawn


def _roc(study: Study, kind: str) -> tuple[np.ndarray, np.ndarray]:
    alarms, hits, _ = roc_curve(study.samples.ends, study.samples.told[kind].p_finish)
    # As many points as can be told apart; the first and the last are the corners.
    shown = np.unique(np.linspace(0, alarms.size - 1, min(alarms.size, _POINTS)).astype(int))
    return alarms[shown], hits[shown]


def decision(study: Study) -> Figure:
    """Draw the share of the way from BR-0 to the oracle that each predictor brings."""
    cases = _cases(study)
    kinds = [k.kind for k in study.judgements if k.kind not in (CLIMATOLOGY, ORACLE)]
    drawn = figure(1.2 + _BAR_IN * max(len(kinds), 2) * len(cases))
    axes = drawn.subplots()
    height = 0.8 / len(kinds)
    for index, kind in enumerate(kinds):
        colour, _ = line_style([k.kind for k in study.judgements].index(kind))
        shares = [_share(values, kind) for values in cases.values()]
        at = np.arange(len(cases)) + (index - (len(kinds) - 1) / 2) * height
        axes.barh(at, shares, height * 0.9, color=colour, label=kind)
    _finish_shares(axes, list(cases))
    legend_beside(axes, kinds)
    return drawn


def _cases(study: Study) -> dict[str, list[Value]]:
    cases: dict[str, list[Value]] = {}
    for value in study.values:
        if value.projection:
            name = f"G = {value.workers}, {value.projection}"
            cases.setdefault(name, []).append(value)
    return cases


def _share(values: list[Value], kind: str) -> float:
    found = next((v.share_imbalance for v in values if v.kind == kind), None)
    return float("nan") if found is None else found


def _finish_shares(axes: Axes, names: list[str]) -> None:
    axes.axvline(0, color=FAINT, lw=1.0)
    axes.axvline(1, color=FAINT, lw=1.0, ls=":")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(xlabel="share of the way from BR-0 (0) to the oracle (1), by imbalance")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")
