"""Reproductions: rows kept and gone on with, tables and pictures in place, arithmetic of time."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.reproduce import _bfio, _burstgpt, _dpr, dpr_overhead
from benchmarks.reproduce.__main__ import main
from benchmarks.reproduce._cells import Asked, simulated, tokens_s
from benchmarks.reproduce._pages import PAGE, QUICK_MARK, write_tables
from benchmarks.reproduce._study import BURSTGPT, QUICK, Scope
from benchmarks.reproduce._tables import Interval, markdown, over, pick, ratio
from benchmarks.reproduce.catalogue import STUDIES
from brsolver import SimulationParams, Trace, simulate
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
        assert f"{QUICK_MARK}\n\n| " in held
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


def given_lengths(path, *, seed=3):
    pairs = np.random.default_rng(seed).integers(1, 900, size=(60, 2))
    lines = [f"{prompt},{output}" for prompt, output in pairs]
    path.write_text("\n".join(["prompt_tokens,output_tokens", *lines]) + "\n")
    return "--burstgpt", str(path)


def test_given_lengths_are_a_workload_of_their_own(docs, tmp_path, capsys):
    assert run(docs, "bfio-horizon", *given_lengths(tmp_path / "lengths.csv")) == 0
    assert {"bfio-horizon-bfio-normal", "bfio-horizon-burstgpt"} <= set(
        MARK.findall(capsys.readouterr().out)
    )


def test_lengths_of_another_file_by_the_same_name_are_simulated_anew(docs, tmp_path, monkeypatch):
    path, drawn = tmp_path / "lengths.csv", []

    def counted(trace, *arguments, **more):
        drawn.append(trace.name)
        return simulate(trace, *arguments, **more)

    monkeypatch.setattr("benchmarks.reproduce._cells.simulate", counted)
    assert run(docs, "bfio-horizon", *given_lengths(path)) == 0
    of_both, (normal, first) = len(drawn), of_lengths(docs)
    assert run(docs, "bfio-horizon", *given_lengths(path)) == 0
    assert len(drawn) == of_both
    assert run(docs, "bfio-horizon", *given_lengths(path, seed=4)) == 0
    assert drawn[of_both:] == [path.name] * (of_both // 2)
    assert of_lengths(docs) == [normal, (other := of_lengths(docs)[1])]
    assert other != first
    assert run(docs, "bfio-horizon", *given_lengths(path, seed=4), folder="fresh") == 0
    assert of_lengths(docs)[1] == other


@pytest.fixture
def published(monkeypatch):
    """Publish a file of lengths on this machine; return the paths that were asked for."""
    pairs = np.random.default_rng(3).integers(1, 900, size=(60, 2)).tolist()
    data = [{"input_length": prompt, "output_length": output} for prompt, output in pairs]
    content, asked = json.dumps({"data": data}).encode(), []

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        at(monkeypatch, server.server_port)
        monkeypatch.setattr(_burstgpt, "SHA256", hashlib.sha256(content).hexdigest()[:12])
        yield asked
        server.shutdown()
        thread.join()


def at(monkeypatch, port):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(_burstgpt, "URL", f"http://127.0.0.1:{port}/{_burstgpt.FILE}")


def of_lengths(docs, name="bfio-horizon"):
    """Return what stands in the page in the places of normal and of BurstGPT's lengths."""
    page = (docs / PAGE).read_text()
    return [
        re.search(f"<!-- {name}-{of} -->(.*?)<!-- end", page, re.DOTALL)[1].strip()
        for of in ("bfio-normal", "burstgpt")
    ]


def test_the_public_file_is_fetched_once(docs, published, capsys):
    kept = docs.parent / "rows" / _burstgpt.FILE
    for damaged in (None, b"of another time"):
        if damaged is not None:
            kept.write_bytes(damaged)
        for _ in range(2):
            assert run(docs, "bfio-horizon", "--burstgpt", "fetch") == 0
        assert _burstgpt._is_known(kept.read_bytes())
    assert published == [f"/{_burstgpt.FILE}"] * 2
    assert all("| --- |" in each for each in of_lengths(docs))
    assert "not rebuilt" not in capsys.readouterr().err


def test_another_file_is_told_and_left_and_the_rest_is_made(docs, published, monkeypatch, capsys):
    monkeypatch.setattr(_burstgpt, "SHA256", "0" * 12)
    assert run(docs, "bfio-horizon", "--burstgpt", "fetch") == 1
    said = capsys.readouterr().err.splitlines()
    assert re.match(
        r"not rebuilt: bfio-horizon-burstgpt: \S+ has SHA-256 \w{12}…, must begin with 0{12}",
        said[-1],
    )
    assert not (docs.parent / "rows" / _burstgpt.FILE).exists()
    normal, lengths = of_lengths(docs)
    assert "| --- |" in normal
    assert lengths == OLD


def test_without_a_network_one_line_names_what_is_not_rebuilt(docs, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    at(monkeypatch, port)
    assert run(docs, "bfio-horizon", "bfio-peer", "--burstgpt", "fetch") == 0
    (line,) = (each for each in capsys.readouterr().err.splitlines() if "not rebuilt" in each)
    assert line.startswith("not rebuilt: bfio-horizon-burstgpt: http://127.0.0.1:")
    assert "Connection refused" in line
    assert f"put it at {docs.parent / 'rows' / _burstgpt.FILE} or give it by --burstgpt" in line
    normal, lengths = of_lengths(docs)
    assert "| --- |" in normal
    assert lengths == OLD


def test_nothing_is_fetched_for_studies_without_its_lengths(docs, published):
    assert run(docs, "dpr-points", "--burstgpt", "fetch") == 0
    assert published == []


def test_the_public_file_is_the_pages():
    makefile, page = (ROOT / "Makefile").read_text(), (ROOT / "docs" / PAGE).read_text()
    assert re.search(r"^REPRODUCE := .* --burstgpt fetch$", makefile, re.MULTILINE)
    assert f"\n{_burstgpt.URL}\n" in page
    assert _burstgpt.URL.endswith(f"/{_burstgpt.FILE}")
    assert f"`{_burstgpt.SHA256}`" in page
    places = {place for place in MARK.findall(page) if place.endswith("-burstgpt")}
    assert places == {f"{name}-burstgpt" for name in _burstgpt.STUDIES}


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
        assert QUICK_MARK not in held


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
