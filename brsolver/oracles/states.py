"""Saved states, each solved in many ways: a campaign."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.campaign import Campaign, Cell
from brsolver.errors import UnknownNameError
from brsolver.oracles import step
from brsolver.oracles._kept import RESULT, answers, packed
from brsolver.oracles.backends import MODULES, Isolation, installed
from brsolver.oracles.backends._base import INTERRUPTED
from brsolver.oracles.result import SolveResult, Status
from brsolver.oracles.step.sifting import SIFTING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from brsolver.executors import ExecutorParams
    from brsolver.oracles._kept import Answer
    from brsolver.oracles.step import Objective, StepInstance

HEURISTIC, SEARCH, BOUND, MILP, LP = "heuristic", "search", "bound", "milp", "lp"
KICKS = 100
"""Of the local search: nobody waits for its milliseconds here."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a state is solved.

    Attributes
    ----------
    backend : str
        A back end, or who else makes a decision or a bound.
    kind : {"heuristic", "search", "bound", "milp", "lp"}
    """

    backend: str
    kind: str


WITHOUT_SOLVER = (Way("br", HEURISTIC), Way("local-search", SEARCH), Way("lagrangian", BOUND))
"""Ways that need no solver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveLimits:
    """What every solver may take.

    Attributes
    ----------
    time_limit_s : float
    memory_limit_mb : float or None
    isolate : bool
        Solve in a process of its own, which is ended at a limit and may crash alone.
    """

    time_limit_s: float = 10.0
    memory_limit_mb: float | None = None
    isolate: bool = True


def solve_states(
    states: Mapping[str, StepInstance],
    objectives: Sequence[Objective],
    ways: Sequence[Way],
    *,
    limits: SolveLimits | None = None,
    executor: ExecutorParams | None = None,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[str, Objective], dict[Way, SolveResult]]:
    """Solve states by every objective in every way.

    Parameters
    ----------
    states : mapping of str to StepInstance
        By what they are called. Equal ones are solved once.
    objectives : sequence of {"score", "imbalance"}
    ways : sequence of Way
    limits : SolveLimits, optional
    executor : ExecutorParams, optional
        Where they are solved side by side; None is this process, one by one.
    resume : str or Path, optional
        Folder where every answer is kept as it comes, and not sought again; see
        `brsolver.campaign.run_campaign`.
    progress : callable, optional
        Called with (answers that are there, all answers).

    Returns
    -------
    dict of (str, str) to dict of Way to SolveResult
        By state and objective. A way that fails answers `Status.ERROR` with the reason, and the
        others go on; it is tried again by the next call. Of relaxations there is no solution.

    Raises
    ------
    BrsolverError
        A back end is unknown, or nothing can be carried out or kept.
    """
    limits, kept = limits or SolveLimits(), resume is not None
    digests = {name: digest_of_state(state) for name, state in states.items()}
    first = {digest: name for name, digest in reversed(digests.items())}
    asked = [
        (digest, objective, way)
        for digest in dict.fromkeys(digests.values())
        for objective in objectives
        for way in ways
    ]
    campaign = Campaign(
        name="states",
        function=answered,
        cells=tuple(
            Cell(key=_key(*each, limits), task=(first[each[0]], *each, limits, kept))
            for each in asked
        ),
        shared={digest: states[name] for digest, name in first.items()},
        clocked=frozenset({RESULT, "build_s", "solve_s"}),
    )
    try:
        given = answers(campaign, executor=executor, resume=resume, progress=progress)
    finally:
        _apart().close()
    found = {each: _result(answer) for each, answer in zip(asked, given, strict=True)}
    return {
        (name, objective): {way: found[digest, objective, way] for way in ways}
        for name, digest in digests.items()
        for objective in objectives
    }


def digest_of_state(state: StepInstance) -> str:
    """Tell a state from others by all that it says."""
    text = json.dumps(state.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def answered(task: Any, shared: Mapping[str, Any]) -> Mapping[str, Any]:
    """Solve one state in one way; returns the row's figures."""
    name, digest, objective, way, limits, kept = task
    found = _answer(shared[digest], objective, way, limits)
    if kept and found.message == INTERRUPTED:
        raise KeyboardInterrupt
    if way.kind == LP:
        # Large, and no decision.
        found = replace(found, solution=None)
    return {
        "name": name,
        "status": found.status.value,
        "value": None if found.objective is None else float(found.objective),
        "dual_bound": None if found.dual_bound is None else float(found.dual_bound),
        "build_s": found.build_s,
        "solve_s": found.solve_s,
        "origin": found.origin,
        RESULT: packed(replace(found, duals=None)),
    }


def evaluated(
    instance: StepInstance, objective: Objective, assignment: Any, origin: str
) -> SolveResult:
    """Evaluate a decision, or say why it is none."""
    whole = isinstance(assignment, list) and all(type(g) is int for g in assignment)
    broken = step.violation(instance, assignment) if whole else "assignment is no list of workers"
    if broken:
        return SolveResult(status=Status.ERROR, origin=origin, message=f"no decision: {broken}")
    return SolveResult(
        status=Status.FEASIBLE,
        solution=np.array(assignment, np.int64),
        objective=step.objective_value(instance, assignment, objective),
        origin=origin,
    )


def _answer(
    instance: StepInstance, objective: Objective, way: Way, limits: SolveLimits
) -> SolveResult:
    if way.kind == HEURISTIC:
        return _heuristic(instance, objective)
    if way.kind == SEARCH:
        return step.local_search(instance, objective, kicks=KICKS)
    if way.kind == BOUND:
        found = step.local_search(instance, objective, kicks=KICKS)
        known = np.asarray(found.solution, np.int64) if found.found else None
        return step.lagrangian_bound(instance, objective, incumbent=known)
    return step.solve_step(
        instance,
        objective,
        backend=way.backend,
        relax=way.kind == LP,
        time_limit_s=limits.time_limit_s,
        memory_limit_mb=limits.memory_limit_mb,
        isolate=_apart() if limits.isolate else False,
    )


def _heuristic(instance: StepInstance, objective: Objective) -> SolveResult:
    known = step.heuristic(instance).tolist()
    if step.violation(instance, known):
        message = "admits fewer requests than must be admitted"
        return SolveResult(status=Status.LIMIT, origin="two stages", message=message)
    return evaluated(instance, objective, known, "two stages")


@lru_cache(maxsize=1)
def _apart() -> Isolation:
    """Return this process's own: starting one takes a second, which is not for every answer."""
    return Isolation()


def _key(digest: str, objective: str, way: Way, limits: SolveLimits) -> dict[str, Any]:
    key = {"state": digest, "objective": objective, "backend": way.backend, "kind": way.kind}
    if way in WITHOUT_SOLVER:
        return key
    if way.backend not in (*MODULES, SIFTING):
        raise UnknownNameError.suggest("back end", way.backend, (*MODULES, SIFTING))
    module = MODULES["highs" if way.backend == SIFTING else way.backend]
    return {
        **key,
        "solver": installed(module.partition(".")[0]),
        "time_limit_s": limits.time_limit_s,
        "memory_limit_mb": limits.memory_limit_mb,
        "isolate": limits.isolate,
    }


def _result(answer: Answer) -> SolveResult:
    if answer.failure is not None:
        return SolveResult(status=Status.ERROR, message=answer.failure)
    found: SolveResult = answer.value
    return found


def ways_of(plan: Sequence[tuple[str, str]]) -> Iterator[Way]:
    """Yield what needs no solver, and then back ends by kind of model."""
    yield from WITHOUT_SOLVER
    yield from (Way(backend, kind) for backend, kind in plan)
