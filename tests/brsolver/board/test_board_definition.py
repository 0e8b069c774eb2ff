"""Definitions of boards: what comes with the package, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from brsolver.board.choice import narrowed, read_choice
from brsolver.board.definition import PACKAGED, load_definition
from brsolver.board.policies import policies_of, read_policy
from brsolver.errors import ParameterError, UnknownNameError
from brsolver.registry import policy_names
from brsolver.routers.cell_params import CellsParams

if TYPE_CHECKING:
    from pathlib import Path

SMALL = """
name = "small"
workers = 2
slots = 4
limit = 40
baseline = "jsq@immediate"
policies = ["jsq@immediate", "br-0@pooled"]
hardware = ["bfio"]

[traces.drawn]
stand_in = "preset:uniform:n=40,s_high=300,o_high=30"

[prefill.elsewhere]
mode = "none"

[regimes.full]

[regimes."0.5"]
load = 0.5
"""
BY_SOLVER = {"milp-step", "lp-round", "local-search"}
OF_MORE_WORKERS = {"cells"}
"""With the board's workers it is one cell, and so the router within."""


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str = SMALL) -> Path:
        path = tmp_path / "small.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", PACKAGED)
def test_what_comes_with_the_package_is_whole(name):
    found = load_definition(name)
    assert found.name == name
    texts = [policy.text for policy in policies_of(found)]
    assert texts[0] == found.baseline
    assert set(texts) == {*found.policies, *found.cache_policies}


def test_the_published_board_has_every_policy_but_solvers_and_cells():
    found = load_definition()
    named = {policy.spec.name for policy in policies_of(found)}
    assert named == set(policy_names()) - BY_SOLVER - OF_MORE_WORKERS
    assert found.workers <= CellsParams().size


def test_every_public_trace_can_be_fetched_and_checked():
    for trace in load_definition().traces.values():
        assert trace.fetch.startswith("https://")
        assert trace.fetch.endswith(trace.file)
        assert len(trace.sha256) == 64
        assert trace.licence


def test_more_policies_and_seeds_are_the_same_board_and_another_size_is_not(written):
    found = load_definition(written())
    assert found.seeded(3).seeds == (0, 1, 2)
    assert found.seeded(3).fingerprint == found.fingerprint
    with pytest.raises(ParameterError, match="seeds is 0, must be at least 1"):
        found.seeded(0)
    assert replace(found, policies=("jsq@immediate",)).fingerprint == found.fingerprint
    assert replace(found, slots=5).fingerprint != found.fingerprint
    faster = {"bfio": replace(found.hardware["bfio"], base=0.004)}
    assert replace(found, hardware=faster).fingerprint != found.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "small"', "", "name is missing, must be given"),
        ("slots = 4", "slotz = 4", "key of a board definition 'slotz': did you mean 'slots'"),
        ("slots = 4", "slots = true", "slots is True, must be a whole number"),
        ("slots = 4", "slots = 0", "slots is 0, must be at least 1"),
        ("limit = 40", "seeds = [1, 1]", "seeds has one twice"),
        ("load = 0.5", "load = 0", "load is 0, must be at least 0.001"),
        ("load = 0.5", "load = 0.5\npool = 3", "pool and load are given"),
        ("load = 0.5", "loud = 0.5", "parameter of regime 0.5 'loud'"),
        ('mode = "none"', 'mode = "tier"', "prefill elsewhere: mode is 'tier', must be none or"),
        ('mode = "none"', 'mood = "none"', "parameter of prefill elsewhere 'mood'"),
        ('"preset:uniform:n=40,s_high=300,o_high=30"', '"x.csv"', "stand_in is 'x.csv', must be"),
        ("[traces.drawn]", "[traces.drawn]\nsha256 = 'ab'", "must be 64 hexadecimal digits"),
        ('hardware = ["bfio"]', 'hardware = ["bfoi"]', "did you mean 'bfio'"),
        ('hardware = ["bfio"]', 'hardware = "bfio"', "must be a list of names or files"),
        ("[regimes.full]", "[regimes.full", "cannot be read as TOML"),
    ],
)
def test_bad_definitions_are_refused_by_their_file(written, old, new, says):
    assert old in SMALL
    path = written(SMALL.replace(old, new))
    with pytest.raises(ParameterError) as caught:
        load_definition(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_board_is_named(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'default'"):
        load_definition("defualt")
    with pytest.raises(ParameterError, match="No such file"):
        load_definition(tmp_path / "none.toml")


def test_a_policy_runs_in_the_routing_that_it_is_made_for(written):
    found = load_definition(written())
    assert read_policy(found, "jsq").routing == "immediate"
    assert read_policy(found, "jsq@pooled").routing == "pooled"
    assert read_policy(found, "lpt").routing == "pooled"
    assert read_policy(found, "br-h:horizon=4,gamma=0.9@immediate").spec.params.horizon == 4


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["br-0"], "policies has 'br-0@pooled' twice"),
        (["br-9"], "unknown policy 'br-9'"),
        (["br-0:slots=3"], "parameter of br-0"),
        (["br-0@once"], "routing of 'br-0@once' is 'once', must be pooled or immediate"),
    ],
)
def test_policies_that_cannot_be_are_refused(written, more, says):
    with pytest.raises(ParameterError, match=says):
        policies_of(load_definition(written()), more=more)


def test_the_baseline_is_always_there(written):
    found = policies_of(load_definition(written()), only=["lpt,br-h:horizon=4,gamma=0.9@pooled"])
    assert [policy.text for policy in found] == [
        "jsq@immediate", "lpt@pooled", "br-h:horizon=4,gamma=0.9@pooled",
    ]  # fmt: skip


def test_a_part_of_a_board(written):
    whole = load_definition(written())
    part = narrowed(whole, read_choice(["regime=0.5", "hardware = bfio"]))
    assert list(part.regimes) == ["0.5"]
    assert list(part.traces) == ["drawn"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("regime", "only is 'regime', must be WHAT=NAME,..."),
        ("regime=", "only is 'regime=', must be WHAT=NAME,..."),
        ("regimen=full", "unknown part of a board 'regimen': did you mean 'regime'"),
        ("regime=fool", "unknown regime of board small 'fool': did you mean 'full'"),
    ],
)
def test_parts_that_are_not_there_are_refused(written, text, says):
    with pytest.raises(ParameterError, match=says):
        narrowed(load_definition(written()), read_choice([text]))
