"""`board` and `tune` on a cluster of several nodes: what processes of this machine give."""

from __future__ import annotations

import json
import socket
import tomllib
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("ray")
# Ray leaves sockets of its connections to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

TUNED = (
    *("--workers", 2, "--slots", 4, "--prefill", "colocated:budget=512", "--jobs", 1),
    *("--policies", "br-t,jsq-load", "--budget", "1h", "--trials", 4, "--json"),
)
CLOCKED = frozenset(
    {"wall_s", "spent_s", "engine_s", "task_s", "dispatch_us_p50", "dispatch_us_p99"}
)
OF_THE_CALL = frozenset({"storage", "summary"})
"""Where the study lies, and how long all of it took."""


@pytest.fixture
def there(cluster: Any) -> tuple[str, ...]:
    return "--executor", "ray", "--ray-address", cluster.address


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "results.parquet").to_pylist()


def unclocked(value: Any) -> Any:
    """Leave out what a clock said; numbers as text, since NaN equals nothing."""
    if isinstance(value, dict):
        kept = value.keys() - CLOCKED - OF_THE_CALL
        return {name: unclocked(value[name]) for name in sorted(kept)}
    return [unclocked(each) for each in value] if isinstance(value, list) else repr(value)


def test_a_cluster_gives_the_same_board(
    brsolver: Callable[..., Any], there: tuple[str, ...], tiny: Path, tmp_path: Path
) -> None:
    for out, where in (("here", ("--jobs", 1)), ("there", there)):
        outcome = brsolver("board", "--definition", tiny, "--out", tmp_path / out, *where)
        assert outcome.code == 0, outcome.err
        assert outcome.err.splitlines()[-1] == f"wrote {tmp_path / out}"
    for part in (".", "references"):
        here, away = (rows_of(tmp_path / name / part) for name in ("here", "there"))
        assert unclocked(away) == unclocked(here)
    cells = [(row["regime"], row["policy"], row["failed"]) for row in rows_of(tmp_path / "there")]
    assert cells == [
        (regime, policy, None) for regime in ("full", "half") for policy in ("jsq", "br-0")
    ]


def test_a_board_that_is_there_is_not_computed_again(
    brsolver: Callable[..., Any], there: tuple[str, ...], tiny: Path, tmp_path: Path
) -> None:
    ask = ("board", "--definition", tiny, "--only", "regime=full", "--out", tmp_path / "there")
    rows = []
    for _ in range(2):
        assert brsolver(*ask, *there).code == 0
        rows.append(rows_of(tmp_path / "there"))
    # A clock would have told another time.
    assert repr(rows[1]) == repr(rows[0])


def test_a_cluster_tunes_to_the_same(
    brsolver: Callable[..., Any], there: tuple[str, ...], traffic: Path, tmp_path: Path
) -> None:
    facts, files = [], []
    for out, where in (("here", ()), ("there", there)):
        outcome = brsolver("tune", traffic, *TUNED, "--out", tmp_path / out, *where)
        assert outcome.code == 0, outcome.err
        facts.append(json.loads(outcome.out))
        files.append(tomllib.loads((tmp_path / out / "tuned.toml").read_text()))
    assert unclocked(facts[1]) == unclocked(facts[0])
    assert files[1] == files[0]
    assert facts[1]["counts"]["failed"] == 0
    assert len(facts[1]["trials"]) == 4
    assert facts[1]["gap"]["gap"] is not None


@pytest.fixture
def closed() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("command", ["compare", "gap", "tune", "board"])
def test_an_unreachable_cluster_is_one_line(
    refused: Callable[..., str],
    traffic: Path,
    tiny: Path,
    tmp_path: Path,
    closed: str,
    command: str,
) -> None:
    out = tmp_path / "new" / "out"
    asked: dict[str, tuple[object, ...]] = {
        "compare": (traffic, "--policies", "jsq", "--workers", 2, "--slots", 4, "--seeds", 2),
        "gap": (traffic, "--policies", "jsq", "--workers", 2, "--slots", 4),
        "tune": (traffic, *TUNED),
        "board": ("--definition", tiny),
    }
    line = refused(
        command, *asked[command], "--out", out, "--executor", "ray", "--ray-address", closed
    )
    assert f"no Ray cluster can be reached at {closed}: Connection refused" in line
    # A board keeps what it has of its places' bounds, which is nothing yet.
    assert not [path for path in out.rglob("*.parquet") if path.is_file()]
