"""Pages in a real browser: nothing cut off, nothing overflowing, on a desktop and on a phone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from browser import chromium

from brsolver.report.html import render_html
from brsolver.report.write import write_report
from brsolver.results.comparison import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brsolver.results.comparison import Comparison

DESKTOP, PHONE = 1400, 390
MANY = (
    *("vllm", "jsq-load", "br-0:r_max=4,s_greedy=7,patience=2500", "br-0", "br-t", "sglang"),
    *("br-h:horizon=80,gamma=0.97,projection=survival,alpha=1,beta=16", "lpt"),
)
CUT = """() => {
  const inside = (inner, outer) => inner.left >= outer.left - 1 && inner.right <= outer.right + 1;
  const cells = [...document.querySelectorAll('td, th')].filter(cell => cell.offsetParent);
  return cells.filter(cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return [...range.getClientRects()].some(box => !inside(box, cell.getBoundingClientRect()));
  }).map(cell => cell.textContent.trim());
}"""
BEYOND = """() => [...document.querySelectorAll('main *')]
  .filter(each => each.offsetParent && each.getBoundingClientRect().right > innerWidth + 1)
  .map(each => each.outerHTML.slice(0, 80))"""
OVERFLOW = "() => document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def small(
    comparison_maker: Callable[..., Comparison], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Write a report with its figures."""
    made = comparison_maker(("fcfs", "jsq-load"), (2, 4), 2)
    return write_report(made, tmp_path_factory.mktemp("pages") / "small") / "report.html"


@pytest.fixture(scope="module")
def wide(
    comparison_maker: Callable[..., Comparison], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Write a page of many policies with long names, large figures and a failure."""
    made = comparison_maker(MANY, (2,), 2)
    runs = [
        replace(run, metrics=replace(run.metrics, prefill_tokens=3_021_860_123, energy_j=4.0e9))
        for run in made.runs
    ]
    failure = Failure(policy="quits", workers=2, seed=0, reason="RuntimeError: had_enough" * 9)
    page = tmp_path_factory.mktemp("pages") / "wide.html"
    text = render_html(replace(made, runs=tuple(runs), failures=(failure,)), [])
    page.write_text(text, encoding="utf-8")
    return page


def opened(browser: Any, page: Path, width: int) -> tuple[Any, list[str]]:
    said: list[str] = []
    view = browser.new_page(viewport={"width": width, "height": 900})
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.goto(page.as_uri())
    # All that folds is opened, since what is folded has no size.
    view.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    return view, said


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", ["small", "wide"])
def test_nothing_is_cut_off(
    browser: Any, request: pytest.FixtureRequest, name: str, width: int
) -> None:
    view, said = opened(browser, request.getfixturevalue(name), width)
    assert view.evaluate(OVERFLOW) <= 0
    assert view.evaluate(BEYOND) == []
    assert view.evaluate(CUT) == []
    assert said == []
    view.close()


def test_figures_that_decide_stand_open_and_others_fold(browser: Any, small: Path) -> None:
    view = browser.new_page(viewport={"width": DESKTOP, "height": 900})
    view.goto(small.as_uri())
    assert view.get_by_text("Throughput tok/s").first.is_visible()
    energy = view.get_by_role("row", name="Energy, after departures").first
    assert not energy.is_visible()
    view.locator("summary", has_text="Energy").first.click()
    assert energy.is_visible()
    view.close()


def test_a_phone_shows_every_policys_value(browser: Any, small: Path) -> None:
    view, _ = opened(browser, small, PHONE)
    for cell in view.locator("table.figures").first.locator("td").all():
        box = cell.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE
    view.close()


def test_a_figure_opens_in_full_size_and_closes(browser: Any, small: Path) -> None:
    view, _ = opened(browser, small, PHONE)
    picture = view.locator("#throughput img")
    assert picture.bounding_box()["width"] <= PHONE
    view.locator("#throughput .enlarge").click()
    assert picture.bounding_box()["width"] >= 1000
    view.locator("#throughput .close").click()
    assert picture.bounding_box()["width"] <= PHONE
    view.close()
