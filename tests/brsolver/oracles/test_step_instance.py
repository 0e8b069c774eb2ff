"""Making, saving and refusing routing decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from step_cases import instances, random_instance

from brsolver.cluster.state import ClusterState
from brsolver.cluster.view import NO_LIMIT, Waiting
from brsolver.errors import CapacityError, ParameterError
from brsolver.oracles.result import SolverError, Status
from brsolver.oracles.step import StepInstance, local_search, solve_step

if TYPE_CHECKING:
    from pathlib import Path


def make(**changes: Any) -> StepInstance:
    fields: dict[str, Any] = {
        "projected": np.array([[10, 5], [7, 7]]),
        "room": np.array([1, 2]),
        "token_room": np.array([NO_LIMIT, NO_LIMIT]),
        "prompts": np.array([3, 3, 9]),
        "weights": np.array([2, 1]),
        "beta": 2,
        "admit": 3,
    }
    return StepInstance(**(fields | changes))


@settings(max_examples=50, deadline=None)
@given(instance=instances())
def test_json_keeps_everything(instance: StepInstance) -> None:
    again = StepInstance.from_json(instance.to_json())
    assert again.to_json() == instance.to_json()


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    instance = random_instance(0, 4, 9, 3, 5)
    instance.save(path)
    assert StepInstance.load(path).to_json() == instance.to_json()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot read"),
        ("[]", "not a step instance"),
        ('{"format": "brsolver-step/1"}', "lacks the field"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match=says):
        StepInstance.load(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"room": np.array([-1, 2])}, "room holds -1"),
        ({"room": np.array([1])}, "room has shape"),
        ({"admit": 4}, "admit is 4, must be between 0 and 3"),
        ({"prompts": np.array([0, 1, 2])}, "prompts holds 0"),
        ({"weights": np.array([0, 0])}, "weights are all 0"),
        ({"beta": -1}, "beta is -1"),
        ({"weights": np.array([1 << 50, 1])}, "exceed 64 bits"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        make(**changes)


def test_from_view_counts_live_workers_and_refuses_what_fits_none() -> None:
    state = ClusterState([2, 2, 2], capacity=[100, 100, 100], horizon=4)
    state.admit(0, 1, 30, remaining=2)
    state.remove_worker(2)
    waiting = Waiting(np.array([40, 50, 20]), np.arange(3))
    instance = StepInstance.from_view(state.view(), waiting, horizon=4, gamma=0.5, resolution=4)
    assert instance.weights.tolist() == [4, 2, 1]
    assert instance.beta == 2
    assert instance.room.tolist() == [2, 1, 0]
    assert instance.projected[1].tolist() == [30, 30, 0]
    assert instance.admit == 3
    with pytest.raises(CapacityError, match="fits no worker"):
        StepInstance.from_view(state.view(), Waiting(np.array([101]), np.arange(1)))


def test_a_request_that_fits_nowhere_now_is_infeasible_not_optimal() -> None:
    found = solve_step(make(token_room=np.array([8, 8])))
    assert found.status is Status.INFEASIBLE
    assert found.objective is None
    assert "fit a worker" in found.message


def test_tokens_that_do_not_add_up_are_infeasible() -> None:
    instance = make(token_room=np.array([9, 5]))
    for backend in ("highs", "cp-sat"):
        assert solve_step(instance, backend=backend).status is Status.INFEASIBLE
    assert solve_step(instance, relax=True, backend="sifting").status is not Status.OPTIMAL
    assert local_search(instance).status is Status.LIMIT


def test_nothing_to_decide_is_optimal() -> None:
    instance = make(room=np.array([0, 0]), admit=0)
    for relax in (False, True):
        found = solve_step(instance, "imbalance", relax=relax)
        assert found.proven
        assert found.objective == found.dual_bound == 2 * 3 + 2


def test_sifting_refuses_integers() -> None:
    with pytest.raises(SolverError, match="relaxations only"):
        solve_step(make(), backend="sifting")


def test_ragged_arrays_are_refused() -> None:
    data = make().to_json()
    with pytest.raises(ParameterError, match="projected is ragged, must be 2-dimensional"):
        StepInstance.from_json(data | {"projected": [[1], [1, 2]]})


@pytest.mark.parametrize(
    "changes", [{"prompts": np.full(4, 2**62)}, {"weights": np.full(2, 2**63 - 1)}]
)
def test_sums_that_would_wrap_around_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="exceed 64 bits"):
        make(**changes)
