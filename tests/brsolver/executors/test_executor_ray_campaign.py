"""A whole campaign on a cluster of several nodes, of which one is killed in mid-run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import executor_tasks as tasks
import numpy as np
import pyarrow.parquet as pq
import pytest

from brsolver.campaign import WALL_S, Campaign, Cell, run_campaign
from brsolver.executors import ExecutorParams, executor_of
from brsolver.traces.trace import Trace

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from conftest import Gates

pytest.importorskip("ray")
# Ray leaves sockets of its connections to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

ASKED = [(policy, seed) for policy in ("br-h", "random") for seed in range(4)]
HELD = (0, 1)
BEFORE = 3
"""Rows that are there when the node is killed."""


def campaign(folder: Path, held: tuple[int, ...] = ()) -> Campaign:
    rng = np.random.default_rng(5)
    trace = Trace(prompt_tokens=rng.integers(50, 900, 60), output_tokens=rng.integers(5, 60, 60))
    return Campaign(
        name="runs",
        function=tasks.counted,
        cells=tuple(Cell(key={"number": at}, task=(at, *asked)) for at, asked in enumerate(ASKED)),
        shared={"trace": trace, "folder": str(folder), "held": held},
    )


def computed(folder: Path) -> list[int]:
    return sorted(int(line) for line in (folder / "computed").read_text().split())


def texts(table: pa.Table) -> list[dict[str, str]]:
    """Return rows as text, since NaN equals nothing."""
    rows = table.to_pylist()
    return [{name: repr(value) for name, value in row.items()} for row in rows]


def test_a_killed_node_costs_a_campaign_no_row(
    whole: Any, gates: Gates, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    spare = {node.node_id: node for node in whole.spare}
    victims: list[str] = []

    def kill(done: int, total: int) -> None:
        """Kill a node on which a cell is held, once others have ended; let go who is not on it."""
        if done != BEFORE:
            return
        where = dict(line.split() for line in gates.hello(len(HELD)))
        victims.append(next(each for each, node in where.items() if node in spare))
        killed = spare[where[victims[0]]]
        whole.spare.remove(killed)
        whole.remove_node(killed, allow_graceful=False)
        for each in set(where) - set(victims):
            gates.let_through(int(each))

    there = executor_of(ExecutorParams(executor="ray", ray_address=whole.address))
    asked, kept = campaign(tmp_path, HELD), tmp_path / "kept"
    table = run_campaign(asked, kept, executor=there, progress=kill)
    assert table["number"].to_pylist() == list(range(len(ASKED)))
    (said,) = (record.message for record in caplog.records)
    assert said.startswith(f"task {int(victims[0]) + 1} was lost (")
    assert computed(tmp_path) == sorted([*range(len(ASKED)), int(victims[0])])
    assert texts(pq.read_table(kept / "results.parquet")) == texts(table)

    again = run_campaign(asked, kept, executor=there)
    assert texts(again) == texts(table)
    assert len(computed(tmp_path)) == len(ASKED) + 1

    (tmp_path / "one").mkdir()
    here = run_campaign(campaign(tmp_path / "one"), executor=executor_of(ExecutorParams(jobs=1)))
    assert texts(table.drop_columns([WALL_S])) == texts(here.drop_columns([WALL_S]))
