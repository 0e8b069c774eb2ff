"""Boards that are computed: what is shared, what fails, what is gone on with."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from tiny_board import TINY, UNKNOWN

from brsolver import SimulationParams, simulate
from brsolver.board.cells import CLOCKED
from brsolver.board.definition import load_definition
from brsolver.board.run import run_board
from brsolver.board.sources import digest
from brsolver.errors import ParameterError, TraceError, UnknownNameError
from brsolver.executors import ExecutorParams, executor_of
from brsolver.oracles.gap_time import time_gap
from brsolver.simulator import Arrivals
from brsolver.traces.load import load_trace

if TYPE_CHECKING:
    from brsolver.board.result import Board

HERE = executor_of(ExecutorParams(jobs=1))


def figures(board: Board) -> list[dict[str, object]]:
    """Return the rows without what a clock made."""
    clocks = {*CLOCKED, "wall_s"}
    rows = [{k: v for k, v in row.items() if k not in clocks} for row in board.rows]
    # NaN is not equal to itself.
    return [{k: repr(v) for k, v in row.items()} for row in rows]


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.toml").write_text(TINY.format(digest=UNKNOWN))
    return run_board(load_definition(folder / "tiny.toml"), executor=HERE)


def test_a_row_per_policy_place_and_regime(board):
    assert len(board.rows) == 2 * 2 * 2
    assert {(row["policy"], row["routing"]) for row in board.rows} == {
        ("jsq", "immediate"), ("br-0", "pooled"),
    }  # fmt: skip
    assert board.failures == ()
    assert {row["version"] for row in board.rows} == {board.version}
    assert all('"workers": 2' in row["params"] for row in board.rows)


def test_all_policies_of_a_place_are_held_against_the_same_bound(board):
    bounds: dict[str, set[float]] = {}
    for row in board.rows:
        bounds.setdefault(row["prefill"], set()).add(row["bound_s"])
        assert row["certified"]
        assert row["seconds"] >= row["bound_s"]
        assert row["gap"] == pytest.approx(row["seconds"] / row["bound_s"] - 1)
        assert row["routing_gap"] <= row["gap"] + 1e-12
        assert row["bound_s"] <= row["clairvoyant_s"] * (1 + 1e-9)
    assert all(len(found) == 1 for found in bounds.values())


def test_the_gap_is_that_of_the_gap_command_for_all_runs(board):
    trace = load_trace("preset:uniform:n=60,s_high=300,o_high=30", seed=0)
    one = next(r for r in board.rows if (r["prefill"], r["regime"]) == ("on-ranks", "full"))
    params = SimulationParams.from_dict(
        {"hardware": "bfio", "workers": 2, "slots": 4, "routing": "immediate",
         "prefill": {"mode": "colocated", "budget": 256}}
    )  # fmt: skip
    report = time_gap(trace, "jsq", workers=2, slots=4, params=params)
    assert report.bounds[-1].seconds == one["bound_s"]
    assert report.policies[0].seconds == one["seconds"]
    assert report.policies[0].routing_gap == pytest.approx(one["routing_gap"])


def test_loads_are_shares_of_what_the_baseline_gets_through(board):
    trace = load_trace("preset:uniform:n=60,s_high=300,o_high=30", seed=0)
    params = SimulationParams.from_dict(
        {"hardware": "bfio", "workers": 2, "slots": 4, "routing": "immediate"}
    )
    full = simulate(trace, "jsq", params).metrics
    rate = 0.5 * full.throughput_tok_s / trace.output_tokens.mean()
    rows = [r for r in board.rows if (r["prefill"], r["regime"]) == ("elsewhere", "half")]
    assert {row["rate_req_s"] for row in rows} == {rate}
    pooled = replace(params, routing="pooled", arrivals=Arrivals(mode="rate", rate=rate))
    (row,) = [row for row in rows if row["policy"] == "br-0"]
    assert row["tpot_mean_s"] == simulate(trace, "br-0", pooled).metrics.tpot_mean_s


def test_every_row_is_the_same_in_processes(tiny, board):
    part = {"prefill": ("elsewhere",), "regime": ("full",)}
    in_processes = run_board(tiny, chosen=part, executor=executor_of(ExecutorParams(jobs=2)))
    assert figures(in_processes) == figures(board)[:2]


def test_a_run_goes_on_where_it_was(tiny, board, tmp_path):
    out = tmp_path / "out"
    part = {"regime": ("full",)}
    run_board(tiny, chosen=part, out=out, executor=HERE)
    begun: list[int] = []
    whole = run_board(
        tiny, out=out, executor=HERE, progress=lambda what, done, total: begun.append(done)
        if what == "cells" else None,
    )  # fmt: skip
    assert begun[0] == 4
    assert figures(whole) == figures(board)
    assert pq.read_table(out / "results.parquet").num_rows == 8


def test_a_folder_of_another_board_is_refused(tiny, tiny_file, tmp_path):
    out = tmp_path / "out"
    part = {"regime": ("full",), "prefill": ("elsewhere",)}
    run_board(tiny, chosen=part, out=out, executor=HERE)
    tiny_file.write_text(tiny_file.read_text().replace("slots = 4", "slots = 5"))
    with pytest.raises(ParameterError, match=r"definition is .*, must be the same"):
        run_board(load_definition(tiny_file), chosen=part, out=out, executor=HERE)


def test_a_policy_that_raises_fails_in_its_cells_and_the_rest_goes_on(tiny, board, quitting_policy):
    found = run_board(tiny, more=[quitting_policy], executor=HERE)
    assert len(found.failures) == 4
    (line,) = found.failures_told()
    assert line.startswith("quits@pooled failed in 4 cells, the first (drawn, elsewhere, full")
    assert line.endswith("had enough")
    whole = [row for row in found.rows if row["policy"] != "quits"]
    assert [row["seconds"] for row in whole] == [row["seconds"] for row in board.rows]
    *_, last = found.standings
    assert (last.policy, last.failed, last.cells) == ("quits", 4, 4)
    assert math.isnan(last.score)


def test_a_strangers_policy_that_changed_is_run_again_and_ours_are_not(
    tiny, board, quitting_policy, tmp_path
):
    code, out = tmp_path / "installed/quitting_policy_module.py", tmp_path / "out"
    routes = "return [(0, int(cluster.room.argmax()))]"
    code.write_text(code.read_text().replace("raise RuntimeError('had enough')", routes))
    begun: list[int] = []

    def asked():
        return run_board(
            tiny, more=[quitting_policy], out=out, executor=HERE,
            progress=lambda what, done, total: begun.append(done),
        )  # fmt: skip

    first = asked()
    begun.clear()
    assert figures(asked()) == figures(first)
    assert set(begun) == {2, 12}
    code.write_text(code.read_text() + "\n# changed\n")
    with pytest.raises(ParameterError, match="quits: module quitting_policy_module is not what it"):
        asked()
    sys.modules.pop("quitting_policy_module")  # as in another process
    begun.clear()
    asked()
    assert set(begun) == {2, 8, 9, 10, 11, 12}
    ours = [row for row in first.rows if row["policy"] != quitting_policy]
    assert {row.pop("policy_code") for row in ours} == {None}
    assert figures(replace(first, rows=tuple(ours))) == figures(board)


def test_a_baseline_that_raises_leaves_nothing_to_refer_to(tiny_file, quitting_policy):
    text = tiny_file.read_text().replace('baseline = "jsq@immediate"', 'baseline = "quits@pooled"')
    tiny_file.write_text(text)
    found = run_board(load_definition(tiny_file), executor=HERE)
    assert len(found.failures) == len(found.rows)
    assert all("had enough" in line for line in found.failures_told())


def test_a_file_takes_the_place_of_a_stand_in_and_is_checked(tiny_file, tmp_path):
    file = tmp_path / "mine.csv"
    rows = [f"{100 + 37 * i % 900},{3 + 11 * i % 40}" for i in range(80)]
    file.write_text("\n".join(["prompt_tokens,output_tokens", *rows]) + "\n")
    part = {"regime": ("full",), "prefill": ("elsewhere",)}
    files = {"drawn": str(file)}
    other = run_board(load_definition(tiny_file), files=files, chosen=part, executor=HERE)
    assert {row["origin"] for row in other.rows} == {"other file"}
    assert any("its rows are marked" in note for note in other.notes())
    assert {row["requests"] for row in other.rows} == {60}
    tiny_file.write_text(tiny_file.read_text().replace(UNKNOWN, digest(file)))
    known = run_board(load_definition(tiny_file), files=files, chosen=part, executor=HERE)
    assert {row["origin"] for row in known.rows} == {"published"}
    assert known.notes() == ()
    assert [row["gap"] for row in known.rows] == [row["gap"] for row in other.rows]


def test_files_that_cannot_be_are_refused(tiny, tmp_path):
    with pytest.raises(UnknownNameError, match="trace of the board 'drown': did you mean 'drawn'"):
        run_board(tiny, files={"drown": "x.csv"}, executor=HERE)
    with pytest.raises(TraceError, match=r"none\.csv: cannot be read"):
        run_board(tiny, files={"drawn": str(tmp_path / "none.csv")}, executor=HERE)


def test_prefix_caches_need_a_trace_that_has_prefixes(tiny_file, tmp_path):
    added = '\ncache_policies = ["prefix-affinity@immediate"]\nhardware'
    text = tiny_file.read_text().replace("\nhardware", added)
    tiny_file.write_text(text + '\n[prefill.cached]\nmode = "colocated"\nbudget = 256\n'
                         "cache = 4096\nblock = 16\n")  # fmt: skip
    definition = load_definition(tiny_file)
    bare = run_board(definition, chosen={"regime": ("full",)}, executor=HERE)
    assert {row["prefill"] for row in bare.rows} == {"elsewhere", "on-ranks"}
    assert {row["policy"] for row in bare.rows} == {"jsq", "br-0"}
    assert any("cached: left out for drawn" in note for note in bare.notes())
    with pytest.raises(ParameterError, match="prefix caches need a trace with hash_ids"):
        run_board(definition, chosen={"prefill": ("cached",)}, executor=HERE)
    file = tmp_path / "shared.jsonl"
    rows = [
        f'{{"arrival_s": {i}, "prompt_tokens": {32 + 16 * (i % 3)}, "output_tokens": {2 + i % 9}, '
        f'"hash_ids": {[0, 1, *(100 * i + k for k in range(i % 3))]}}}'
        for i in range(60)
    ]
    file.write_text("\n".join(rows) + "\n")
    found = run_board(
        definition, files={"drawn": str(file)}, chosen={"prefill": ("cached",)}, executor=HERE
    )
    assert {row["policy"] for row in found.rows} == {"jsq", "br-0", "prefix-affinity"}
    assert all(row["certified"] for row in found.rows)
    assert all(row["seconds"] >= row["bound_s"] for row in found.rows)
    assert {row["routing_gap"] for row in found.rows} == {None}
    assert {row["clairvoyant_s"] for row in found.rows} == {None}


def test_a_file_of_other_prefixes_is_another_place(tiny_file, tmp_path):
    text = '\n[prefill.cached]\nmode = "colocated"\nbudget = 256\ncache = 4096\nblock = 16\n'
    tiny_file.write_text(tiny_file.read_text() + text)
    file, out = tmp_path / "shared.jsonl", tmp_path / "out"

    def seconds(shared: int) -> set[float]:
        rows = [
            f'{{"arrival_s": {i}, "prompt_tokens": 256, "output_tokens": {2 + i % 9}, '
            f'"hash_ids": {[k if k < shared else 100 * i + k for k in range(16)]}}}'
            for i in range(60)
        ]
        file.write_text("\n".join(rows) + "\n")
        found = run_board(
            load_definition(tiny_file), files={"drawn": str(file)},
            chosen={"prefill": ("cached",), "regime": ("full",)}, out=out, executor=HERE,
        )  # fmt: skip
        return {row["seconds"] for row in found.rows}

    assert seconds(shared=14) != seconds(shared=2)
