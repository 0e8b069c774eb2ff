from __future__ import annotations

import csv
import os
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from brsolver.errors import OutputError
from brsolver.report import write as module
from brsolver.report.tables import flat_rows
from brsolver.report.write import check_out_dir, write_report, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from brsolver.results.comparison import Comparison

PER_WORKERS = (
    *("time_by_policy", "time", "load", "heatmap", "imbalance", "imbalance_ecdf"),
    *("tpot_ecdf", "ttft_ecdf"),
)


class References(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [v or "" for k, v in attrs if k in {"src", "href", "data", "srcset"}]


@pytest.fixture(scope="module")
def folder(
    comparison_maker: Callable[..., Comparison], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    comparison = comparison_maker(("fcfs", "br-h:horizon=4,gamma=0.9"), (2,), 2)
    return write_report(comparison, tmp_path_factory.mktemp("report") / "deep" / "out")


def test_everything_is_there(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {
        "report.html",
        "results.parquet",
        "results.csv",
        "figures",
    }
    names = {f"{name}_G2" for name in PER_WORKERS} | {"throughput", "dispatch_ecdf_G2"}
    names |= {"gantt_G2_01_fcfs", "gantt_G2_02_br-h-horizon-4-gamma-0.9"}
    files = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {p.name for p in (folder / "figures").iterdir()} == files


def test_figures_are_what_they_say(folder: Path) -> None:
    for path in (folder / "figures").iterdir():
        start = path.read_bytes()[:400]
        assert start.startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")
        assert path.suffix == ".png" or b"<svg" in path.read_bytes()


def test_page_needs_nothing_else(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    references = References()
    references.feed(text)
    assert references.found
    assert all(r.startswith(("data:image/svg+xml;base64,", "#")) for r in references.found)
    assert not references.tags & {"script", "link", "iframe", "object"}
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)
    assert "url(" not in text
    assert "@import" not in text


def test_page_links_lead_somewhere(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for target in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{target}"' in text


def test_page_says_what_was_run(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for expected in ("br-h:horizon=4,gamma=0.9", "0.0.test", "surrogate trace", "step_time.base"):
        assert expected in text
    assert "Throughput" in text
    assert "95 % confidence interval" in text


def test_page_says_in_words_what_was_lost(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    (findings,) = re.findall(r'<ul class="findings">(.*?)</ul>', text)
    assert re.search(r"<li>fcfs: a step took [\d.]+ ms on average, and [\d.]+ % of", findings)
    assert findings.count("<li>") == 2


def test_names_are_escaped(comparison_maker: Callable[..., Comparison], tmp_path: Path) -> None:
    comparison = comparison_maker(("<b>&",), (1,), 1)
    text = (write_report(comparison, tmp_path / "out") / "report.html").read_text("utf-8")
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;" in text


def test_parquet_round_trip(comparison: Comparison, tmp_path: Path) -> None:
    write_rows(comparison, tmp_path)
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert len(rows) == len(comparison.runs) == 12
    for row, run in zip(rows, comparison.runs, strict=True):
        assert (row["spec"], row["workers"], row["seed"]) == (run.policy, run.workers, run.seed)
        assert row["makespan_s"] == run.metrics.makespan_s
        assert row["tpot_p95_s"] == run.metrics.tpot_p95_s
    assert list(rows[0]) == list(flat_rows(comparison)[0])


def test_csv_holds_the_same_rows(comparison: Comparison, tmp_path: Path) -> None:
    write_rows(comparison, tmp_path)
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found = [float(row["throughput_tok_s"]) for row in rows]
    assert found == [run.metrics.throughput_tok_s for run in comparison.runs]


@pytest.mark.parametrize("tail", ["file", "file/below", "file/far/below"])
def test_impossible_folders_are_refused(tmp_path: Path, tail: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file"):
        check_out_dir(tmp_path / tail)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folders_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        check_out_dir(tmp_path / "out")


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_out_dir(tmp_path / "a" / "b")
    check_out_dir(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failure_half_way_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, comparison: Comparison, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_picture", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_report(comparison, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_an_earlier_report(
    monkeypatch: pytest.MonkeyPatch, comparison: Comparison, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("earlier")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(comparison, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "earlier"


def test_files_of_a_report_are_replaced_and_all_others_stay(
    monkeypatch: pytest.MonkeyPatch, comparison: Comparison, tmp_path: Path
) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_text("mine")
    (tmp_path / "figures" / "new.png").write_text("earlier")
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.setattr(module, "_write_all", lambda _, folder, __: write_new(folder))
    write_report(comparison, tmp_path)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
    assert found == {"mine.txt", "report.html", "figures", "figures/mine.png", "figures/new.png"}
    assert (tmp_path / "figures" / "mine.png").read_text() == "mine"
    assert (tmp_path / "figures" / "new.png").read_text() == "new"


@pytest.mark.parametrize(("folder", "file"), [("report.html", ""), ("", "figures")])
def test_what_is_of_another_kind_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
    comparison: Comparison,
    tmp_path: Path,
    folder: str,
    file: str,
) -> None:
    if folder:
        (tmp_path / folder).mkdir()
    if file:
        (tmp_path / file).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(module, "_write_all", lambda _, folder, __: write_new(folder))
    with pytest.raises(OutputError, match=f"{folder or file}: is a"):
        write_report(comparison, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["", " "])
def test_empty_names_are_refused(name: str) -> None:
    with pytest.raises(OutputError, match="empty"):
        check_out_dir(name)


def write_new(folder: Path) -> None:
    (folder / "figures").mkdir()
    (folder / "figures" / "new.png").write_text("new")
    (folder / "report.html").write_text("new")
