from __future__ import annotations

import io
import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from brsolver.report.labels import METRICS, format_half_width, format_number
from brsolver.report.tables import (
    comparison_tables,
    interval_note,
    metrics_table,
    ratio_text,
    spread_text,
)
from brsolver.results.comparison import Estimate
from brsolver.results.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.results.comparison import Comparison
    from brsolver.results.result import SimulationResult

IDENTITY = {
    "policy",
    "workers",
    "slots",
    "requests",
    "window_first",
    "window_end",
    "seed",
    "version",
}
BY_NAME = {info.name: info for info in METRICS}


def estimate(ratio: float, doubt: float = math.nan, half_width: float = 1.0) -> Estimate:
    return Estimate(mean=10.0, half_width=half_width, ratio=ratio, ratio_half_width=doubt, seeds=3)


def rendered(*tables: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in tables:
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_metric_is_shown() -> None:
    assert {field.name for field in fields(Metrics)} - IDENTITY == set(BY_NAME)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (math.nan, "–"),
        (math.inf, "inf"),
        (1234567.8, "1,234,568"),
        (12.3456, "12.35"),
        (0.0123456, "0.01235"),
        (1.2e-7, "1.20e-07"),
        (40.0, "40"),
        (-3.14159, "-3.142"),
    ],
)
def test_numbers_have_four_digits(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("half", "mean", "text"),
    [(0.0, 1.0, "0"), (math.nan, 1.0, "–"), (0.01234, 5.0, "0.012"), (1234.0, 5e4, "1,234"),
     (1e-9, 5e4, "1.0e-09")],
)  # fmt: skip
def test_half_widths_have_two_digits(half: float, mean: float, text: str) -> None:
    assert format_half_width(half, mean) == text


def test_spread_and_ratio_are_written() -> None:
    info = BY_NAME["tpot_mean_s"]
    assert spread_text(estimate(1.0, half_width=0.012), info) == "±12"
    assert spread_text(estimate(1.0, half_width=0.0), info) == "±0"
    assert spread_text(replace(estimate(1.0), seeds=1), info) == ""
    assert ratio_text(estimate(0.9314)) == "×0.931"
    assert ratio_text(estimate(1234.5)) == "×1,234.5"
    assert ratio_text(estimate(math.nan)) == "–"


def test_one_run_is_listed_with_units(result_maker: Callable[..., SimulationResult]) -> None:
    result = result_maker()
    text = rendered(metrics_table(result.metrics, title="[bold]fcfs[/bold] on x"))
    assert "[bold]fcfs[/bold] on x" in text
    assert f"{result.metrics.throughput_tok_s:,.0f}" in text
    assert "tok/s" in text


def test_policies_are_spread_over_tables_that_fit(comparison: Comparison) -> None:
    assert len(list(comparison_tables(comparison, width=160))) == 2
    narrow = list(comparison_tables(comparison, width=80))
    assert len(narrow) == 4
    assert max(map(len, rendered(*narrow, width=80).splitlines())) <= 80


def test_table_names_the_baseline_and_intervals(comparison: Comparison) -> None:
    text = rendered(*comparison_tables(comparison, width=160))
    assert "G = 2 workers" in text
    assert "G = 4 workers" in text
    assert "(baseline)" in text
    assert "±" in text
    assert "×1.000" in text


def test_note_says_what_the_interval_is(comparison_maker: Callable[..., Comparison]) -> None:
    assert "over 3 seeds" in interval_note(comparison_maker(workers=(2,)))
    assert "no intervals" in interval_note(comparison_maker(workers=(2,), seeds=1))


def test_equal_runs_are_called_deterministic(
    comparison_maker: Callable[..., Comparison],
) -> None:
    one = comparison_maker(workers=(2,), seeds=1)
    twice = tuple(replace(run, seed=seed) for run in one.runs for seed in (0, 1))
    comparison = replace(one, runs=twice, seeds=(0, 1))
    assert "deterministic" in interval_note(comparison)
    assert "baseline, deterministic" in rendered(*comparison_tables(comparison, width=160))
