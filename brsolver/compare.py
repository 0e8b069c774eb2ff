"""Run a grid of policies × workers × seeds in parallel processes and collect what came out."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, ParameterError, UnknownNameError
from brsolver.results.comparison import Comparison, Estimate, Run
from brsolver.traces.read_options import ReadOptions

if TYPE_CHECKING:
    from brsolver.registry import PolicySpec, PredictorSpec
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

__all__ = ["Comparison", "Estimate", "Run", "TraceSource", "compare"]

Progress = Callable[[int, int], None]

_MAX_SEEDS = 100_000
_MAX_JOBS = 1024

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSource:
    """Where a trace comes from; what is drawn is drawn anew for every seed.

    Attributes
    ----------
    source : str
        Path or ``preset:NAME``.
    reader : str or None
        Name of the file format; None finds it out.
    options : ReadOptions
        How it is read, and what is taken of it; its seed is not used.
    tell : callable or None
        Called with each line that the user should know of the reading (`Trace.notes`).
    """

    source: str
    reader: str | None = None
    options: ReadOptions = field(default_factory=ReadOptions)
    tell: Callable[[str], None] | None = None

    def load(self, seed: int) -> Trace:
        """Load the trace for `seed`."""
        from brsolver.traces.load import read_trace

        trace = read_trace(self.source, self.reader, replace(self.options, seed=seed))
        if self.tell is not None:
            for note in trace.notes:
                self.tell(note)
        return trace

    def load_all(self, seeds: Sequence[int]) -> dict[int, Trace]:
        """Load the trace of every seed: a file once, a preset or ServeGen client anew for each."""
        from brsolver.traces.load import is_random

        if is_random(self.source, self.reader, self.options):
            return {seed: self.load(seed) for seed in seeds}
        return dict.fromkeys(seeds, self.load(seeds[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    held: HeldOut
    policy: PolicySpec
    params: SimulationParams
    keep_curves: bool

    def __str__(self) -> str:
        return f"{self.policy.text} on {self.params.workers} workers, seed {self.params.seed}"


def compare(
    trace: str | Path | TraceSource | Trace,
    policies: str | Sequence[str | PolicySpec],
    *,
    workers: Sequence[int] = (8,),
    seeds: int | Sequence[int] = 1,
    params: SimulationParams | None = None,
    predictor: str | PredictorSpec | None = None,
    baseline: str | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Simulate every policy on every number of workers with every seed.

    With more than one job the runs are spread over fresh processes, each of which imports the
    calling script first. A script must therefore keep its top level behind the guard
    ``if __name__ == "__main__":``, or each process would start the comparison again and the
    first one fails::

        if __name__ == "__main__":
            compare("trace.csv", "jsq,br-0", seeds=5)

    Parameters
    ----------
    trace : str, Path, TraceSource or Trace
        Presets and ServeGen clients draw a trace for every seed; otherwise the seed drives the
        random streams and Poisson arrivals only.
    policies : str or sequence of str or PolicySpec
        Policy specifications; a string is taken apart by `brsolver.specs.split_policies`.
    workers : sequence of int
        Values of G.
    seeds : int or sequence of int
        How many, counted from ``params.seed``, or the seeds themselves.
    params : SimulationParams, optional
        Everything else about the runs.
    predictor : str or PredictorSpec, optional
        Predictor specification for all policies that use one. One that is trained before the
        run is trained once per trace; what trained it is left out of the runs of all policies.
    baseline : str, optional
        Policy that ratios refer to, by specification or name; default the first.
    jobs : int, optional
        Processes, each limited to one thread; default the number of processors. 1 runs
        everything in this process.
    progress : callable, optional
        Called with (finished runs, all runs).

    Raises
    ------
    BrsolverError
        Any input is bad, or a run failed.
    """
    from brsolver._version import __version__
    from brsolver.simulator.params import SimulationParams
    from brsolver.wiring import read_policies

    started = time.perf_counter()
    params = params or SimulationParams()
    specs = read_policies(policies)
    chosen = _find_baseline(baseline, specs)
    seeds_used = _check_seeds(seeds, params.seed)
    workers = _check_workers(workers)
    held = _hold_out(_load(trace, seeds_used), predictor, specs)
    tasks = list(_grid(held, specs, workers, params))
    runs = _run_all(tasks, jobs, progress or _silent)
    return Comparison(
        runs=runs,
        policies=tuple(spec.text for spec in specs),
        workers=tuple(workers),
        seeds=seeds_used,
        baseline=chosen.text,
        params=params,
        trace_name=runs[0].trace_name,
        predictor=None if predictor is None else held[seeds_used[0]].predictor_name,
        version=__version__,
        wall_s=time.perf_counter() - started,
    )


def _find_baseline(baseline: str | None, specs: Sequence[PolicySpec]) -> PolicySpec:
    if baseline is None:
        return specs[0]
    named = [s for s in specs if s.text == baseline] or [s for s in specs if s.name == baseline]
    if not named:
        raise UnknownNameError.suggest("baseline", baseline, [s.text for s in specs])
    if len(named) > 1:
        could = "; ".join(spec.text for spec in named)
        raise ParameterError(f"baseline is {baseline!r}, must be one of: {could}")
    return named[0]


def _check_seeds(seeds: int | Sequence[int], first: int) -> tuple[int, ...]:
    if isinstance(seeds, int):
        if not 1 <= seeds <= _MAX_SEEDS:
            raise ParameterError(f"seeds is {seeds}, must be at least 1 and at most {_MAX_SEEDS:,}")
        return tuple(range(first, first + seeds))
    return _distinct("seeds", seeds)


def _check_workers(workers: Sequence[int]) -> tuple[int, ...]:
    for count in workers:
        if count < 1:
            raise ParameterError(f"workers is {count}, must be at least 1")
    return _distinct("workers", workers)


def _distinct(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if not values:
        raise ParameterError(f"{name} is empty, must name at least one value")
    if len(set(values)) < len(values):
        listed = ", ".join(map(str, values))
        raise ParameterError(f"{name} is {listed}, must name each value once")
    return tuple(values)


def _load(trace: str | Path | TraceSource | Trace, seeds: Sequence[int]) -> dict[int, Trace]:
    if isinstance(trace, str | Path):
        trace = TraceSource(source=str(trace))
    if isinstance(trace, TraceSource):
        return trace.load_all(seeds)
    return dict.fromkeys(seeds, trace)


def _grid(
    held: dict[int, HeldOut],
    specs: Sequence[PolicySpec],
    workers: Sequence[int],
    params: SimulationParams,
) -> Iterator[_Task]:
    for count in workers:
        for policy in specs:
            for index, seed in enumerate(held):
                yield _Task(
                    held=held[seed],
                    policy=policy,
                    params=replace(params, workers=count, seed=seed),
                    keep_curves=index == 0,
                )


def _hold_out(
    traces: dict[int, Trace],
    predictor: str | PredictorSpec | None,
    specs: Sequence[PolicySpec],
) -> dict[int, HeldOut]:
    from brsolver.simulator.held_out import hold_out
    from brsolver.wiring import read_predictor

    chosen = read_predictor(predictor)
    horizons = [spec.horizon for spec in specs]
    made: dict[int, HeldOut] = {}
    for seed, trace in traces.items():
        # A file is one trace for all seeds: training it over and over would change nothing.
        same = next(
            (done for done, other in traces.items() if other is trace and done in made), None
        )
        if same is None:
            made[seed] = hold_out(trace, chosen, seed, horizons=horizons)
        else:
            made[seed] = made[same]
    return made


def _run_all(tasks: Sequence[_Task], jobs: int | None, progress: Progress) -> tuple[Run, ...]:
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if not 1 <= jobs <= _MAX_JOBS:
        raise ParameterError(f"jobs is {jobs}, must be at least 1 and at most {_MAX_JOBS:,}")
    jobs = min(len(tasks), jobs)
    progress(0, len(tasks))
    if jobs > 1:
        return _run_in_processes(tasks, jobs, progress)
    return tuple(_counted(map(_execute, tasks), len(tasks), progress))


def _counted(runs: Iterable[Run], total: int, progress: Progress) -> Iterator[Run]:
    for done, run in enumerate(runs, start=1):
        progress(done, total)
        yield run


def _run_in_processes(tasks: Sequence[_Task], jobs: int, progress: Progress) -> tuple[Run, ...]:
    with _pool(jobs) as pool:
        futures = [pool.submit(_execute, task) for task in tasks]
        for done, future in enumerate(as_completed(futures), start=1):
            _result(future)
            progress(done, len(tasks))
        return tuple(_result(future) for future in futures)


def _result(future: Future[Run]) -> Run:
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


def _execute(task: _Task) -> Run:
    from brsolver.simulator import simulate

    held = task.held
    try:
        result = simulate(
            held.trace,
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
    run = Run.of(result, held.trace, policy=task.policy.text, keep_curves=task.keep_curves)
    return run if held.note is None else replace(run, notes=(held.note, *run.notes))


def _silent(done: int, total: int) -> None:
    del done, total


class _CallableModule(ModuleType):
    """The module, which may be called as its function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Comparison:
        """Compare; see `compare`."""
        return compare(*args, **kwargs)


# Python binds a submodule to its package's attribute of the same name once it is imported, so that
# ``from brsolver import compare`` gives this module and not the function.
sys.modules[__name__].__class__ = _CallableModule
