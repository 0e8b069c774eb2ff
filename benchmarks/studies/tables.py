"""Tables of what came out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._table import show
from benchmarks.studies.growth import Exponent, exponent
from benchmarks.studies.plan import BASELINE, POLICIES
from brsolver.results.comparison import mean_and_half_width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


SETTING = ("prefill", "trace", "length", "interval", "routing", "load")
"""What runs have in common that are shown in one table."""


class Results:
    """Rows of a campaign, the failed ones left out.

    Parameters
    ----------
    rows : iterable of mapping
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.rows = [{**row, "length": _length(row)} for row in rows if row.get("failed") is None]
        self._tell_apart()
        self._gains()

    def _tell_apart(self) -> None:
        """Call traces of one name by what is in their files, too."""
        files: dict[str, set[str]] = defaultdict(set)
        for row in self.rows:
            files[row["trace"]].add(row["file"])
        for row in self.rows:
            if len(files[row["trace"]]) > 1:
                row["trace"] += f" {row['file'] or 'preset'}"

    def _gains(self) -> None:
        """Add every run's gain over vLLM's rule on the same requests, without an interval."""
        names = ("prefill", "trace", "workers", "seed", "requests", "routing", "load")
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
        """Return what runs have in common that are shown in one table."""
        found = dict.fromkeys(tuple(row[name] for name in SETTING) for row in self.rows)
        return [dict(zip(SETTING, values, strict=True)) for values in found]

    def mean(self, figure: str, **values: object) -> float:
        """Return a figure's mean over seeds; NaN where nothing was run."""
        found = [row[figure] for row in self.of(**values)]
        return float(np.mean(found)) if found else math.nan

    def written(self, figure: str, text: Callable[[float], str], **values: object) -> str:
        """Write a figure's mean over seeds, and half its interval where there are several."""
        return with_interval([row[figure] for row in self.of(**values)], text)

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


def with_interval(figures: Sequence[float], text: Callable[[float], str]) -> str:
    """Write the mean, and half its 95 % interval (Student's t) if there are several figures."""
    mean, half, _ = mean_and_half_width(figures)
    if math.isnan(mean):
        return "–"
    return text(mean) if math.isnan(half) else f"{text(mean)} ± {text(half).removeprefix('+')}"


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
                    *(results.written(figure, text, **setting, workers=g, policy=policy)
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
    when = f"by time at {setting['load']:g} of the slots" if setting["load"] else "all slots full"
    return f"{setting['trace']}, {setting['length']}, {where}, {setting['routing']}, {when}"


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
    """Print what cells cost, beside one router of the same policy; means over seeds."""
    for setting in results.settings():
        found = results.of(**setting)
        if any(in_cells(row["policy"]) for row in found):
            tried = dict.fromkeys((row["workers"], row["policy"]) for row in found)
            rows = [_cells_row(results, {**setting, "workers": g, "policy": p}) for g, p in tried]
            header = ("G", "policy", *(heading for heading, *_ in _BESIDE))
            show(f"{titled(setting)}: cells instead of one router", header, rows)


def inner_of(policy: str) -> str:
    """Return the policy within cells; itself, where there are none."""
    from brsolver.specs import parse_spec

    if not in_cells(policy):
        return policy
    return parse_spec(policy)[1].get("inner", "br-ramp")


Compared = Mapping[str, Any]
_BESIDE: Sequence[tuple[str, Callable[[Compared, Compared], float], str]] = (
    ("imbalance over one router's", lambda own, one: own["imbalance"] / one["imbalance"], ".3f"),
    ("time lost, %", lambda own, _: 100 * own["lost_share"], ".2f"),
    ("one router, %", lambda _, one: 100 * one["lost_share"], ".2f"),
    (
        "tokens/s over one router's, %",
        lambda own, one: 100 * (own["tokens_s"] / one["tokens_s"] - 1),
        "+.2f",
    ),
    ("over vllm's, %", lambda own, _: 100 * own["gain"], "+.2f"),
    ("TPOT P50, ms", lambda own, _: 1e3 * own["tpot_p50_s"], ".2f"),
    ("TTFT P99, s", lambda own, _: own["ttft_p99_s"], ".2f"),
    ("one router, s", lambda _, one: one["ttft_p99_s"], ".2f"),
    ("slots in use, %", lambda own, _: 100 * own["slots_in_use"], ".2f"),
)
"""Heading, figure of a run and of the one router that it is held against, and how it is written."""


def _cells_row(results: Results, what: Mapping[str, Any]) -> tuple[object, ...]:
    beside = {
        row["seed"]: row for row in results.of(**{**what, "policy": inner_of(what["policy"])})
    }
    runs = results.of(**what)
    nothing = dict.fromkeys(runs[0], math.nan)
    pairs = [(row, beside.get(row["seed"], nothing)) for row in runs]
    cells = (
        with_interval([found(own, one) for own, one in pairs], lambda x, form=form: format(x, form))
        for _, found, form in _BESIDE
    )
    return (what["workers"], what["policy"].removeprefix("cells:"), *cells)
