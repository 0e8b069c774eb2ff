"""The page of a board in a real browser: on a desktop, on a phone, sorted and chosen from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from browser import chromium

from brsolver.board.definition import load_definition
from brsolver.board.run import run_board
from brsolver.executors import ExecutorParams, executor_of
from brsolver.report.board_page import write_board

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DESKTOP, PHONE = 1400, 390
BEYOND = """() => [...document.querySelectorAll('main *')]
  .filter(each => each.offsetParent && each.getBoundingClientRect().right > innerWidth + 1)
  .map(each => each.outerHTML.slice(0, 80))"""
SEEN = "#every tbody tr:not([hidden])"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = {"regime": ("saturated", "0.7"), "trace": ("chat",)}
    found = run_board(
        load_definition("quick"),
        policies=["vllm,jsq-load,br-0,br-t"],
        chosen=chosen,
        executor=executor_of(ExecutorParams(jobs=1)),
    )
    return write_board(found, tmp_path_factory.mktemp("board")) / "board.html"


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Any]:
    with chromium() as started:
        yield started


def view_of(browser: Any, page: Path, width: int) -> Any:
    view = browser.new_page(viewport={"width": width, "height": 900})
    view.goto(page.as_uri())
    return view


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_every_column_is_on_the_page(browser: Any, page: Path, width: int) -> None:
    view = view_of(browser, page, width)
    assert view.evaluate(BEYOND) == []
    view.close()


def test_a_phone_names_every_value(browser: Any, page: Path) -> None:
    view = view_of(browser, page, PHONE)
    cells = view.locator(".stacks td").all()
    assert cells
    assert all(cell.get_attribute("data-label") for cell in cells)
    view.close()


def test_a_column_sorts_the_table_both_ways(browser: Any, page: Path) -> None:
    view = view_of(browser, page, DESKTOP)
    head = view.locator("#all thead tr:last-child th").nth(2)
    for direction, ordered in (("descending", True), ("ascending", False)):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        keys = view.locator("#all tbody tr td:nth-child(3)").evaluate_all(
            "all => all.map(each => Number(each.dataset.key))"
        )
        assert keys == sorted(keys, reverse=ordered)
    view.close()


def test_cells_are_chosen_by_what_they_are_of(browser: Any, page: Path) -> None:
    view = view_of(browser, page, PHONE)
    assert view.locator(SEEN).count() == 4
    view.select_option("select.chooser[data-name=regime]", "")
    assert view.locator(SEEN).count() == 8
    view.select_option("select.chooser[data-name=policy]", "br-t@pooled")
    assert view.locator(SEEN).count() == 2
    names = view.locator(f"{SEEN} th").all_inner_texts()
    assert all(name.startswith("br-t@pooled") for name in names)
    view.close()


def test_a_page_fetches_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert 'src="http' not in text
    assert "<link" not in text
    assert text.count("data:image") >= 1
