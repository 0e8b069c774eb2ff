"""What holds of every executor, whichever it is."""

from __future__ import annotations

import os
import pickle
from itertools import pairwise
from typing import TYPE_CHECKING

import executor_tasks as tasks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import ParameterError, StateError, UnknownNameError
from brsolver.executors import ExecutorParams, Lost, carry_out, executor_of
from brsolver.executors._shared import SharedValues

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.executors import Executor


# Ray leaves sockets of its connections to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(params=["inline", "local", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    params = ExecutorParams(jobs=1 if request.param == "inline" else 2)
    if request.param == "ray":
        address = request.getfixturevalue("cluster").address
        params = ExecutorParams(executor="ray", ray_address=address)
    found = executor_of(params)
    assert found.name == request.param
    return found


def in_order(found: dict[int, object]) -> list[object]:
    return [found[at] for at in range(len(found))]


def test_everything_comes_back_whatever_becomes_of_single_tasks(executor: Executor) -> None:
    names = ["fine", "raises", "leaves", "two arguments", "fine too"]
    found = in_order(dict(carry_out(executor, tasks.unruly, names, {})))
    assert found[0] == "fine"
    assert found[1] == Lost(reason="ZeroDivisionError: division")
    assert found[2] == Lost(reason="SystemExit: 3")
    assert found[3] == Lost(reason="TwoArgumentsError: one and two")
    assert found[4] == "fine too"


def test_what_is_shared_is_writable_one_object_and_whole(executor: Executor) -> None:
    array = np.arange(100_000)
    found = dict(carry_out(executor, tasks.facts, ["a", "b"], {"array": array}))
    threads = {told: one for *_, limits in found.values() for told, one in limits.items()}
    for writable, same, total, _ in found.values():
        assert (writable, same, total) == (True, True, int(array.sum()))
    if executor.name != "inline":
        assert set(threads.values()) == {"1"}


def test_tasks_may_be_handed_in_while_others_run(executor: Executor) -> None:
    with executor.open(tasks.shifted, {"offset": 10}) as lane:
        assert lane.slots >= 1
        assert [lane.submit(each) for each in (1, 2)] == [0, 1]
        first, _ = lane.next()
        assert lane.submit(3) == 2
        found = dict([lane.next(), lane.next()])
        assert set(found) == {0, 1, 2} - {first}
        with pytest.raises(StateError, match="no task is under way"):
            lane.next()


def test_only_as_many_processes_as_there_are_tasks() -> None:
    assert executor_of(ExecutorParams(), most=1).name == "inline"
    assert executor_of(ExecutorParams(jobs=8), most=3).jobs == 3  # type: ignore[attr-defined] # local


def test_our_own_environment_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    dict(carry_out(executor_of(ExecutorParams(jobs=2)), tasks.shifted, [1, 2], {"offset": 1}))
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ExecutorParams(executor="rya"), UnknownNameError, "did you mean 'ray'"),
        (lambda: ExecutorParams(jobs=0), ParameterError, "jobs is 0"),
        (lambda: ExecutorParams(ray_address="here:1"), ParameterError, "must be 'ray'"),
    ],
)
def test_bad_parameters_are_refused(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


@given(asked=st.lists(st.sampled_from("abcd"), max_size=30), most=st.integers(0, 4000))
def test_shared_values_are_right_whatever_is_given_up(asked: list[str], most: int) -> None:
    values = {name: name * 1000 for name in "abcd"}
    fetched: list[str] = []

    def fetch(name: str) -> bytes:
        fetched.append(name)
        return pickle.dumps(values[name])

    shared = SharedValues(values, fetch, most=most)
    assert [shared[name] for name in asked] == [values[name] for name in asked]
    repeats = sum(one == other for one, other in pairwise(asked))
    assert len(fetched) <= len(asked) - repeats
    assert set(fetched) == set(asked)
    assert (list(shared), len(shared), "x" in shared) == (list("abcd"), 4, False)
