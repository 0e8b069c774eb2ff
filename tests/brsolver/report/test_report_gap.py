from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver.errors import OutputError
from brsolver.oracles.gap import GapReport, gap
from brsolver.oracles.hindsight.result import CurvePoint
from brsolver.oracles.step import StepInstance, objective_value, violation
from brsolver.report import gap_page as module
from brsolver.report.gap_figures import anytime_curve, cumulative_excess
from brsolver.report.gap_page import worst_states, write_gap
from brsolver.report.style import styled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from brsolver.traces.trace import Trace

POLICIES = ("jsq-load", "br-0", "br-h:horizon=4,gamma=0.9")
CURVE = (
    CurvePoint(time_s=0.01, incumbent=None, bound=90_000, by="start"),
    CurvePoint(time_s=0.2, incumbent=110_000, bound=90_000, by="swaps"),
    CurvePoint(time_s=1.5, incumbent=105_000, bound=99_000, by="window"),
)


@pytest.fixture(scope="module")
def report(trace_maker: Callable[..., Trace]) -> GapReport:
    return gap(trace_maker(), POLICIES, workers=3, slots=4, oracle="step", budget_s=2.0)


@pytest.fixture(scope="module")
def folder(report: GapReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with_curve = replace(report, curve=CURVE)
    return write_gap(with_curve, tmp_path_factory.mktemp("gap") / "deep" / "out")


class References(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [v or "" for k, v in attrs if k in {"src", "href", "data", "srcset"}]


def test_everything_is_there(folder: Path) -> None:
    slugs = ("jsq-load", "br-0", "br-h-horizon-4-gamma-0.9")
    worst = {f"worst-{slug}-{name}.json" for slug in slugs for name in ("score", "imbalance")}
    assert {p.name for p in folder.iterdir()} == {"gap.html", "gap.json", "gap-figures"} | worst
    for path in (folder / "gap-figures").iterdir():
        start = path.read_bytes()[:400]
        assert start.startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")
    names = {p.name for p in (folder / "gap-figures").iterdir()}
    figures = ("anytime", "excess", "gap_by_phase")
    assert names == {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}


def test_page_needs_nothing_else(folder: Path) -> None:
    text = (folder / "gap.html").read_text(encoding="utf-8")
    references = References()
    references.feed(text)
    assert references.found
    assert all(r.startswith(("data:image/svg+xml;base64,", "#")) for r in references.found)
    assert not references.tags & {"script", "link", "iframe", "object"}
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)
    for target in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{target}"' in text


def test_page_states_bound_and_whom_it_holds_for(folder: Path, report: GapReport) -> None:
    text = (folder / "gap.html").read_text(encoding="utf-8")
    assert report.valid_for in text
    assert f"{report.lower_bound:,}" in text
    for row in report.policies:
        assert row.policy in text
        assert f"{row.barrier_time:,}" in text
        assert f"{100 * row.routing.total.gap:.2f} %" in text
    for worst in worst_states(report):
        assert worst.name in text


def test_json_is_what_the_command_prints(folder: Path, report: GapReport) -> None:
    found = json.loads((folder / "gap.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(replace(report, curve=CURVE).to_dict()))


def test_saved_states_hold_the_decision_and_its_regret(folder: Path, report: GapReport) -> None:
    for row in report.policies:
        for worst in (w for w in worst_states(report) if w.policy == row.policy):
            saved = json.loads((folder / worst.name).read_text(encoding="utf-8"))["taken"]
            instance = StepInstance.load(folder / worst.name)
            assert violation(instance, saved["assignment"]) == ""
            assert (saved["policy"], saved["objective"]) == (row.policy, worst.objective)
            assert saved["regret"] == row.regret[worst.objective]["worst"]
            value = objective_value(instance, saved["assignment"], worst.objective)  # type: ignore[arg-type] # one of two
            assert isinstance(value, int)


def test_excess_adds_up_to_the_distance_from_the_bound(report: GapReport) -> None:
    for row, run in zip(report.policies, report.results, strict=True):
        total = cumulative_excess(run, row.bound)
        parts = row.routing.phases
        distance = row.routing.total.barrier_time - row.routing.total.lower_bound
        assert total[-1] == pytest.approx(distance)
        assert total[row.bound.fill_end] == pytest.approx(
            parts[0].barrier_time - parts[0].lower_bound
        )
        assert total[row.bound.drain_start] == pytest.approx(
            sum(part.barrier_time - part.lower_bound for part in parts[:2])
        )


def test_without_curve_and_regret_their_parts_are_left_out(
    report: GapReport, tmp_path: Path
) -> None:
    plain = replace(report, policies=tuple(replace(row, regret={}) for row in report.policies))
    out = write_gap(plain, tmp_path / "out")
    assert {p.name for p in out.iterdir()} == {"gap.html", "gap.json", "gap-figures"}
    assert not (out / "gap-figures" / "anytime.svg").exists()
    text = (out / "gap.html").read_text(encoding="utf-8")
    assert "Regret per decision" not in text
    assert "What was known when" not in text


@pytest.mark.parametrize("bound", [90_000, 110_000])
def test_a_curve_of_one_point_is_drawn(report: GapReport, bound: int) -> None:
    point = CurvePoint(time_s=0.0, incumbent=110_000, bound=bound, by="start")
    with styled():
        drawn = anytime_curve(replace(report, curve=(point,), lower_bound=bound))
    (axes,) = drawn.axes
    assert np.isfinite(axes.get_xlim()).all()
    assert ("proven optimal" in {t.get_text() for t in axes.texts}) == (bound == 110_000)


def test_names_are_escaped_and_files_do_not_clash(report: GapReport, tmp_path: Path) -> None:
    first = report.policies[0]
    twins = tuple(replace(first, policy=name) for name in ("<b>&", "<b>;", "b"))
    named = replace(report, policies=twins, results=report.results[:1] * 3)
    out = write_gap(named, tmp_path / "out")
    text = (out / "gap.html").read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;" in text
    names = [worst.name for worst in worst_states(named)]
    assert len(set(names)) == 6
    assert all((out / name).exists() for name in names)


def test_failure_half_way_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, report: GapReport, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("brsolver.report.page.write_picture", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_gap(report, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_other_files_stay(
    monkeypatch: pytest.MonkeyPatch, report: GapReport, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "draw_pictures", lambda *_, **__: iter(()))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "load.png").write_text("a comparison's")
    (tmp_path / "gap.html").write_text("earlier")
    write_gap(report, tmp_path)
    assert (tmp_path / "figures" / "load.png").read_text() == "a comparison's"
    assert "certified lower bound" in (tmp_path / "gap.html").read_text(encoding="utf-8")


def test_files_of_the_user_stay(report: GapReport, tmp_path: Path) -> None:
    mine = tmp_path / "gap-figures" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    write_gap(report, tmp_path)
    write_gap(report, tmp_path)
    assert mine.read_text() == "mine"
    assert (tmp_path / "gap-figures" / "gap_by_phase.svg").is_file()
    with pytest.raises(OutputError, match="empty"):
        write_gap(report, "")
