"""``brsolver explain``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRACE = "preset:uniform:n=60,s_high=200,o_high=20"
RUN = ("explain", TRACE, "--policy", "br-0", "--workers", 2, "--slots", 4)


def test_words_numbers_and_a_page(brsolver: Callable[..., Any], tmp_path: Path) -> None:
    outcome = brsolver(*RUN, "--hardware", "bfio", "--out", tmp_path / "out")
    assert outcome.code == 0
    assert "no policy could avoid" in outcome.out
    assert "better routing saves at most" in outcome.out
    assert (tmp_path / "out" / "explain.html").exists()
    assert "wrote" in outcome.err


def test_json_has_what_programmes_read(brsolver: Callable[..., Any]) -> None:
    prefill = ("--prefill", "colocated:budget=512", "--stale-steps", 3)
    outcome = brsolver(*RUN, "--hardware", "minimax-m2.7-h200-dp4", *prefill, "--json")
    facts = json.loads(outcome.out)
    assert facts["hardware"] == "minimax-m2.7-h200-dp4"
    assert 0 < facts["unavoidable_s"] <= facts["seconds"]
    there = {each["name"] for each in facts["causes"] if each["seconds"] is not None}
    assert there == {"prefill", "kv", "sequences", "staleness"}
    assert facts["words"]
    (moved,) = facts["counterfactuals"]
    assert moved["name"] == "migration"
    assert moved["seconds"] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policy", "br-9"), "br-9"),
        (("--hardware", "h2000"), "h2000"),
    ],
)
def test_bad_input_is_one_line(
    refused: Callable[..., str], options: tuple[str, ...], message: str
) -> None:
    assert message in refused(*RUN, *options)
