"""Tables for the terminal, and flat rows for files."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from brsolver.report.groups import FIRST, best, deciding, directed, groups, measured
from brsolver.report.labels import METRICS, MetricInfo, format_half_width, format_number
from brsolver.results.deciding import change
from brsolver.results.verdict import identical

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from brsolver.results.comparison import Comparison, Estimate, Run
    from brsolver.results.metrics import Metrics

LABEL_WIDTH = 40
CELL_WIDTH = 28
WIDE_CELL_WIDTH = 32
"""Where counts of tokens and calls are among the figures."""
BEST = "*"


def metrics_table(metrics: Metrics, *, title: str) -> Table:
    """Make the table of one run's metrics with their units."""
    # Titles hold names that brackets may stand in, which Rich would take for markup.
    table = Table(
        title=Text(title), title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("unit", style="dim")
    for heading, infos in (("", deciding()), *groups()):
        # One column: a figure that stands above needs no second place.
        told = FIRST if heading else ()
        shown = [each for each in infos if each.name not in told and _known(metrics, each)]
        if heading and shown:
            table.add_row(Text(heading, style="bold"), "", "")
        for info in shown:
            value = float(getattr(metrics, info.name)) * info.scale
            table.add_row(info.label, format_number(value), info.unit)
    return table


def _known(metrics: Metrics, info: MetricInfo) -> bool:
    return not math.isnan(float(getattr(metrics, info.name)))


def comparison_tables(
    comparison: Comparison, *, width: int, whole: bool = False
) -> Iterator[Table]:
    """Make one table per number of workers, split by policies where they exceed `width`.

    With the figures that decide, or, if `whole`, with all.
    """
    cell = WIDE_CELL_WIDTH if whole else CELL_WIDTH
    per_table = max(1, (width - LABEL_WIDTH) // cell)
    for workers in comparison.workers:
        for first in range(0, len(comparison.policies), per_table):
            policies = comparison.policies[first : first + per_table]
            yield _comparison_table(comparison, workers, policies, whole=whole)


def _comparison_table(
    comparison: Comparison, workers: int, policies: Sequence[str], *, whole: bool
) -> Table:
    table = Table(
        title=f"G = {workers} {'worker' if workers == 1 else 'workers'}",
        title_justify="left",
        header_style="bold",
        pad_edge=False,
    )
    table.add_column("metric", no_wrap=True)
    same = identical(comparison)
    for policy in policies:
        table.add_column(_heading(comparison, policy, same), justify="right")
    for heading, infos in (("", deciding()), *(groups() if whole else ())):
        shown = [each for each in infos if measured(comparison, workers, each)]
        if heading and shown:
            table.add_section()
            table.add_row(Text(heading, style="bold"))
        for info in shown:
            _add_row(table, comparison, workers, policies, info)
    return table


def _add_row(
    table: Table,
    comparison: Comparison,
    workers: int,
    policies: Sequence[str],
    info: MetricInfo,
) -> None:
    shown = directed(comparison, workers, info)
    marked = best(comparison, workers, shown)
    cells = [
        _cell(comparison.estimate(policy, workers, info.name), shown, best=policy in marked)
        for policy in policies
    ]
    table.add_row(f"{info.label} ({info.unit})" if info.unit else info.label, *cells)


def _heading(comparison: Comparison, policy: str, same: Mapping[str, str]) -> Text:
    remarks = policy_remarks(comparison, policy, same)
    return Text(f"{policy}\n({remarks})" if remarks else policy, overflow="fold")


def policy_remarks(comparison: Comparison, policy: str, same: Mapping[str, str]) -> str:
    """Say whether a policy is the baseline, gave what another did, or the same with every seed.

    `same` is what `identical` says of the comparison.
    """
    remarks = ["baseline"] if policy == comparison.baseline else []
    if policy in same:
        remarks.append(f"same runs as {same[policy]}")
    if len(comparison.seeds) > 1 and is_deterministic(comparison, policy):
        remarks.append("deterministic")
    return ", ".join(remarks)


def _cell(estimate: Estimate, info: MetricInfo, *, best: bool) -> Text:
    text = Text(no_wrap=True)
    text.append(
        f"{BEST if best else ''}{format_number(estimate.mean * info.scale)} ",
        style="bold" if best else "",
    )
    text.append(f"{spread_text(estimate, info):<8}", style="dim")
    text.append(f"{ratio_text(estimate):>8}", style=_verdict_style(estimate, info))
    return text


def spread_text(estimate: Estimate, info: MetricInfo) -> str:
    """Write the interval's half width, nothing for one seed, ``±0`` if nothing was random."""
    if estimate.seeds < 2:
        return ""
    if estimate.deterministic:
        return "±0"
    return "±" + format_half_width(estimate.half_width * info.scale, estimate.mean * info.scale)


def ratio_text(estimate: Estimate) -> str:
    """Write the ratio to the baseline as ``×0.931``; – where either is negative, or it is 0."""
    if not estimate.ratio >= 0:
        return "–"
    digits = 3 if estimate.ratio < 10 else 1
    return f"×{estimate.ratio:,.{digits}f}"


def _verdict_style(estimate: Estimate, info: MetricInfo) -> str:
    return {"better": "green", "worse": "red"}.get(change(estimate, info.better), "")


def interval_note(comparison: Comparison) -> str:
    """Say what the intervals mean for this comparison."""
    seeds = len(comparison.seeds)
    if seeds < 2:
        return "One seed: no intervals. Give more seeds for 95 % confidence intervals."
    fixed = [policy for policy in comparison.policies if is_deterministic(comparison, policy)]
    note = f"Mean ± half of the 95 % confidence interval (Student t) over {seeds} seeds."
    if any(run.start for run in comparison.runs):
        note += " The trace is the same for all; each run starts a request later than the last."
    if len(fixed) == len(comparison.policies):
        return f"{note} Nothing in these runs is random (deterministic): every seed gave the same."
    if fixed:
        return f"{note} Policies marked deterministic gave the same with every seed."
    return note


def legend(comparison: Comparison) -> str:
    """Say below terminal tables what their marks mean, and where the other figures are."""
    parts = [interval_note(comparison)]
    if len(comparison.policies) > 1:
        parts.append(f"×: ratio to {comparison.baseline}.")
        parts.append(f"{BEST} best of a row, where a policy is worse beyond noise.")
    parts.append("All figures: --all, or the report.")
    return " ".join(parts)


def is_deterministic(comparison: Comparison, policy: str) -> bool:
    """Tell whether all that was simulated, not timed, came out the same with every seed."""
    simulated = (info.name for info in METRICS if not info.measured)
    return all(
        estimate.deterministic or estimate.seeds == 0
        for name in simulated
        for estimate in (comparison.estimate(policy, g, name) for g in comparison.workers)
    )


def flat_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one row per run: what was run, every metric in its base unit, and the notes."""
    return [_flat_row(run) for run in comparison.runs]


def _flat_row(run: Run) -> dict[str, Any]:
    asked: Mapping[str, Any] = {
        "spec": run.policy,
        "trace": run.trace_name,
        "trace_fingerprint": run.trace_fingerprint,
        "predictor": run.predictor,
        "sees_future": run.sees_future,
        "policy_params": json.dumps(dict(run.policy_params), sort_keys=True, default=str),
    }
    return {**asked, **run.metrics.to_dict(), "notes": "; ".join(run.notes)}
