"""Runs that come back from bytes as they were."""

from __future__ import annotations

import zlib
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from brsolver.errors import ModelError
from brsolver.results.comparison import Run
from brsolver.results.kept import run_from_bytes, run_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.results.result import SimulationResult
    from brsolver.traces.trace import Trace


@pytest.fixture
def run(result_maker: Callable[..., SimulationResult], trace_maker: Callable[..., Trace]) -> Run:
    made = Run.of(result_maker(notes=("a note",)), trace_maker(), policy="fcfs", keep_times=True)
    params = {"text": "x", "none": None, "nested": (1, 2.5, ("a",)), "on": True, "table": {"a": 1}}
    return replace(made, policy_params=params, start=3)


def same(one: Any, other: Any) -> bool:
    """Tell whether two trees of dataclasses, containers and arrays are equal to the bit."""
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def test_a_run_comes_back_to_the_bit(run: Run) -> None:
    back = run_from_bytes(run_to_bytes(run))
    assert same(back, run)
    assert run.curves is not None
    assert run.times is not None
    assert run_to_bytes(back) == run_to_bytes(run)


def test_a_run_without_pictures_comes_back(run: Run) -> None:
    bare = replace(run, curves=None, times=None, ranks=None)
    assert same(run_from_bytes(run_to_bytes(bare)), bare)


def test_what_no_text_can_hold_becomes_its_text(run: Run) -> None:
    odd = replace(run, policy_params={"odd": {1, 2}})
    assert run_from_bytes(run_to_bytes(odd)).policy_params == {"odd": "{1, 2}"}


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"nonsense",
        zlib.compress(b""),
        zlib.compress((2).to_bytes(8, "little") + b"{}"),
        zlib.compress((9).to_bytes(8, "little") + b'{"told":1'),
        zlib.compress((33).to_bytes(8, "little") + b'{"arrays":[],"told":["Popen",{}]}'),
        zlib.compress((22).to_bytes(8, "little") + b'{"arrays":[],"told":1}'),
        zlib.compress(
            (48).to_bytes(8, "little") + b'{"arrays":[["<f8",[4]]],"told":["array",0]}     '
        ),
    ],
)
def test_damaged_bytes_are_one_line(damaged: bytes) -> None:
    with pytest.raises(ModelError, match="a run that was kept"):
        run_from_bytes(damaged)


def test_half_of_a_run_is_no_run(run: Run) -> None:
    whole = run_to_bytes(run)
    with pytest.raises(ModelError):
        run_from_bytes(whole[: len(whole) // 2])
