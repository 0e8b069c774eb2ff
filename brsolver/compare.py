"""Run a grid of policies × workers × seeds side by side and collect what came out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from brsolver._grid import Failed, Progress, Task, run_all, silent
from brsolver._resumed import run_kept
from brsolver.errors import ParameterError, UnknownNameError
from brsolver.results.comparison import Comparison, Estimate, Failure, Run
from brsolver.traces.read_options import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from brsolver.executors import ExecutorParams
    from brsolver.registry import PolicySpec, PredictorSpec
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace

__all__ = ["Comparison", "Estimate", "Failure", "Run", "TraceSource", "compare"]

_MAX_SEEDS = 100_000


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
    executor: ExecutorParams | None = None,
    resume: str | Path | None = None,
    progress: Progress | None = None,
    vary_start: bool = True,
    keep_times: bool = False,
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
        random streams and Poisson arrivals, and says where the run starts, see `vary_start`.
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
        Runs at once, each limited to one thread; default the number of processors. 1 runs
        everything in this process, unless a cluster is asked for.
    executor : ExecutorParams, optional
        Where runs are carried out; default processes of this machine. Figures are the same.
    resume : str or Path, optional
        Folder where every run is kept as it ends. Runs that it has are not carried out again, so
        that what was interrupted, or has more seeds or policies now, goes on from there.
    progress : callable, optional
        Called with (finished runs, all runs).
    vary_start : bool
        Whether, of a trace that is the same for all seeds, the second run leaves out the first
        request, the third the first two, and so on. Without it a policy that is not random gives
        the same with every seed, and nothing is known of noise.
    keep_times : bool
        Whether to keep the times of every request (`Run.times`).

    Returns
    -------
    Comparison
        Without the policies of which a run failed; see its `failures`.

    Raises
    ------
    BrsolverError
        Any input is bad, or a run of every policy failed.
    """
    from brsolver._version import __version__
    from brsolver.executors import executor_of
    from brsolver.simulator.params import SimulationParams
    from brsolver.wiring import read_policies

    started = time.perf_counter()
    params = params or SimulationParams()
    specs = read_policies(policies)
    chosen = _find_baseline(baseline, specs)
    seeds_used = _check_seeds(seeds, params.seed)
    workers = _check_workers(workers)
    where = executor_of(_where(executor, jobs), most=len(specs) * len(seeds_used) * len(workers))
    traces = _load(trace, seeds_used)
    held = _hold_out(traces, predictor, specs)
    names, shared = _named(held)
    tasks = [
        replace(
            task,
            keep_times=keep_times,
            start=_start(traces, task, len(shared[task.held].trace), vary=vary_start),
            first_row=len(traces[task.params.seed]) - len(shared[task.held].trace),
        )
        for task in _grid(names, specs, workers, params)
    ]
    tell = progress or silent
    outcomes = (
        run_all(tasks, shared, where, tell)
        if resume is None
        else run_kept(tasks, shared, resume, executor=where, progress=tell)
    )
    runs, failures = _apart(outcomes, specs)
    policies = _whole(specs, failures)
    return Comparison(
        runs=runs,
        policies=policies,
        workers=tuple(workers),
        seeds=seeds_used,
        baseline=chosen.text if chosen.text in policies else policies[0],
        failures=failures,
        params=params,
        trace_name=runs[0].trace_name,
        predictor=None if predictor is None else held[seeds_used[0]].predictor_name,
        version=__version__,
        wall_s=time.perf_counter() - started,
    )


def _where(executor: ExecutorParams | None, jobs: int | None) -> ExecutorParams:
    from brsolver.executors import ExecutorParams

    executor = executor or ExecutorParams()
    return executor if jobs is None else replace(executor, jobs=jobs)


def _named(held: dict[int, HeldOut]) -> tuple[dict[int, str], dict[str, HeldOut]]:
    """Name what runs share, once each; returns the name of every seed, and what has it."""
    shared: dict[str, HeldOut] = {}
    names: dict[int, str] = {}
    for seed, each in held.items():
        known = (name for name, other in shared.items() if other is each)
        names[seed] = next(known, f"trace of seed {seed}")
        shared[names[seed]] = each
    return names, shared


def _start(traces: dict[int, Trace], task: Task, requests: int, *, vary: bool) -> int:
    """Return how many requests a run leaves out at its start."""
    fixed = all(trace is next(iter(traces.values())) for trace in traces.values())
    later = list(traces).index(task.params.seed) if vary and fixed else 0
    return min(later, requests - 1)


def _apart(
    outcomes: Sequence[Run | Failed], specs: Sequence[PolicySpec]
) -> tuple[tuple[Run, ...], tuple[Failure, ...]]:
    """Tell runs from failures; where every policy has one, raise the first.

    Raises
    ------
    BrsolverError
        No policy is left.
    """
    runs = tuple(each for each in outcomes if isinstance(each, Run))
    failed = [each for each in outcomes if isinstance(each, Failed)]
    failures = tuple(each.failure for each in failed)
    if failed and not _whole(specs, failures):
        raise failed[0].error
    return runs, failures


def _whole(specs: Sequence[PolicySpec], failures: Sequence[Failure]) -> tuple[str, ...]:
    """Return the policies of which no run failed."""
    failed = {failure.policy for failure in failures}
    return tuple(spec.text for spec in specs if spec.text not in failed)


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
    names: dict[int, str],
    specs: Sequence[PolicySpec],
    workers: Sequence[int],
    params: SimulationParams,
) -> Iterator[Task]:
    for count in workers:
        for policy in specs:
            for index, (seed, held) in enumerate(names.items()):
                yield Task(
                    held=held,
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


class _CallableModule(ModuleType):
    """The module, which may be called as its function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Comparison:
        """Compare; see `compare`."""
        return compare(*args, **kwargs)


# Python binds a submodule to its package's attribute of the same name once it is imported, so that
# ``from brsolver import compare`` gives this module and not the function.
sys.modules[__name__].__class__ = _CallableModule
