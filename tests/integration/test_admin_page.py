"""The live page in a real browser: on desktop and phone, by keyboard, and when it is cut off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from admin_browser import Served, chromium, page_served

if TYPE_CHECKING:
    from collections.abc import Iterator

DESKTOP, PHONE = 1400, 390
CUT = """() => [...document.querySelectorAll('td, th, dd, dt, li, p, button')]
  .filter(each => each.offsetParent && !each.closest('.unseen, thead'))
  .filter(each => {
    const range = document.createRange();
    range.selectNodeContents(each);
    const outer = each.getBoundingClientRect();
    return [...range.getClientRects()].some(
      box => box.width && (box.left < outer.left - 1 || box.right > outer.right + 1));
  }).map(each => each.textContent.trim())"""
BEYOND = """() => [...document.querySelectorAll('main *')]
  .filter(each => each.offsetParent && each.getBoundingClientRect().right > innerWidth + 1)
  .map(each => each.outerHTML.slice(0, 80))"""
OVERFLOW = "() => document.documentElement.scrollWidth - innerWidth"
FOCUSED = """() => {
  const at = document.activeElement;
  return at.id || at.getAttribute('aria-label') || at.getAttribute('aria-labelledby')
    || at.textContent.trim();
}"""
OVERLAPS = """() => {
  const boxes = [...document.querySelectorAll('.facts dd')].map(each => {
    const range = document.createRange();
    range.selectNodeContents(each);
    return range.getBoundingClientRect();
  });
  return boxes.some((a, i) => boxes.some((b, j) => i < j && a.left < b.right && b.left < a.right
    && a.top < b.bottom && b.top < a.bottom));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with page_served() as source:
        # They sleep until somebody asks.
        source.do(source.admin.shadows.figures)
        source.live(40.0)
        source.do(lambda: source.admin.shadows.run(float("inf")))
        yield source


def opened(browser: Any, served: Served, width: int = DESKTOP, **fields: Any) -> Any:
    """Open the page and wait until it shows something."""
    view = browser.new_page(viewport={"width": width, "height": 900}, **fields)
    view.said = []
    view.on("console", lambda message: view.said.append(message.text))
    view.on("pageerror", lambda error: view.said.append(str(error)))
    view.goto(served.admin.server.address)
    view.locator("#worker-table tbody tr").nth(5).wait_for()
    return view


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, 720, PHONE])
def test_nothing_is_cut_off(browser, served, width, scheme):
    view = opened(browser, served, width, color_scheme=scheme)
    view.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    assert view.evaluate(OVERFLOW) <= 0
    if width == DESKTOP:
        # On a phone tables of the pictures scroll, each within its own region.
        assert view.evaluate(BEYOND) == []
    assert view.evaluate(CUT) == []
    assert not view.evaluate(OVERLAPS)
    assert view.said == []
    view.close()


def test_everything_can_be_reached_by_keyboard_in_the_order_in_which_it_stands(browser, served):
    view = opened(browser, served)
    seen = []
    for _ in range(14):
        view.keyboard.press("Tab")
        seen.append(view.evaluate(FOCUSED))
    table = "The same as a table"
    assert seen == [
        *("Skip to the workers", "pause", "span", "workers", "time-plot", table, "pool-plot"),
        *(table, "shadow-scroll", "slow-scroll", "Metrics", "Audit", "Workers"),
        "Grafana dashboard",
    ]
    view.locator("#pause").focus()
    view.keyboard.press("Tab")
    assert view.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    view.close()


def test_the_skip_link_leads_past_the_head(browser, served):
    view = opened(browser, served)
    view.keyboard.press("Tab")
    view.keyboard.press("Enter")
    assert view.evaluate(FOCUSED) == "workers"
    view.close()


def test_everything_has_a_name_and_every_picture_a_table(browser, served):
    view = opened(browser, served)
    for role, name in (
        ("heading", "brsolver"),
        *(("heading", name) for name in ("Workers", "The pool", "Slow requests", "Faults")),
        ("heading", "Where each millisecond went"),
        ("heading", "Other routers on the same traffic"),
        ("button", "Pause"),
        ("combobox", "Show"),
        ("slider", "Where the time went, read at a moment"),
        ("slider", "Requests held, read at a moment"),
        ("region", "Workers"),
        ("row", re.compile("rank-0")),
    ):
        assert view.get_by_role(role, name=name).first.is_visible(), (role, name)
    unnamed = (
        "() => [...document.querySelectorAll('svg')].filter(s => s.ariaHidden !== 'true').length"
    )
    assert view.evaluate(unnamed) == 0
    for name in ("time", "pool"):
        table = view.locator(f"#{name}-table")
        table.locator("xpath=ancestor::details").locator("summary").click()
        assert table.is_visible()
        heads = table.locator("thead th").count()
        first = table.locator("tbody tr").first
        assert first.locator("th, td").count() == heads
        assert "ago" in first.inner_text() or "now" in first.inner_text()
    view.close()


def test_pictures_can_be_read_by_keyboard(browser, served):
    view = opened(browser, served)
    for name, word in (("time", "work at the mean load"), ("pool", "held")):
        plot = view.locator(f"#{name}-plot")
        plot.focus()
        for key in ("End", "ArrowLeft", "PageDown", "Home"):
            view.keyboard.press(key)
        assert plot.get_attribute("aria-valuenow") == "0"
        text = plot.get_attribute("aria-valuetext")
        assert word in text
        assert view.locator(f"#{name}-readout").inner_text() == text
        view.keyboard.press("ArrowRight")
        assert plot.get_attribute("aria-valuenow") == "1"
        assert plot.locator(".cursor").count() == 1
        view.keyboard.press("Escape")
        assert plot.locator(".cursor").count() == 0
    assert view.said == []
    view.close()


def test_pictures_can_be_read_by_pointer(browser, served):
    view = opened(browser, served)
    view.locator("#time-plot").hover()
    view.wait_for_function("document.querySelector('#time-readout').textContent.includes('ago: ')")
    view.close()


def test_updates_arrive_and_a_pause_stops_them(browser, served):
    view = opened(browser, served)
    row = view.locator("#worker-table tbody tr").first
    before = row.inner_text()
    served.live(5.0)
    changed = "before => document.querySelector('#worker-table tbody tr').innerText !== before"
    view.wait_for_function(changed, arg=before)
    view.get_by_role("button", name="Pause").click()
    assert view.get_by_role("button", name="Pause").get_attribute("aria-pressed") == "true"
    held = view.locator("#facts").inner_text(), row.inner_text()
    newest = view.evaluate("page.history.at(-1).number")
    served.live(5.0)
    view.wait_for_function("newest => page.history.at(-1).number > newest", arg=newest)
    assert (view.locator("#facts").inner_text(), row.inner_text()) == held
    view.get_by_role("button", name="Pause").click()
    assert view.locator("#state").inner_text() == "Live"
    view.close()


def test_the_span_can_be_chosen(browser, served):
    view = opened(browser, served)
    view.get_by_role("combobox", name="Show").select_option("60")
    assert view.locator("#time-plot .x.from").inner_text() == "60 s ago"
    view.close()


def test_a_lost_connection_is_said_and_found_again(browser, served):
    view = opened(browser, served)
    assert view.locator("#lost").is_hidden()
    served.end()
    alert = view.get_by_role("alert")
    alert.wait_for()
    assert "The connection is lost" in alert.inner_text()
    assert view.locator("#state").inner_text() == "Connection lost"
    served.begin_again()
    alert.wait_for(state="hidden")
    assert view.locator("#state").inner_text() == "Live"
    assert view.locator("#spoken").inner_text() == "Connected again."
    view.close()


def test_a_server_that_says_nothing_counts_as_lost(browser, served):
    view = opened(browser, served)
    view.evaluate("() => { page.heard -= QUIET_MS + 1; }")
    served.do(served.admin.server.stream.stop_ticking)
    view.get_by_role("alert").wait_for()
    served.do(served.admin.server.stream.publish)
    view.get_by_role("alert").wait_for(state="hidden")
    view.close()


def test_summaries_are_spoken_politely_and_calmly(browser, served):
    view = opened(browser, served)
    spoken = view.locator("#spoken")
    assert spoken.get_attribute("aria-live") == "polite"
    assert spoken.inner_text() == ""
    assert view.evaluate("SPEAK_MS") >= 15_000
    view.evaluate("summary()")
    assert "in progress" in spoken.inner_text()
    view.close()


def test_reduced_motion_is_respected(browser, served):
    moves = "() => getComputedStyle(document.querySelector('.fill')).transitionDuration"
    for motion, said in (("no-preference", "0.4s"), ("reduce", "0s")):
        view = opened(browser, served, reduced_motion=motion)
        assert view.evaluate(moves) == said
        view.close()


def test_whatever_engines_are_called_is_text(browser, served):
    name = "<img src=/x onerror=alert(1)>"
    worker = served.admin.window.workers[0]
    before, worker.name, worker.state, worker.why = worker.name, name, "down", "<b>bold</b>"
    try:
        view = opened(browser, served, PHONE)
        row = view.locator("#worker-table tbody tr").first
        assert name in row.inner_text()
        assert "down: <b>bold</b>" in row.inner_text()
        assert view.locator("main img").count() == 0
        assert view.evaluate(OVERFLOW) <= 0
        assert view.said == []
        view.close()
    finally:
        worker.name, worker.state, worker.why = before, "up", ""


def test_shadows_are_compared_with_the_policy_that_routes(browser, served):
    served.live(20.0)
    served.do(lambda: served.admin.shadows.run(float("inf")))
    view = opened(browser, served)
    rows = view.locator("#shadow-table tbody tr")
    assert rows.count() == 3
    assert rows.nth(0).inner_text().split("\t")[2] == "routes"
    assert re.fullmatch(r"[+−]\d+\.\d %", rows.nth(1).inner_text().split("\t")[2])
    view.close()
