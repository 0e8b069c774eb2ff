"""The runs of a grid, carried out by an executor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError
from brsolver.executors import Lost, carry_out
from brsolver.results.comparison import Failure, Run

if TYPE_CHECKING:
    from brsolver.executors import Executor
    from brsolver.registry import PolicySpec
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of a grid.

    Attributes
    ----------
    held : str
        Name of the trace, and what forecasts are from, among what tasks share.
    policy : PolicySpec
    params : SimulationParams
    keep_curves, keep_times : bool
        Whether pictures, and the times of every request, are wanted.
    start : int
        Requests of the trace to leave out at its start.
    first_row : int
        Row of the held trace's first request in the trace that was given.
    """

    held: str
    policy: PolicySpec
    params: SimulationParams
    keep_curves: bool
    keep_times: bool = False
    start: int = 0
    first_row: int = 0

    def __str__(self) -> str:
        return f"{self.policy.text} on {self.params.workers} workers, seed {self.params.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A run that failed: what reports say, and what to raise where nothing is left to report."""

    failure: Failure
    error: BrsolverError


def run_all(
    tasks: Sequence[Task], held: Mapping[str, HeldOut], executor: Executor, progress: Progress
) -> tuple[Run | Failed, ...]:
    """Carry out all tasks; returns what came of each, in their order.

    Parameters
    ----------
    tasks : sequence of Task
    held : mapping of str to HeldOut
        What tasks share, by the names that they have for it.
    executor : Executor
    progress : callable
        Called with (finished runs, all runs).

    Raises
    ------
    BrsolverError
        Nothing can be carried out any more.
    """
    progress(0, len(tasks))
    outcomes: dict[int, Run | Failed] = {}
    for at, outcome in carry_out(executor, attempt, tasks, held):
        outcomes[at] = lost(tasks[at], outcome.reason) if isinstance(outcome, Lost) else outcome
        progress(len(outcomes), len(tasks))
    return tuple(outcomes[at] for at in range(len(tasks)))


def attempt(task: Task, held: Mapping[str, Any]) -> Run | Failed:
    """Run a task; one that fails does not keep the others from being shown."""
    try:
        return execute(task, held)
    except BrsolverError as error:
        return Failed(failure=failure_of(task, str(error)), error=error)


def lost(task: Task, reason: str) -> Failed:
    """Say of a task that nothing came back but a reason."""
    return Failed(failure=failure_of(task, reason), error=BrsolverError(f"{task}: {reason}"))


def failure_of(task: Task, reason: str) -> Failure:
    """Return what reports say of a task that failed."""
    return Failure(
        policy=task.policy.text,
        workers=task.params.workers,
        seed=task.params.seed,
        reason=" ".join(reason.split()).removeprefix(f"{task}: "),
    )


def execute(task: Task, held: Mapping[str, Any]) -> Run:
    """Carry out one run.

    Raises
    ------
    BrsolverError
        It failed, for whatever reason.
    """
    from brsolver.simulator import simulate

    source: HeldOut = held[task.held]
    trace = source.trace.after(task.start)
    try:
        result = simulate(
            trace,
            task.policy,
            task.params,
            # Predictors learn: every run starts from the same state.
            predictor=copy.deepcopy(source.predictor),
            predictor_name=source.predictor_name,
        )
    except BrsolverError:
        raise
    except Exception as error:
        cause = str(error).partition("\n")[0]
        raise BrsolverError(f"{task}: {type(error).__name__}: {cause}") from error
    run = Run.of(
        result,
        trace,
        policy=task.policy.text,
        keep_curves=task.keep_curves,
        keep_times=task.keep_times,
        start=task.start,
        first_row=task.first_row + task.start,
    )
    return run if source.note is None else replace(run, notes=(source.note, *run.notes))


def silent(done: int, total: int) -> None:
    """Report no progress."""
    del done, total
