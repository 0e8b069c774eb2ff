"""Run a grid of policies × workers × seeds in parallel processes and collect what came out."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import BrsolverError, ParameterError, UnknownNameError
from brsolver.report.model import Comparison, Estimate, Run

if TYPE_CHECKING:
    from brsolver.predictors import Predictor
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.model import Trace

__all__ = ["Comparison", "Estimate", "Run", "TraceSource", "compare", "split_policies"]

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
    limit : int or None
        Requests to take from the start.
    skip_bad_rows : bool
    """

    source: str
    reader: str | None = None
    limit: int | None = None
    skip_bad_rows: bool = False

    def load(self, seed: int) -> Trace:
        """Load the trace for `seed`."""
        from brsolver.traces import load_trace

        return load_trace(
            self.source,
            format=self.reader,
            limit=self.limit,
            skip_bad_rows=self.skip_bad_rows,
            seed=seed,
        )

    def load_all(self, seeds: Sequence[int]) -> dict[int, Trace]:
        """Load the trace of every seed: a file once, a preset or ServeGen client anew for each."""
        from brsolver.traces.load import is_random

        if is_random(self.source, self.reader):
            return {seed: self.load(seed) for seed in seeds}
        return dict.fromkeys(seeds, self.load(seeds[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    trace: Trace
    policy: str
    params: SimulationParams
    predictor: Predictor | str | None
    predictor_name: str | None
    trained_on: str | None
    keep_curves: bool

    def __str__(self) -> str:
        return f"{self.policy} on {self.params.workers} workers, seed {self.params.seed}"


def split_policies(text: str) -> tuple[str, ...]:
    """Take a comma-separated list of policy specifications apart.

    A comma separates policies, except that a piece ``key=value`` belongs to the policy before
    it: ``"br-0,br-h:horizon=40,gamma=0.9,jsq"`` names three policies.
    """
    specs: list[str] = []
    for piece in (piece.strip() for piece in text.split(",")):
        head, equals, _ = piece.partition("=")
        if not piece:
            raise ParameterError(f"policies {text!r}: a name is missing beside a comma")
        if equals and ":" not in head:
            if not specs:
                raise ParameterError(f"policies {text!r}: {piece!r} follows no policy")
            specs[-1] += ("," if ":" in specs[-1] else ":") + piece
        else:
            specs.append(piece)
    return tuple(specs)


def compare(
    trace: str | Path | TraceSource | Trace,
    policies: str | Sequence[str],
    *,
    workers: Sequence[int] = (8,),
    seeds: int | Sequence[int] = 1,
    params: SimulationParams | None = None,
    predictor: str | None = None,
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
    policies : str or sequence of str
        Policy specifications; a string is taken apart by `split_policies`.
    workers : sequence of int
        Values of G.
    seeds : int or sequence of int
        How many, counted from ``params.seed``, or the seeds themselves.
    params : SimulationParams, optional
        Everything else about the runs.
    predictor : str, optional
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

    started = time.perf_counter()
    params = params or SimulationParams()
    specs = check_policies(split_policies(policies) if isinstance(policies, str) else policies)
    chosen = _find_baseline(baseline, specs)
    seeds_used = _check_seeds(seeds, params.seed)
    tasks = list(_grid(_load(trace, seeds_used), specs, _check_workers(workers), params, predictor))
    runs = _run_all(tasks, jobs, progress or _silent)
    return Comparison(
        runs=runs,
        policies=specs,
        workers=tuple(workers),
        seeds=seeds_used,
        baseline=chosen,
        params=params,
        trace_name=runs[0].trace_name,
        predictor=predictor,
        version=__version__,
        wall_s=time.perf_counter() - started,
    )


def check_policies(specs: Sequence[str]) -> tuple[str, ...]:
    """Return the specifications if every policy exists and takes its parameters.

    Raises
    ------
    BrsolverError
        Naming the first that is unknown, given twice, or has a parameter it cannot have.
    """
    from brsolver.registry import policy_class
    from brsolver.specs import build_params, parse_spec

    if not specs:
        raise ParameterError("no policy was given; name at least one")
    seen: list[tuple[str, dict[str, object]]] = []
    for spec in specs:
        name, values = parse_spec(spec)
        meant: dict[str, object] = dict(values)
        params_class = getattr(policy_class(name), "Params", None)
        if params_class is not None:
            built = build_params(params_class, values, name)
            meant = {key: getattr(built, key) for key in values}
        elif values:
            raise UnknownNameError.suggest(f"parameter of {name}", next(iter(values)), ())
        # By meaning: blanks, the order of parameters and 1e1 for 10 make no other policy.
        if (name, meant) in seen:
            raise ParameterError(f"policy {spec!r} is given twice")
        seen.append((name, meant))
    return tuple(specs)


def _find_baseline(baseline: str | None, specs: Sequence[str]) -> str:
    if baseline is None:
        return specs[0]
    named = [s for s in specs if s == baseline] or [s for s in specs if _name(s) == baseline]
    if not named:
        raise UnknownNameError.suggest("baseline", baseline, specs)
    if len(named) > 1:
        raise ParameterError(f"baseline {baseline!r} could be any of: {'; '.join(named)}")
    return named[0]


def _name(spec: str) -> str:
    return spec.partition(":")[0].strip()


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
        raise ParameterError(f"{name} names a value twice: {', '.join(map(str, values))}")
    return tuple(values)


def _load(trace: str | Path | TraceSource | Trace, seeds: Sequence[int]) -> dict[int, Trace]:
    if isinstance(trace, str | Path):
        trace = TraceSource(source=str(trace))
    if isinstance(trace, TraceSource):
        return trace.load_all(seeds)
    return dict.fromkeys(seeds, trace)


def _grid(
    traces: dict[int, Trace],
    specs: Sequence[str],
    workers: Sequence[int],
    params: SimulationParams,
    predictor: str | None,
) -> Iterator[_Task]:
    held = _hold_out(traces, predictor, specs)
    for count in workers:
        for policy in specs:
            for index, seed in enumerate(traces):
                yield _Task(
                    trace=held[seed].trace,
                    policy=policy,
                    params=replace(params, workers=count, seed=seed),
                    predictor=held[seed].predictor,
                    predictor_name=predictor,
                    trained_on=held[seed].note,
                    keep_curves=index == 0,
                )


def _hold_out(
    traces: dict[int, Trace], predictor: str | None, specs: Sequence[str]
) -> dict[int, HeldOut]:
    from brsolver.simulator.held_out import hold_out, horizon_of

    horizons = [horizon_of(spec) for spec in specs]
    made: dict[int, HeldOut] = {}
    for seed, trace in traces.items():
        # A file is one trace for all seeds: training it over and over would change nothing.
        same = next(
            (done for done, other in traces.items() if other is trace and done in made), None
        )
        if same is None:
            made[seed] = hold_out(trace, predictor, seed, horizons=horizons)
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

    try:
        result = simulate(
            task.trace,
            task.policy,
            task.params,
            # Predictors learn: every run starts from the same state.
            predictor=copy.deepcopy(task.predictor),
            predictor_name=task.predictor_name,
        )
    except BrsolverError:
        raise
    except Exception as error:
        cause = str(error).partition("\n")[0]
        raise BrsolverError(f"{task}: {type(error).__name__}: {cause}") from error
    run = Run.of(result, task.trace, policy=task.policy, keep_curves=task.keep_curves)
    return run if task.trained_on is None else replace(run, notes=(task.trained_on, *run.notes))


def _silent(done: int, total: int) -> None:
    del done, total
