"""One process at a time goes on with a study, and nobody waits for one that has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import optuna
import pytest

from brsolver.errors import BrsolverError
from brsolver.executors.inline import InlineExecutor, InlineLane
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill
from brsolver.tuning import TuneParams, TuneResult, tune
from brsolver.tuning import lease as lease_module
from brsolver.tuning._swap import swapped, text_of
from brsolver.tuning.lease import KEPT, Holder, Lease, leased
from brsolver.tuning.study import holds_nothing, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from brsolver.traces import Trace

PARAMS = SimulationParams(workers=2, slots=4, prefill=Prefill(mode="colocated", budget=512))
ELSEWHERE = replace(Holder.me(), host="elsewhere", process=7, mark="theirs", seen_s=0.0)
"""A process of which nothing has been heard for long."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at a holder as often as ever, without time in between."""
    monkeypatch.setattr(lease_module, "LOOK_S", 0.0)


@pytest.fixture
def lives() -> Holder:
    """Return a process that has just given a sign of life."""
    return replace(ELSEWHERE, seen_s=Holder.me().seen_s)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def study(database: str) -> optuna.Study:
    with quiet():
        return optuna.create_study(storage=database, study_name="tune", direction="maximize")


def tuned(trace: Trace, storage: str, executor: Any = None) -> TuneResult:
    return tune(
        trace, PARAMS, TuneParams(budget_s=1e6, trials=5, storage=storage),
        policies="br-t,jsq-load", executor=executor or InlineExecutor(),
    )  # fmt: skip


def write(study: optuna.Study, holder: Holder) -> None:
    study.set_user_attr(KEPT, asdict(holder))


def process_that_ended() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_who_holds_it_is_named_and_left_alone(study: optuna.Study, lives: Holder) -> None:
    write(study, lives)
    line = (
        r"study 'tune' is gone on with by process 7 on elsewhere, heard of \d+ s ago, must be by "
        r"one process at a time: wait for that one, or give another --study"
    )
    with pytest.raises(BrsolverError, match=line) as caught, leased(study, shared=True):
        pass
    assert "\n" not in str(caught.value)
    assert study.user_attrs[KEPT]["mark"] == "theirs"


def ended() -> Holder:
    return replace(Holder.me(), process=process_that_ended())


@pytest.mark.parametrize(
    "left",
    [
        lambda: asdict(ELSEWHERE),
        lambda: asdict(replace(ELSEWHERE, seen_s=1e12)),
        lambda: asdict(ended()),
        lambda: {"nobody": "of ours"},
    ],
    ids=["unheard of", "of a clock that is ahead", "ended", "something else"],
)
def test_a_lease_that_nobody_has_any_more_is_taken_over(
    study: optuna.Study, left: Callable[[], dict[str, Any]]
) -> None:
    study.set_user_attr(KEPT, left())
    with leased(study, shared=True) as lease:
        lease.check()
        assert study.user_attrs[KEPT]["process"] == os.getpid()
    assert study.user_attrs[KEPT] is None


def test_of_a_machine_with_the_same_name_nothing_is_known(study: optuna.Study) -> None:
    there = replace(ended(), space=Holder.me().space.replace(Holder.me().space[:8], "another-"))
    write(study, there)
    with pytest.raises(BrsolverError, match=f"process {there.process} on"):
        Lease(study, Holder.me()).take()


def test_a_storage_that_others_use_is_not_empty(
    study: optuna.Study, database: str, lives: Holder
) -> None:
    assert holds_nothing(database, "tune")
    write(study, lives)
    assert not holds_nothing(database, "tune")
    study.set_user_attr(KEPT, None)
    assert holds_nothing(database, "tune")
    with quiet():
        optuna.create_study(storage=database, study_name="another")
    assert not holds_nothing(database, "tune")


def test_one_that_lives_here_is_not_taken_over(study: optuna.Study) -> None:
    with (
        leased(study, shared=True) as lease,
        pytest.raises(BrsolverError, match=f"process {os.getpid()} on"),
        leased(study, shared=True),
    ):
        pass
    lease.check()


class Between:
    """Somebody else writes once this process has looked, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *holders: Holder) -> None:
        self._left = list(holders)
        monkeypatch.setattr(lease_module, "text_of", self)

    def __call__(self, study: optuna.Study, name: str) -> str:
        found = text_of(study, name)
        if self._left:
            write(study, self._left.pop(0))
        return found


def test_of_two_that_look_together_the_first_to_write_is_there(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, lives: Holder
) -> None:
    Between(monkeypatch, lives)
    with pytest.raises(BrsolverError, match="process 7 on elsewhere"), leased(study, shared=True):
        pass
    assert study.user_attrs[KEPT] == asdict(lives)


def test_one_that_writes_although_its_clock_is_wrong_is_left_alone(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(study, ELSEWHERE)
    beat = replace(ELSEWHERE, seen_s=10.0)
    Between(monkeypatch, ELSEWHERE, beat)
    with pytest.raises(BrsolverError, match="process 7 on elsewhere, heard of 0 s ago"):
        Lease(study, Holder.me()).take()
    assert study.user_attrs[KEPT] == asdict(beat)


def test_a_sign_of_life_that_comes_too_late_overwrites_nothing(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, lives: Holder
) -> None:
    lease = Lease(study, Holder.me())
    lease.take()
    Between(monkeypatch, lives)
    lease._sign(2.0)
    assert study.user_attrs[KEPT] == asdict(lives)
    with pytest.raises(BrsolverError, match="has been taken over by process 7 on elsewhere"):
        lease.check()


@pytest.mark.parametrize("storage", ["in memory", "in a database"])
def test_what_was_written_meanwhile_is_not_written_over(storage: str, database: str) -> None:
    with quiet():
        where = None if storage == "in memory" else database
        study = optuna.create_study(storage=where, study_name="tune")
    assert text_of(study, "name") == "null"
    assert swapped(study, "name", "null", {"of": 1})
    assert not swapped(study, "name", "null", {"of": 2})
    assert not swapped(study, "name", '{"of": 3}', {"of": 2})
    assert swapped(study, "name", '{"of": 1}', None)
    assert swapped(study, "name", "null", {"of": 4})
    assert study.user_attrs["name"] == {"of": 4}
    assert text_of(study, "name") == '{"of": 4}'


def test_signs_of_life_are_given_and_do_not_overwrite_another(study: optuna.Study) -> None:
    lease = Lease(study, replace(Holder.me(), seen_s=1.0))
    lease.take()
    lease._sign(2.0)
    assert study.user_attrs[KEPT]["seen_s"] == 2.0
    write(study, ELSEWHERE)
    lease._sign(3.0)
    lease.release()
    assert study.user_attrs[KEPT] == asdict(ELSEWHERE)


class TakenOver(InlineExecutor):
    """Another process takes the study over before a call's result is there."""

    def __init__(self, storage: str, call: int) -> None:
        self._storage, self._call = storage, call

    @contextmanager
    def open(self, function: Any, shared: Mapping[str, object] | None = None) -> Iterator[Any]:
        yield _TakenOverLane(function, shared or {}, self._storage, self._call)


class _TakenOverLane(InlineLane):
    def __init__(
        self, function: Any, shared: Mapping[str, object], storage: str, call: int
    ) -> None:
        super().__init__(function, shared)
        self._storage, self._left = storage, call

    def next(self) -> tuple[int, Any]:
        if self._left == 0:
            with quiet():
                write(optuna.load_study(storage=self._storage, study_name="tune"), ELSEWHERE)
        self._left -= 1
        return super().next()


def test_a_search_whose_study_was_taken_over_ends_and_leaves_it(
    trace_maker: Callable[..., Trace], database: str
) -> None:
    trace = trace_maker(requests=600)
    with pytest.raises(BrsolverError, match="has been taken over by process 7 on elsewhere"):
        tuned(trace, database, TakenOver(database, 4))
    with quiet():
        study = optuna.load_study(storage=database, study_name="tune")
    assert study.user_attrs[KEPT] == asdict(ELSEWHERE)
    kept = [each for each in study.trials if each.state.name == "COMPLETE"]
    assert kept
    # As if that one had ended long ago.
    write(study, ELSEWHERE)
    whole = tuned(trace, database)
    assert len(whole.tried) == 5
    assert {each.number for each in kept} <= {each.number for each in whole.tried}


def test_what_ends_otherwise_leaves_the_study_to_others(
    trace_maker: Callable[..., Trace], database: str
) -> None:
    with pytest.raises(BrsolverError, match="the published default cannot run"):
        tune(
            trace_maker(requests=600), replace(PARAMS, capacity=300),
            TuneParams(storage=database), executor=InlineExecutor(),
        )  # fmt: skip
    with quiet():
        assert optuna.load_study(storage=database, study_name="tune").user_attrs[KEPT] is None
