"""Means, comparisons and forecasts of a session, as data and as text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from integration.bench.figures import FIGURES
from integration.bench.statistics import Interval, interval, relative_difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from integration.bench.session import Run
    from integration.bench.simulated import StepFit

SHOWN = (
    "kv_imbalance",
    "throughput_tok_s",
    "tpot_p50_ms",
    "tpot_p95_ms",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "e2e_p50_ms",
    "e2e_p95_ms",
)
OVERHEAD = ("routing_p50_us", "routing_p99_us", "output_us", "fallbacks")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm over all rounds.

    Attributes
    ----------
    arm : str
    means : mapping of str to Interval
        By figure.
    differences : mapping of str to Interval
        Relative to the first arm, paired by round; empty for the first arm.
    """

    arm: str
    means: Mapping[str, Interval]
    differences: Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """A figure of one arm, simulated against measured, means over rounds.

    Attributes
    ----------
    arm : str
    simulated, measured : float
    figure : str
        Of `FIGURES`.
    """

    arm: str
    simulated: float
    measured: float
    figure: str = "kv_imbalance"

    @property
    def error(self) -> float:
        """Relative error of the simulated figure."""
        return self.simulated / self.measured - 1


def summarise(runs: Sequence[Run], confidence: float) -> list[ArmSummary]:
    """Summarise a session, arms in order of their first appearance."""
    names = list(dict.fromkeys(run.arm for run in runs))
    values = {name: _values(runs, name) for name in names}
    return [_summary(name, values, names[0], confidence) for name in names]


def _summary(
    name: str,
    values: Mapping[str, Mapping[str, Sequence[float]]],
    reference: str,
    confidence: float,
) -> ArmSummary:
    own, other = values[name], values[reference]
    compared = SHOWN if name != reference else ()
    return ArmSummary(
        arm=name,
        means={figure: interval(each, confidence) for figure, each in own.items()},
        differences={
            figure: relative_difference(own[figure], other[figure], confidence)
            for figure in compared
        },
    )


def _values(runs: Sequence[Run], arm: str) -> dict[str, list[float]]:
    own = sorted((run for run in runs if run.arm == arm), key=lambda run: run.round)
    return {figure: [run.figures[figure] for run in own] for figure in FIGURES}


def as_json(
    runs: Sequence[Run],
    summaries: Sequence[ArmSummary],
    fit: StepFit | None = None,
    foretold: Sequence[Foretold] = (),
) -> dict[str, Any]:
    """Return plain data: every run's figures, summaries, the fit and the forecasts."""
    data = {
        "figures": dict(FIGURES),
        "runs": [{"arm": r.arm, "round": r.round, **r.figures} for r in runs],
        "arms": [asdict(summary) for summary in summaries],
        "step_time": asdict(fit) if fit else None,
        "simulated": [asdict(each) | {"error": each.error} for each in foretold],
    }
    return {key: _plain(value) for key, value in data.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    # JSON has no NaN.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_text(
    summaries: Sequence[ArmSummary],
    fit: StepFit | None = None,
    foretold: Sequence[Foretold] = (),
) -> str:
    """Return tables of means, of differences with what they show, and of forecasts."""
    parts = [_table("means over rounds, with confidence intervals", SHOWN, summaries)]
    parts.append(_differences(summaries))
    parts.append(_table("the adapter's own cost", OVERHEAD, summaries))
    if fit is not None:
        parts.append(
            f"step time, fitted to {fit.steps} decode steps: {1e3 * fit.base_s:.1f} ms + "
            f"{1e6 * fit.per_token_s:.2f} ms per 1000 max-KV tokens + "
            f"{1e3 * fit.per_sequence_s:.2f} ms per sequence "
            f"(median error {fit.error:.1%})"
        )
    parts += [
        f"simulated {each.figure} of {each.arm}: {each.simulated:.4g}, measured "
        f"{each.measured:.4g} ({each.error:+.1%})"
        for each in foretold
    ]
    return "\n".join(parts)


def _table(title: str, figures: Sequence[str], summaries: Sequence[ArmSummary]) -> str:
    rows = [["policy", *figures]]
    rows += [[each.arm, *(_shown(each.means[f]) for f in figures)] for each in summaries]
    return _aligned(title, rows)


def _differences(summaries: Sequence[ArmSummary]) -> str:
    rows = [["policy", *SHOWN]]
    rows += [
        [each.arm, *(_difference(each.differences[f]) for f in SHOWN)]
        for each in summaries
        if each.differences
    ]
    return _aligned(f"relative to {summaries[0].arm}, paired by round", rows)


def _shown(value: Interval) -> str:
    if math.isnan(value.mean):
        return "-"
    if math.isnan(value.low):
        return f"{value.mean:.4g}"
    return f"{value.mean:.4g} ± {value.high - value.mean:.2g}"


def _difference(value: Interval) -> str:
    if math.isnan(value.mean):
        return "-"
    if math.isnan(value.low):
        return f"{value.mean:+.1%} (one round)"
    return f"{value.mean:+.1%} [{value.low:+.1%}, {value.high:+.1%}] {value.verdict()}"


def _aligned(title: str, rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([title, *(f"  {line}" for line in lines), ""])
