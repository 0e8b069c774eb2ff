from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from brsolver.results.notes import folded, merged

if TYPE_CHECKING:
    from brsolver.results.comparison import Comparison


@pytest.mark.parametrize(
    ("notes", "line"),
    [
        (["3 of 5 left"], "3 of 5 left"),
        (["3 of 5 left", "4 of 5 left"], "3 to 4 of 5 left"),
        (["held for 810.1 s, 12 times", "held for 78 s, 12 times"],
         "held for 78 to 810.1 s, 12 times"),
        (["2,801 of x-h200", "998 of x-h200"], "998 to 2,801 of x-h200"),
        (["7.", "9."], "7 to 9."),
    ],
)  # fmt: skip
def test_notes_that_differ_in_numbers_are_one_range(notes: list[str], line: str) -> None:
    assert merged(notes) == line


def test_names_with_digits_are_no_numbers() -> None:
    holders = {"gpu-h200 slow": [1], "gpu-h100 slow": [2], "br-t:kappa=2 waits": [3]}
    assert len(folded(holders, {1: "a", 2: "a", 3: "a"})) == 3


def test_notes_of_other_places_stay_apart() -> None:
    holders = {"held 3 times": ["x"], "held 4 times": ["y"], "held 5 times": ["z"]}
    places = {"x": "here", "y": "here", "z": "there"}
    assert folded(holders, places) == [
        ("held 3 to 4 times", ["x", "y"]),
        ("held 5 times", ["z"]),
    ]


def test_a_comparison_tells_a_policys_note_once(comparison: Comparison) -> None:
    noted = replace(
        comparison,
        runs=tuple(
            replace(run, notes=(f"{run.policy} held {10 * run.workers + run.seed} times",))
            if run.policy == "jsq-load"
            else run
            for run in comparison.runs
        ),
    )
    lines = [line for line in noted.notes() if "held" in line]
    assert lines == [
        "at G = 2: jsq-load held 20 to 22 times",
        "at G = 4: jsq-load held 40 to 42 times",
    ]
