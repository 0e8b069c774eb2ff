"""The page of a tuning, in a browser: nothing is cut off, on a desktop or on a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from browser import chromium

from brsolver.executors import ExecutorParams, executor_of
from brsolver.report.tune_page import write_tune
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill
from brsolver.tuning import TuneParams, TuneResult, tune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brsolver.traces import Trace

BEYOND = """() => [...document.querySelectorAll('main *')]
  .filter(each => each.offsetParent && each.getBoundingClientRect().right > innerWidth + 1)
  .map(each => each.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def result(trace_maker: Callable[..., Trace]) -> TuneResult:
    return tune(
        trace_maker(requests=600),
        SimulationParams(workers=2, slots=4, prefill=Prefill(mode="colocated", budget=512)),
        TuneParams(budget_s=1e6, trials=12),
        policies="br-t,br-h",
        executor=executor_of(ExecutorParams(jobs=1)),
    )


@pytest.mark.parametrize("width", [1400, 390])
def test_no_figure_is_cut_off(browser: Any, result: TuneResult, tmp_path: Path, width: int) -> None:
    page = write_tune(result, tmp_path / "out") / "tune.html"
    view = browser.new_page(viewport={"width": width, "height": 900})
    view.goto(page.as_uri())
    assert view.evaluate(BEYOND) == []
    assert view.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    view.close()


def test_what_all_trials_had_alike_is_said_once(
    browser: Any, result: TuneResult, tmp_path: Path
) -> None:
    page = write_tune(result, tmp_path / "out") / "tune.html"
    view = browser.new_page()
    view.goto(page.as_uri())
    assert "workers=2" in view.get_by_text("The same for all").inner_text()
    cells = view.locator("#trials ~ .scroll td[data-label=settings]").all_inner_texts()
    assert len(cells) == 12
    assert all("workers" not in text and "budget" in text for text in cells)
    view.close()
