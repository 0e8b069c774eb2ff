"""The runs of a grid, one by one or in processes of their own."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError, ParameterError
from brsolver.results.comparison import Failure, Run

if TYPE_CHECKING:
    from brsolver.registry import PolicySpec
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams

Progress = Callable[[int, int], None]

_MAX_JOBS = 1024

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of a grid.

    Attributes
    ----------
    held : HeldOut
        The trace, and what forecasts are from.
    policy : PolicySpec
    params : SimulationParams
    keep_curves, keep_times : bool
        Whether pictures, and the times of every request, are wanted.
    start : int
        Requests of the trace to leave out at its start.
    first_row : int
        Row of the held trace's first request in the trace that was given.
    """

    held: HeldOut
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
    tasks: Sequence[Task], jobs: int | None, progress: Progress
) -> tuple[Run | Failed, ...]:
    """Carry out all tasks, in their order, on up to `jobs` processes; None is one per processor.

    Raises
    ------
    ParameterError
        `jobs` is out of range.
    BrsolverError
        A process ended abruptly.
    """
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if not 1 <= jobs <= _MAX_JOBS:
        raise ParameterError(f"jobs is {jobs}, must be at least 1 and at most {_MAX_JOBS:,}")
    jobs = min(len(tasks), jobs)
    progress(0, len(tasks))
    if jobs > 1:
        return _run_in_processes(tasks, jobs, progress)
    return tuple(_counted(map(_attempt, tasks), len(tasks), progress))


def _counted(
    runs: Iterable[Run | Failed], total: int, progress: Progress
) -> Iterator[Run | Failed]:
    for done, run in enumerate(runs, start=1):
        progress(done, total)
        yield run


def _run_in_processes(
    tasks: Sequence[Task], jobs: int, progress: Progress
) -> tuple[Run | Failed, ...]:
    with _pool(jobs) as pool:
        futures = [pool.submit(_attempt, task) for task in tasks]
        for done, future in enumerate(as_completed(futures), start=1):
            _result(future)
            progress(done, len(tasks))
        return tuple(_result(future) for future in futures)


def _result(future: Future[Run | Failed]) -> Run | Failed:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise BrsolverError(
            "a worker process ended abruptly: either for lack of memory (try fewer jobs), or "
            'because the calling script has no if __name__ == "__main__": guard around its top '
            "level (add one, or use jobs=1)"
        ) from error


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        # Without this, an interrupted or failed grid would go on computing for minutes.
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # The terminal sends Ctrl-C to the whole group; the parent alone is to speak about it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Runs before numpy is imported: this module and its imports leave it to the functions.
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))


def _attempt(task: Task) -> Run | Failed:
    """Run a task; one that fails does not keep the others from being shown."""
    try:
        return _execute(task)
    except BrsolverError as error:
        failure = Failure(
            policy=task.policy.text,
            workers=task.params.workers,
            seed=task.params.seed,
            reason=" ".join(str(error).split()).removeprefix(f"{task}: "),
        )
        return Failed(failure=failure, error=error)


def _execute(task: Task) -> Run:
    from brsolver.simulator import simulate

    held = task.held
    trace = held.trace.after(task.start)
    try:
        result = simulate(
            trace,
            task.policy,
            task.params,
            # Predictors learn: every run starts from the same state.
            predictor=copy.deepcopy(held.predictor),
            predictor_name=held.predictor_name,
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
    return run if held.note is None else replace(run, notes=(held.note, *run.notes))


def silent(done: int, total: int) -> None:
    """Report no progress."""
    del done, total
