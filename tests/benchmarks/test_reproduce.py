"""Reproductions: rows kept and gone on with, tables and pictures in place, arithmetic of time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.reproduce import _bfio, _dpr, dpr_overhead
from benchmarks.reproduce.__main__ import main
from benchmarks.reproduce._cells import Asked, simulated, tokens_s
from benchmarks.reproduce._pages import PAGE, write_tables
from benchmarks.reproduce._study import BURSTGPT, QUICK, Scope
from benchmarks.reproduce._tables import Interval, markdown, over, pick, ratio
from benchmarks.reproduce.catalogue import STUDIES
from brsolver import SimulationParams, Trace
from brsolver.errors import OutputError
from brsolver.hardware.step_time import StepTime
from brsolver.simulator import Arrivals

ROOT = Path(__file__).parents[2]
OLD = "what stood there"
MARK = re.compile(r"^<!-- (?!end )(?P<name>[\w-]+) -->$", re.MULTILINE)


@pytest.fixture
def docs(tmp_path):
    """Return a folder with the page's marks and nothing else."""
    folder = tmp_path / "docs"
    folder.mkdir()
    names = MARK.findall((ROOT / "docs" / PAGE).read_text())
    (folder / PAGE).write_text("".join(f"<!-- {n} -->\n{OLD}\n<!-- end {n} -->\n" for n in names))
    return folder


def run(docs, *arguments, folder="rows"):
    return main(
        [*arguments, "--quick", "--jobs", "1", "--docs", str(docs), "--folder",
         str(docs.parent / folder)]
    )  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_fills_its_places_in_the_page_and_draws(name, docs, capsys):
    assert run(docs, name) == 0
    printed = set(MARK.findall(capsys.readouterr().out))
    page = (docs / PAGE).read_text()
    assert printed
    for place in printed:
        held = re.search(f"<!-- {place} -->(.*?)<!-- end {place} -->", page, re.DOTALL)[1]
        assert "| --- |" in held
        assert OLD not in held
        assert "nan" not in held
    picture = docs / f"images/reproduce-{name}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_was_computed_is_not_computed_again_and_gives_the_same(docs, monkeypatch):
    assert run(docs, "dpr-points") == 0
    page, picture = docs / PAGE, docs / "images/reproduce-dpr-points.png"
    before = page.read_text(), picture.read_bytes()
    monkeypatch.setattr("benchmarks.reproduce._cells.simulate", None)
    assert run(docs, "dpr-points") == 0
    assert (page.read_text(), picture.read_bytes()) == before


def test_two_processes_give_the_rows_of_one(docs):
    assert run(docs, "bfio-horizon", folder="one") == 0
    two = ["bfio-horizon", "--quick", "--jobs", "2", "--folder", str(docs.parent / "two")]
    assert main(two) == 0
    tables = [
        pq.read_table(docs.parent / folder / "quick/bfio-horizon/results.parquet").drop(["wall_s"])
        for folder in ("one", "two")
    ]
    assert tables[0].equals(tables[1])


def test_given_lengths_are_a_workload_of_their_own(docs, tmp_path, capsys):
    path = tmp_path / "lengths.csv"
    rng = np.random.default_rng(3)
    pairs = rng.integers(1, 900, size=(60, 2))
    lines = [f"{prompt},{output}" for prompt, output in pairs]
    path.write_text("\n".join(["prompt_tokens,output_tokens", *lines]) + "\n")
    assert run(docs, "bfio-horizon", "--burstgpt", str(path)) == 0
    assert {"bfio-horizon-bfio-normal", "bfio-horizon-burstgpt"} <= set(
        MARK.findall(capsys.readouterr().out)
    )


def test_an_unknown_name_is_answered_with_the_nearest(capsys):
    assert main(["br-tabel"]) == 2
    assert "did you mean 'br-table'?" in capsys.readouterr().err


def test_a_run_that_fails_is_named_and_no_table_is_made(docs, monkeypatch, capsys):
    monkeypatch.setitem(_dpr.METHODS, "none such", "none-such")
    assert run(docs, "dpr-overhead") == 1
    said = capsys.readouterr().err
    assert "method none such" in said
    assert "unknown policy 'none-such'" in said
    assert OLD in (docs / PAGE).read_text()


def test_a_page_without_the_place_is_refused(tmp_path):
    (tmp_path / PAGE).write_text("<!-- here -->\n")
    with pytest.raises(OutputError, match="has no <!-- here -->"):
        write_tables(tmp_path, {"here": "| a |"})


def test_every_study_has_its_target_and_its_section():
    makefile, page = (ROOT / "Makefile").read_text(), (ROOT / "docs" / PAGE).read_text()
    for name in STUDIES:
        assert re.search(
            rf"^reproduce-{name}: \$\(STAMP\)\n\t\$\(REPRODUCE\) {name}$", makefile, re.MULTILINE
        )
        assert f"python -m benchmarks.reproduce {name} " in page
        assert f"(images/reproduce-{name}.png)" in page
        assert (ROOT / f"docs/images/reproduce-{name}.png").exists()


def test_the_page_shows_full_runs():
    page = (ROOT / "docs" / PAGE).read_text()
    for place in MARK.findall(page):
        held = re.search(f"<!-- {place} -->(.*?)<!-- end {place} -->", page, re.DOTALL)[1]
        assert "| --- |" in held


@pytest.mark.parametrize("arrivals", [Arrivals(), Arrivals(mode="closed", concurrency=16)])
@pytest.mark.parametrize("part", ["window", "whole"])
def test_another_step_time_gives_what_a_run_under_it_would(arrivals, part):
    other = StepTime(model="max-mean", base=0.01, per_token=3e-7, per_mean_token=2e-7)
    rows = []
    for lasts in (StepTime(model="affine", base=1.0, per_token=0.0), other):
        params = SimulationParams(
            workers=3, slots=4, step_time=lasts, arrivals=arrivals, drain="include", seed=5
        )
        asked = Asked(trace="uniform:o_high=60", requests=90, policy="jsq-load", params=params)
        rows.append(simulated(asked, {}))
    derived, own = tokens_s(0.01, 3e-7, 2e-7, part)(rows[0]), rows[1]
    assert derived == pytest.approx(own[f"{part}_tokens"] / own[f"{part}_seconds"], rel=1e-12)


def test_a_shared_trace_is_drawn_with_replacement_by_seed():
    shared = {
        BURSTGPT: Trace(
            prompt_tokens=np.arange(1, 11), output_tokens=np.arange(11, 21),
            arrival_s=np.arange(10.0),
        )
    }  # fmt: skip

    def drawn(seed):
        params = SimulationParams(seed=seed)
        return Asked(trace=BURSTGPT, requests=50, policy="fcfs", params=params).draw(shared)

    one = drawn(1)
    assert len(one) == 50
    assert (one.output_tokens - one.prompt_tokens == 10).all()
    assert one.fingerprint() == drawn(1).fingerprint() != drawn(2).fingerprint()


def test_cells_differ_where_anything_differs():
    params = SimulationParams()
    asked = Asked(trace="chat", requests=50, policy="jsq", params=params)
    others = [
        Asked(trace="chat", requests=51, policy="jsq", params=params),
        Asked(trace="chat", requests=50, policy="jsq", params=params, predictor="oracle"),
        Asked(trace="chat", requests=50, policy="jsq", params=SimulationParams(slots=31)),
    ]
    assert len({each.digest for each in (asked, *others)}) == 4


def test_published_step_time_of_bfio_grows_with_slots():
    assert _bfio.step_time(72).base == pytest.approx(0.0048875)
    assert _bfio.step_time(144).base == pytest.approx(0.0075875)
    assert _bfio.step_time(72).per_token == pytest.approx(1.0053e-7, rel=1e-4)


@pytest.mark.parametrize(("jsq", "own"), [(1.2, 1.1), (1.05, 1.2), (1.6, 1.0)])
def test_envelopes_behind_gains_are_found_again(jsq, own):
    gains = [100 * ((jsq + b) / (own + b) - 1) for b in dpr_overhead.OVERHEADS]
    assert dpr_overhead.implied(gains) == pytest.approx((jsq, own, 0.0), abs=1e-9)


def test_intervals_and_ratios_are_paired_by_draw():
    rows = [{"seed": s, "method": m, "x": v * (s + 1)} for m, v in (("a", 2.0), ("b", 1.0))
            for s in (2, 0, 1)]  # fmt: skip
    a, b = pick(rows, method="a"), pick(rows, method="b")
    assert [row["seed"] for row in a] == [0, 1, 2]
    assert ratio(a, b, "x") == Interval(2.0, 0.0)
    assert over(a, "x").mean == pytest.approx(4.0)
    # Student, 2 degrees of freedom: 4.303 standard errors.
    assert over(a, "x").half == pytest.approx(4.302653 * 2 / np.sqrt(3), rel=1e-6)
    assert Interval(1.0421, 0.0105).gain() == "+4.2 ± 1.1 %"
    assert Interval(0.9, float("nan")).gain() == "-10.0 %"


def test_markdown_has_as_many_cells_in_every_line():
    lines = markdown(("a", "b"), [["1", "2"], ["3", "4"]]).splitlines()
    assert [line.count("|") for line in lines] == [3, 3, 3, 3]


def test_quick_runs_are_named_apart_from_full_ones():
    assert QUICK.name != Scope().name
