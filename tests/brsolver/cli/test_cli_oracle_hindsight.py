"""``brsolver oracle hindsight``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from brsolver.errors import BrsolverError
from brsolver.oracles import hindsight as module
from brsolver.traces import load_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = ("--workers", "2,3", "--slots", 3, "--seeds", 2)


@pytest.fixture
def searched(brsolver: Callable[..., Any], trace_file: Path) -> Callable[..., list[dict[str, Any]]]:
    """Search and return what JSON says of each."""

    def call(*options: object, code: int = 0) -> list[dict[str, Any]]:
        outcome = brsolver("oracle", "hindsight", trace_file, *SMALL, "--json", *options)
        assert (outcome.code, outcome.err) == (code, "")
        found: list[dict[str, Any]] = json.loads(outcome.out, parse_constant=pytest.fail)[
            "searches"
        ]
        return found

    return call


def computed(kept: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in (kept / "parts").glob("*.parquet"))


def test_every_cluster_and_seed_gets_its_best_run(
    searched: Callable[..., list[dict[str, Any]]], trace_file: Path
) -> None:
    found = searched()
    where = [(each["workers"], each["seed"], each["requests"]) for each in found]
    assert where == [(2, 0, 80), (2, 1, 79), (3, 0, 80), (3, 1, 79)]
    for each in found:
        # Of a file, each seed starts a request later.
        trace = load_trace(trace_file).after(each["seed"])
        alone = module.hindsight(trace, workers=each["workers"], slots=3)
        assert each["status"] == "optimal"
        assert each["gap"] == 0.0
        assert each["lower_bound"] == each["best_known"] == alone.barrier_best


def test_presets_are_drawn_for_every_seed(brsolver: Callable[..., Any]) -> None:
    outcome = brsolver(
        "oracle", "hindsight", "preset:uniform:s_high=400,o_high=30", "--limit", 20, "--json",
        *SMALL,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["searches"]
    assert {each["requests"] for each in found} == {20}
    assert len({each["best_known"] for each in found}) == 4


def test_searches_that_are_kept_are_not_made_again(
    searched: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    first = searched("--resume", kept)
    assert searched("--resume", kept) == first
    assert computed(kept) == 4
    more = searched("--resume", kept, "--seeds", 3)
    assert computed(kept) == 6
    assert [each for each in more if each["seed"] < 2] == first
    rows = pq.read_table(kept / "results.parquet").to_pylist()
    assert [row["best_known"] for row in rows] == [each["best_known"] for each in more]


def test_a_search_that_fails_is_named_and_made_again(
    monkeypatch: pytest.MonkeyPatch,
    searched: Callable[..., list[dict[str, Any]]],
    refused: Callable[..., str],
    trace_file: Path,
    tmp_path: Path,
) -> None:
    of = module.hindsight

    def fails(trace: Any, **given: Any) -> Any:
        if given["workers"] == 3:
            raise BrsolverError("had enough")
        return of(trace, **given)

    kept = tmp_path / "kept"
    with monkeypatch.context() as broken:
        broken.setattr(module, "hindsight", fails)
        found = searched("--resume", kept, code=1)
        assert [each.get("failure") for each in found] == [None, None, "had enough", "had enough"]
        line = refused("oracle", "hindsight", trace_file, "--workers", 3)
        assert line == "brsolver: error: had enough\n"
    mended = searched("--resume", kept)
    assert [each["status"] for each in mended] == ["optimal"] * 4
    assert mended[:2] == found[:2]
    assert computed(kept) == 6


def test_the_table_names_what_was_sought(brsolver: Callable[..., Any], trace_file: Path) -> None:
    outcome = brsolver("oracle", "hindsight", trace_file, *SMALL)
    assert outcome.code == 0
    for expected in ("lower bound", "best known", "B = 3, fcfs admission", "dynamic programme"):
        assert expected in outcome.out


def test_an_interrupted_search_ends_the_command_and_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, brsolver: Callable[..., Any], trace_file: Path, tmp_path: Path
) -> None:
    of = module.hindsight

    def interrupted(trace: Any, **given: Any) -> Any:
        from dataclasses import replace

        return replace(of(trace, **given), message="interrupted")

    monkeypatch.setattr(module, "hindsight", interrupted)
    kept = tmp_path / "kept"
    outcome = brsolver("oracle", "hindsight", trace_file, *SMALL, "--resume", kept)
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "")
    assert computed(kept) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--admission", "fcsf"), "did you mean 'fcfs'"),
        (("--seeds", 0), "seeds is 0"),
        (("--workers", 0), "workers is 0"),
        (("--workers", "two"), "workers"),
        (("--slots", 0), "slots is 0"),
        (("--budget", "soon"), "budget is 'soon'"),
        (("--executor", "rya"), "did you mean 'ray'"),
        (("--jobs", 0), "jobs is 0"),
        (("--resume", ""), "resume is an empty name"),
    ],
)
def test_bad_options_are_one_line(
    refused: Callable[..., str], trace_file: Path, options: tuple[object, ...], message: str
) -> None:
    assert message in refused("oracle", "hindsight", trace_file, *options)
