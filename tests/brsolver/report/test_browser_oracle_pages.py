"""The pages of `gap` and `explain` in a real browser, on a desktop and on a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from browser import chromium

from brsolver.oracles.explain import explain
from brsolver.oracles.gap import gap
from brsolver.oracles.gap_time import time_gap
from brsolver.report.explain_page import write_explanation
from brsolver.report.gap_page import write_gap
from brsolver.report.gap_time_page import write_time_gap
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brsolver.traces.trace import Trace

DESKTOP, PHONE = 1400, 390
POLICIES = ("jsq-load", "br-h:horizon=4,gamma=0.9")
BEYOND = """() => [...document.querySelectorAll('main *')]
  .filter(each => each.offsetParent && each.getBoundingClientRect().right > innerWidth + 1)
  .map(each => each.outerHTML.slice(0, 80))"""
SCROLLS = """() => [...document.querySelectorAll('.scroll')]
  .filter(each => each.scrollWidth > each.clientWidth).map(each => each.textContent.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def pages(
    trace_maker: Callable[..., Trace], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Write a page of each kind, with all columns that it can have."""
    trace, folder = trace_maker(), tmp_path_factory.mktemp("pages")
    params = SimulationParams(workers=3, slots=4, prefill=Prefill(mode="colocated"))
    in_time = time_gap(trace, POLICIES, workers=3, slots=4, params=params)
    in_tokens = gap(trace, POLICIES, workers=3, slots=4, oracle="step", budget_s=2.0)
    return {
        "gap": write_gap(in_tokens, folder / "gap") / "gap.html",
        "time": write_time_gap(in_time, folder / "time") / "gap.html",
        "explain": write_explanation(explain(trace, "br-h", params), folder / "explain")
        / "explain.html",
    }


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", ["gap", "time", "explain"])
def test_every_column_is_on_the_page(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    view = browser.new_page(viewport={"width": width, "height": 900})
    view.goto(pages[name].as_uri())
    assert view.evaluate(BEYOND) == []
    assert view.evaluate(SCROLLS) == []
    view.close()


@pytest.mark.parametrize("name", ["gap", "time", "explain"])
def test_a_phone_names_every_value(browser: Any, pages: dict[str, Path], name: str) -> None:
    view = browser.new_page(viewport={"width": PHONE, "height": 900})
    view.goto(pages[name].as_uri())
    cells = view.locator(".stacks td").all()
    assert cells
    assert all(cell.get_attribute("data-label") for cell in cells)
    view.close()
