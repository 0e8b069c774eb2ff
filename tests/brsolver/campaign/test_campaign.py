"""Rows are kept as they come, and never computed twice."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import campaign_cells
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.campaign import FAILED, WALL_S, Campaign, Cell, ResultStore, run_campaign
from brsolver.campaign.store import MOST_PARTS
from brsolver.campaign.tables import as_table, part_of, rows_of
from brsolver.errors import BrsolverError, OutputError, ParameterError
from brsolver.executors import ExecutorParams, executor_of
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = executor_of(ExecutorParams(jobs=1))


def campaign_of(
    tasks: Sequence[dict[str, Any]], *, folder: Path | None = None, **more: Any
) -> Campaign:
    given: dict[str, Any] = {
        "name": "squares",
        "function": campaign_cells.figures,
        "cells": tuple(Cell(key={"number": each["number"]}, task=each) for each in tasks),
        "shared": {} if folder is None else {"folder": str(folder)},
        "settings": {"of": "two"},
    }
    return Campaign(**{**given, **more})


def numbers(count: int) -> list[dict[str, Any]]:
    return [{"number": each} for each in range(count)]


def computed(folder: Path) -> list[str]:
    path = folder / "computed"
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def test_rows_come_in_the_order_of_cells_and_in_files(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    table = run_campaign(
        campaign_of(numbers(3)), tmp_path / "kept", executor=HERE,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert table.column_names == ["number", "square", FAILED, WALL_S]
    assert table.drop_columns([WALL_S]).to_pylist() == [
        {"number": each, "square": each**2, FAILED: None} for each in range(3)
    ]
    assert pq.read_table(tmp_path / "kept" / "results.parquet").equals(table)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    for tasks, fresh in ((numbers(3), "012"), (numbers(3), ""), (numbers(5), "34")):
        table = run_campaign(campaign_of(tasks, folder=tmp_path), tmp_path / "kept", executor=HERE)
        assert "".join(computed(tmp_path)) == fresh
        assert table["square"].to_pylist() == [each["number"] ** 2 for each in tasks]


def test_a_cell_that_fails_is_named_and_tried_again(tmp_path: Path) -> None:
    tasks = [{"number": 0}, {"number": 1, "fails": True}, {"number": 2}]
    table = run_campaign(campaign_of(tasks, folder=tmp_path), tmp_path / "kept", executor=HERE)
    assert table[FAILED].to_pylist() == [None, "ZeroDivisionError: division by zero", None]
    assert table["square"].to_pylist() == [0, None, 4]
    assert table["number"].to_pylist() == [0, 1, 2]
    computed(tmp_path)
    (tmp_path / "mended").touch()
    table = run_campaign(campaign_of(tasks, folder=tmp_path), tmp_path / "kept", executor=HERE)
    assert computed(tmp_path) == ["1"]
    assert table[FAILED].to_pylist() == [None] * 3
    assert table["square"].to_pylist() == [0, 1, 4]


def test_figures_that_only_some_cells_have_stand_alike_fresh_and_resumed(tmp_path: Path) -> None:
    more: list[dict[str, Any]] = [{"b": 1.5}, {}, {"a": None}, {"b": 2, "c": "text"}]
    tasks = [{"number": at, "more": each} for at, each in enumerate(more)]
    fresh = run_campaign(campaign_of(tasks), executor=HERE)
    assert fresh.column_names == ["number", "square", "b", "a", "c", FAILED, WALL_S]
    backwards = campaign_of(tasks[::-1])
    run_campaign(backwards, tmp_path / "kept", executor=HERE)
    resumed = run_campaign(campaign_of(tasks), tmp_path / "kept", executor=HERE)
    assert resumed.drop_columns([WALL_S]).equals(fresh.drop_columns([WALL_S]))


def test_numbers_of_numpy_are_plain_in_files(tmp_path: Path) -> None:
    cells = tuple(Cell(key={"number": each}, task=each) for each in range(4))
    campaign = campaign_of([], cells=cells, function=campaign_cells.of_numpy)
    for _ in range(2):
        table = run_campaign(campaign, tmp_path / "kept", executor=HERE)
        kinds = [table.schema.field(name).type for name in ("count", "mean", "over")]
        assert kinds == [pa.int64(), pa.float64(), pa.bool_()]


def test_processes_give_the_same_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    trace = Trace(prompt_tokens=rng.integers(50, 900, 60), output_tokens=rng.integers(5, 60, 60))
    asked = [(policy, seed) for policy in ("br-h", "random") for seed in range(2)]
    cells = tuple(Cell(key={"policy": p, "seed": s}, task=(p, s)) for p, s in asked)
    campaign = Campaign(
        name="runs", function=campaign_cells.simulated, cells=cells, shared={"trace": trace}
    )
    tables = [
        run_campaign(
            campaign, tmp_path / str(jobs), executor=executor_of(ExecutorParams(jobs=jobs))
        )
        for jobs in (1, 2)
    ]
    one, two = (table.drop_columns([WALL_S]) for table in tables)
    assert one.schema == two.schema
    assert _bits(one) == _bits(two)


def _bits(table: pa.Table) -> list[list[object]]:
    """Return all values; NaN, which equals nothing, by its text."""
    return [
        [repr(each) if isinstance(each, float) and math.isnan(each) else each for each in column]
        for column in table.to_pydict().values()
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cubes"}, "campaign is 'squares' there and 'cubes' here"),
        ({"settings": {"of": "three"}}, "of is 'two' there and 'three' here"),
        ({"settings": {}}, "of is 'two' there and None here"),
    ],
)
def test_a_folder_of_another_campaign_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run_campaign(campaign_of(numbers(1)), tmp_path / "kept", executor=HERE)
    with pytest.raises(ParameterError, match=message):
        run_campaign(campaign_of(numbers(1), **change), tmp_path / "kept", executor=HERE)


def test_rows_of_other_code_of_ours_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = campaign_of(numbers(2), folder=tmp_path)
    for code, fresh in (("one", "01"), ("other", "01"), ("one", "")):
        monkeypatch.setattr("brsolver.campaign.cells.own_code", lambda code=code: code)
        run_campaign(campaign, tmp_path / "kept", executor=HERE)
        assert "".join(computed(tmp_path)) == fresh
        assert pq.read_metadata(tmp_path / "kept" / "results.parquet").num_rows == 2


def test_a_folder_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_campaign(campaign_of(numbers(1)), tmp_path / "kept", executor=HERE)
    monkeypatch.setattr("brsolver.campaign.store.__version__", "9.9")
    with pytest.raises(ParameterError, match=r"version is '.*' there and '9\.9' here"):
        run_campaign(campaign_of(numbers(1)), tmp_path / "kept", executor=HERE)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    run_campaign(campaign_of(numbers(2)), kept, executor=HERE)
    part = next((kept / "parts").glob("*.parquet"))
    whole = part.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"PAR1" + whole[4:-4] + b"XXXX"):
        part.write_bytes(damaged)
        with pytest.raises(BrsolverError, match=f"{part.name}: cannot be read: .*remove it"):
            run_campaign(campaign_of(numbers(2)), kept, executor=HERE)
    pq.write_table(pa.table({"strange": [1]}), part)
    with pytest.raises(BrsolverError, match="cannot be read"):
        run_campaign(campaign_of(numbers(2)), kept, executor=HERE)
    part.unlink()
    table = run_campaign(campaign_of(numbers(2), folder=tmp_path), kept, executor=HERE)
    assert computed(tmp_path) == ["0", "1"]
    assert table["square"].to_pylist() == [0, 1]
    (kept / "campaign.json").write_text("{")
    with pytest.raises(ParameterError, match=r"campaign\.json: cannot be read"):
        run_campaign(campaign_of(numbers(2)), kept, executor=HERE)
    (kept / "campaign.json").unlink()
    with pytest.raises(ParameterError, match=r"has rows and no campaign\.json"):
        run_campaign(campaign_of(numbers(2)), kept, executor=HERE)


def test_a_byte_that_changed_is_never_another_figure(tmp_path: Path) -> None:
    campaign, kept = campaign_of(numbers(2)), tmp_path / "kept"
    rows = run_campaign(campaign, kept, executor=HERE).to_pylist()
    part = next((kept / "parts").glob("*.parquet"))
    whole = part.read_bytes()
    told: list[str] = []
    for at in range(4, len(whole), 11):
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1 :])
        try:
            with ResultStore(kept, campaign) as store:
                assert [dict(row) for row in store.rows.values()] == rows
        except BrsolverError as error:
            told.append(str(error))
    assert told
    assert all(f"{part.name}: cannot be read" in line for line in told)


def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    campaign = campaign_of(numbers(1))
    with ResultStore(tmp_path / "kept", campaign):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "import test_campaign as t\n"
            "try: t.run_campaign(t.campaign_of(t.numbers(1)), sys.argv[2], executor=t.HERE)\n"
            "except t.ParameterError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "kept")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "another process works on it, must have ended" in done.stdout
    run_campaign(campaign, tmp_path / "kept", executor=HERE)


def test_where_nothing_can_be_written_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        run_campaign(campaign_of(numbers(1), folder=tmp_path), tmp_path / "file", executor=HERE)
    assert computed(tmp_path) == []


def test_bad_campaigns_are_refused() -> None:
    with pytest.raises(ParameterError, match="squares has no cell"):
        campaign_of([])
    with pytest.raises(ParameterError, match="squares has two cells number 1, must differ"):
        campaign_of([{"number": 1}, {"number": 1}])


def test_names_and_kinds_that_cannot_stand_together_are_named() -> None:
    table = run_campaign(
        campaign_of([{"number": 1, "more": {"wall_s": 3}}, {"number": 2}]), executor=HERE
    )
    assert "have the name 'wall_s'" in table[FAILED].to_pylist()[0]
    with pytest.raises(ParameterError, match="figure 'a' is of int, str, must be of one kind"):
        run_campaign(
            campaign_of([{"number": at, "more": {"a": each}} for at, each in enumerate((1, "x"))]),
            executor=HERE,
        )


def test_many_parts_become_one(tmp_path: Path) -> None:
    campaign = campaign_of(numbers(MOST_PARTS + 5))
    table = run_campaign(campaign, tmp_path / "one", executor=HERE)
    with ResultStore(tmp_path / "kept", campaign) as store:
        rows = {
            cell.identity: row for cell, row in zip(campaign.cells, table.to_pylist(), strict=True)
        }
        for identity, row in rows.items():
            store.add(identity, row)
            store.flush()
        assert len(list((tmp_path / "kept" / "parts").iterdir())) == MOST_PARTS + 5
    with ResultStore(tmp_path / "kept", campaign) as store:
        assert store.rows == rows
    assert len(list((tmp_path / "kept" / "parts").iterdir())) == 1
    with ResultStore(tmp_path / "kept", campaign) as store:
        assert store.rows == rows


@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"a": st.integers(0, 9), "b": st.floats(allow_nan=False), "c": st.text()}
        ),
        min_size=1,
        max_size=6,
    )
)
def test_rows_come_back_from_a_part_as_they_were(rows: list[dict[str, Any]]) -> None:
    whole = {
        f"cell {at}": {"key": at, **row, FAILED: None, WALL_S: 0.5} for at, row in enumerate(rows)
    }
    back = dict(rows_of(part_of(whole, ["key"])))
    assert back == whole
    assert [list(row) for row in back.values()] == [list(row) for row in whole.values()]


DRIVER = """
import sys
from pathlib import Path
from brsolver.campaign import Campaign, Cell, run_campaign
from brsolver.executors import ExecutorParams, executor_of

def slow(task, shared):
    folder = Path(shared["folder"])
    with (folder / "computed").open("a") as stream:
        stream.write(f"{task}\\n")
    if task == 5 and (folder / "gate").exists():
        (folder / "gate").read_text()
    return {"square": task**2}

if __name__ == "__main__":
    folder = sys.argv[1]
    cells = tuple(Cell(key={"number": each}, task=each) for each in range(8))
    campaign = Campaign(name="slow", function=slow, cells=cells, shared={"folder": folder})
    where = executor_of(ExecutorParams(jobs=2))
    print(run_campaign(campaign, folder + "/kept", executor=where)["square"].to_pylist())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_ends_has_kept_its_rows(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    os.mkfifo(tmp_path / "gate")
    command = [sys.executable, str(script), str(tmp_path)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # All but the one at the gate, on disk although nothing has ended since.
    while _rows_on_disk(tmp_path / "kept") < 7:
        os.sched_yield()
    driver.send_signal(end)
    driver.communicate()
    assert driver.returncode != 0
    assert sorted(computed(tmp_path)) == list("01234567")
    (tmp_path / "gate").unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert computed(tmp_path) == ["5"]
    assert json.loads(done.stdout) == [each**2 for each in range(8)]


def _rows_on_disk(kept: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in (kept / "parts").glob("*.parquet"))


def test_keys_are_the_same_whatever_their_order() -> None:
    one, other = Cell(key={"a": 1, "b": "x"}, task=0), Cell(key={"b": "x", "a": 1}, task=1)
    assert one.identity == other.identity
    assert str(one) == "a 1, b x"
    assert one.identity != Cell(key={"a": 1, "b": "y"}, task=0).identity


def test_an_empty_table_has_its_columns() -> None:
    assert as_table([], ["number"]).column_names == ["number", FAILED, WALL_S]


def test_rows_that_another_function_made_are_computed_again(tmp_path, monkeypatch):
    """Its module was edited, or another one is asked for; a row knows whose it is."""
    monkeypatch.syspath_prepend(tmp_path)
    cells = tuple(Cell(key={"x": x}, task=x) for x in (1, 2))
    texts = ["return {'y': task}", "return {'y': 10 * task}", "return {'y': task}"]
    found = []
    for text in texts:
        # As another process would import it: under the same name, with other contents.
        source = tmp_path / "edited_function.py"
        source.write_text(f"def function(task, shared):\n    {text}\n")
        sys.modules.pop("edited_function", None)
        importlib.invalidate_caches()
        function = importlib.import_module("edited_function").function
        campaign = Campaign(name="edited", function=function, cells=cells)
        table = run_campaign(campaign, tmp_path / "kept", executor=HERE)
        found.append(table.column("y").to_pylist())
    assert found == [[1, 2], [10, 20], [1, 2]]
