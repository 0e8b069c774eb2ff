"""Tables of what came out."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._table import show
from benchmarks.studies.growth import Exponent, exponent
from benchmarks.studies.plan import BASELINE, POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class Results:
    """Rows of a campaign, the failed ones left out.

    Parameters
    ----------
    rows : iterable of mapping
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.rows = [{**row, "length": _length(row)} for row in rows if row.get("failed") is None]
        self._gains()

    def _gains(self) -> None:
        """Add every run's gain over vLLM's rule on the same requests, without an interval."""
        names = ("prefill", "trace", "workers", "seed", "requests")
        base = {
            tuple(row[name] for name in names): row["tokens_s"]
            for row in self.rows
            if row["policy"] == BASELINE and row["interval"] == 1
        }
        for row in self.rows:
            by = base.get(tuple(row[name] for name in names))
            row["gain"] = math.nan if by is None else row["tokens_s"] / by - 1

    def of(self, **values: object) -> list[dict[str, Any]]:
        """Return the rows that have these values."""
        return [row for row in self.rows if all(row[k] == v for k, v in values.items())]

    def settings(self) -> list[dict[str, Any]]:
        """Return where prompts are computed, traces, numbers of requests and intervals."""
        names = ("prefill", "trace", "length", "interval")
        found = dict.fromkeys(tuple(row[name] for name in names) for row in self.rows)
        return [dict(zip(names, values, strict=True)) for values in found]

    def mean(self, figure: str, **values: object) -> float:
        """Return a figure's mean over seeds; NaN where nothing was run."""
        found = [row[figure] for row in self.of(**values)]
        return float(np.mean(found)) if found else math.nan

    def sizes(self, **values: object) -> list[int]:
        """Return the sizes of cluster that one router was run at."""
        rows = self.of(**values)
        return sorted({row["workers"] for row in rows if not in_cells(row["policy"])})

    def exponent(self, figure: str, **values: object) -> Exponent:
        """Fit how a figure grows with the number of workers."""
        by_seed: dict[int, dict[int, float]] = defaultdict(dict)
        for row in self.of(**values):
            by_seed[row["seed"]][row["workers"]] = row[figure]
        return exponent(by_seed)


def _length(row: Mapping[str, Any]) -> str:
    if row["per_slot"]:
        return f"{row['per_slot']} requests per slot"
    return f"{row['requests']:,} requests"


def in_cells(policy: str) -> bool:
    """Tell whether workers were in cells."""
    return policy.startswith("cells")


FIGURES: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("imbalance", "imbalance, thousand KV tokens", lambda x: f"{x / 1e3:,.1f}"),
    ("imbalance_share", "imbalance over G·max, %", lambda x: f"{100 * x:.2f}"),
    ("lost_share", "time lost, %", lambda x: f"{100 * x:.2f}"),
    ("gain", "tokens/s over vllm, %", lambda x: f"{100 * x:+.2f}"),
    ("decision_us_p50", "decision P50, ms of a processor", lambda x: f"{x / 1e3:.3f}"),
    ("decision_us_p99", "decision P99, ms of a processor", lambda x: f"{x / 1e3:.3f}"),
)
"""Figure, heading, and how it is written."""


def show_growth(results: Results) -> None:
    """Print how each figure grows, for one router."""
    for setting in results.settings():
        sizes = results.sizes(**setting)
        for figure, heading, text in FIGURES if len(sizes) > 1 else ():
            rows = [
                (
                    policy,
                    *(text(results.mean(figure, **setting, workers=g, policy=policy))
                      for g in sizes),
                    str(results.exponent(figure, **setting, policy=policy)),
                )
                for policy in POLICIES[setting["prefill"]]
            ]  # fmt: skip
            names = [f"G = {g:,}" for g in sizes]
            show(f"{titled(setting)}: {heading}", ("policy", *names, "~ G^x"), rows)


def titled(setting: Mapping[str, Any]) -> str:
    """Name a setting in a table's title."""
    where = f"prompts {setting['prefill']}, interval {setting['interval']}"
    return f"{setting['trace']}, {setting['length']}, {where}"


def show_costs(results: Results) -> None:
    """Print what the runs took."""
    names = ("trace", "prefill", "interval", "workers", "policy", "seed", "requests", "steps")
    figures = ("run_s", "decisions_s", "peak_mib")
    rows = [
        (*(row[name] for name in names), *(f"{row[name]:,.1f}" for name in figures))
        for row in results.rows
    ]
    header = (*names, "run, s", "decisions, s of a processor", "peak, MiB")
    show("Wall time and memory", header, rows)


def show_cells(results: Results) -> None:
    """Print what cells cost, beside one router of the same policy."""
    for setting in results.settings():
        found = results.of(**setting)
        rows = [_cells_row(results, row) for row in found]
        if any(in_cells(row["policy"]) for row in found):
            header = ("G", "seed", "policy", "imbalance over one router's", "time lost, %",
                      "one router, %", "tokens/s over one router's, %", "over vllm's, %",
                      "TTFT P99 s", "one router, s", "slots in use, %")  # fmt: skip
            show(f"{titled(setting)}: cells instead of one router", header, rows)


def inner_of(policy: str) -> str:
    """Return the policy within cells; itself, where there are none."""
    from brsolver.specs import parse_spec

    if not in_cells(policy):
        return policy
    return parse_spec(policy)[1].get("inner", "br-ramp")


def _cells_row(results: Results, row: Mapping[str, Any]) -> tuple[object, ...]:
    same = ("prefill", "trace", "workers", "seed", "length", "interval")
    one = results.of(policy=inner_of(row["policy"]), **{name: row[name] for name in same})
    beside = one[0] if one else dict.fromkeys(row, math.nan)
    return (
        row["workers"], row["seed"], row["policy"].removeprefix("cells:"),
        f"{row['imbalance'] / beside['imbalance']:.3f}",
        f"{100 * row['lost_share']:.2f}", f"{100 * beside['lost_share']:.2f}",
        f"{100 * (row['tokens_s'] / beside['tokens_s'] - 1):+.2f}",
        f"{100 * row['gain']:+.2f}",
        f"{row['ttft_p99_s']:.1f}", f"{beside['ttft_p99_s']:.1f}",
        f"{100 * row['slots_in_use']:.2f}",
    )  # fmt: skip
