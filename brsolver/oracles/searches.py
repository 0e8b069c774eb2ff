"""The best run in hindsight of many clusters and traces: a campaign."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from brsolver.campaign import Campaign, Cell
from brsolver.errors import ParameterError
from brsolver.oracles._kept import RESULT, answers, packed
from brsolver.oracles.backends import installed
from brsolver.oracles.schedule import require_known_order
from brsolver.traces.prints import print_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from brsolver.executors import ExecutorParams
    from brsolver.oracles.hindsight.result import Admission, HindsightResult
    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchParams:
    """How the best run is sought; see `brsolver.oracles.hindsight.hindsight`.

    Attributes
    ----------
    slots : int
    pool : int or None
    admission : {"fcfs", "free"}
    budget_s : float
        For each search.
    request_tokens : int
    """

    slots: int = 8
    pool: int | None = None
    admission: Admission = "fcfs"
    budget_s: float = 60.0
    request_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What came of one search.

    Attributes
    ----------
    workers, seed, requests : int
    best : HindsightResult or None
    failure : str or None
        Why there is none.
    """

    workers: int
    seed: int
    requests: int
    best: HindsightResult | None
    failure: str | None = None


def search_runs(
    traces: Mapping[int, Trace],
    workers: Sequence[int],
    params: SearchParams | None = None,
    *,
    executor: ExecutorParams | None = None,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Searched]:
    """Seek the best run of every trace on every number of workers.

    Parameters
    ----------
    traces : mapping of int to Trace
        By seed. Where all are one, the second leaves out its first request, the third the first
        two, and so on.
    workers : sequence of int
        Values of G.
    params : SearchParams, optional
    executor : ExecutorParams, optional
        Where searches are made side by side; None is this process, one by one.
    resume : str or Path, optional
        Folder where every search is kept as it ends, and not made again; see
        `brsolver.campaign.run_campaign`.
    progress : callable, optional
        Called with (searches that are there, all searches).

    Returns
    -------
    list of Searched
        By workers, then seed. One that fails is named, and made again by the next call.

    Raises
    ------
    BrsolverError
        Nothing can be carried out, or kept.
    """
    params = params or SearchParams()
    if not traces or not workers:
        raise ParameterError("there is no trace or number of workers, must be at least one of each")
    for trace in traces.values():
        require_known_order(trace)
    cut = _cut(traces)
    prints = {seed: print_of(trace) for seed, trace in cut.items()}
    asked = [(count, seed) for count in workers for seed in cut]
    campaign = Campaign(
        name="hindsight",
        function=sought,
        cells=tuple(
            Cell(
                key={"workers": count, "seed": seed, "trace": prints[seed]},
                task=(f"seed {seed}", count, params),
            )
            for count, seed in asked
        ),
        shared={f"seed {seed}": trace for seed, trace in cut.items()},
        settings={
            "slots": params.slots,
            "pool": params.pool,
            "admission": params.admission,
            "budget_s": params.budget_s,
            "request_tokens": params.request_tokens,
            "solver": installed("ortools"),
        },
        clocked=frozenset({RESULT}),
    )
    found = answers(campaign, executor=executor, resume=resume, progress=progress)
    return [
        Searched(
            workers=count,
            seed=seed,
            requests=len(cut[seed]),
            best=each.value,
            failure=each.failure,
        )
        for (count, seed), each in zip(asked, found, strict=True)
    ]


def sought(task: Any, shared: Mapping[str, Any]) -> Mapping[str, Any]:
    """Seek the best run of one trace on one cluster; returns the row's figures."""
    from brsolver.oracles.hindsight import hindsight

    name, workers, params = task
    _warm_up()
    found = hindsight(
        shared[name],
        workers=workers,
        slots=params.slots,
        pool=params.pool,
        admission=params.admission,
        budget_s=params.budget_s,
        request_tokens=params.request_tokens,
    )
    if "interrupted" in found.message:
        raise KeyboardInterrupt
    return {
        "status": found.status.value,
        "lower_bound": found.barrier_bound,
        "best_known": found.barrier_best,
        "steps": found.steps,
        "method": found.method,
        "origin": found.origin,
        "message": found.message,
        RESULT: packed(found),
    }


@lru_cache(maxsize=1)
def _warm_up() -> None:
    from brsolver.oracles.hindsight.warm import warm_up

    warm_up(search=True)


def _cut(traces: Mapping[int, Trace]) -> dict[int, Trace]:
    """Return the traces, each starting later than the one before where all are the same."""
    first = next(iter(traces.values()))
    if any(trace is not first for trace in traces.values()):
        return dict(traces)
    return {seed: first.after(min(at, len(first) - 1)) for at, seed in enumerate(traces)}
