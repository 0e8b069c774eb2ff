"""``brsolver oracle``: solve saved states with every back end, side by side.

Everything heavy is imported inside the commands: ``brsolver --help`` imports this module.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli._side_by_side import LP, MILP, Row, Sheet, print_json, print_sheets
from brsolver.cli.gap import parse_span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from brsolver.cli._progress import LateBar
    from brsolver.oracles.result import SolveResult
    from brsolver.oracles.step import Objective, StepInstance

app = typer.Typer(
    help="Solve saved states by every solver, side by side.",
    no_args_is_help=True,
    add_completion=False,
)

OBJECTIVES = ("score", "imbalance")
SIFTING = "sifting"
KICKS = 100
"""Of the local search: nobody waits for its milliseconds here."""
_INTEGER = ("highs", "cp-sat")
_INTEGER_ONLY = ("cp-sat",)


@app.callback()
def _group() -> None:
    """Keep ``step`` a command of its own while it is the only one."""


@app.command()
def step(
    state: Annotated[
        str,
        typer.Argument(metavar="STATE.json", help="Saved state, e.g. by gap --oracle step --out."),
    ],
    *,
    objective: Annotated[
        str, typer.Option(metavar="NAME", help="score, imbalance or both.")
    ] = "both",
    backends: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Back ends to try. (default: all)")
    ] = None,
    time_limit: Annotated[
        str, typer.Option(metavar="TIME", help="Time for each back end: 500ms, 10s, 1m.")
    ] = "10s",
    relax: Annotated[
        bool | None,
        typer.Option(
            "--relax/--no-relax",
            help="Only relaxations, or only integer models. (default: both)",
            show_default=False,
        ),
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(metavar="MB", help="Memory for each back end, in MiB. (default: no limit)"),
    ] = None,
    isolate: Annotated[
        bool,
        typer.Option(
            help="Solve in a process of its own, which is ended at a limit and may crash alone."
        ),
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Solve one saved routing decision with every back end."""
    from brsolver.cli._progress import late_bar

    limits = _limits(time_limit, memory_limit)
    objectives = _objectives(objective)
    plan = _plan(backends, relax)
    instance, taken = _load(state)
    with late_bar("solving, models") as bar:
        sheets = _solve_all(instance, taken, objectives, plan, limits, isolate, bar)
    _check_any(sheets)
    if json:
        print_json(state, instance, limits["time_limit_s"], sheets)
    else:
        print_sheets(state, instance, sheets)


def _limits(time_limit: str, memory_limit: float | None) -> dict[str, float]:
    from brsolver.errors import ParameterError

    limits = {"time_limit_s": parse_span(time_limit, "time limit")}
    if memory_limit is not None:
        if not (math.isfinite(memory_limit) and memory_limit > 0):
            raise ParameterError(f"memory limit is {memory_limit}, must be a positive number")
        limits["memory_limit_mb"] = memory_limit
    return limits


def _objectives(name: str) -> tuple[Objective, ...]:
    from brsolver.errors import UnknownNameError

    if name == "both":
        return ("score", "imbalance")
    if name not in OBJECTIVES:
        raise UnknownNameError.suggest("objective", name, (*OBJECTIVES, "both"))
    return (name,)  # type: ignore[return-value] # just checked


def _plan(backends: str | None, relax: bool | None) -> list[tuple[str, str]]:
    """Return which back ends to try on which kind of model, integer models first."""
    from brsolver.errors import ParameterError, UnknownNameError
    from brsolver.oracles.backends import BACKENDS

    known = (*BACKENDS, SIFTING)
    asked = known if backends is None else [name.strip() for name in backends.split(",")]
    for name in asked:
        if name not in known:
            raise UnknownNameError.suggest("back end", name, known)
    chosen = list(dict.fromkeys(asked))
    plan = [] if relax else [(name, MILP) for name in chosen if name in _INTEGER]
    if relax is not False:
        plan += [(name, LP) for name in chosen if name not in _INTEGER_ONLY]
    if not plan:
        only = "integer models" if relax else "relaxations"
        flag, other = ("--relax", "highs or glop") if relax else ("--no-relax", "highs or cp-sat")
        raise ParameterError(
            f"{', '.join(chosen)} can solve {only} only: leave out {flag}, or add {other}"
        )
    return plan


def _load(path: str) -> tuple[StepInstance, dict[str, Any]]:
    """Read a state, and what a policy did there if the file says so."""
    import json
    from pathlib import Path

    from brsolver.errors import BrsolverError, ParameterError
    from brsolver.oracles.step import StepInstance

    try:
        instance = StepInstance.load(path)
        taken = json.loads(Path(path).read_text(encoding="utf-8")).get("taken")
    except BrsolverError as error:
        # A file that cannot be read is named already, a field that is wrong is not.
        line = str(error) if path in str(error) else f"{path}: {error}"
        raise ParameterError(line) from error
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        # What no field's check foresees: ragged arrays, numbers beyond 64 bits.
        raise ParameterError(f"{path}: not a step instance: {error}") from error
    _check_fits(path, instance)
    return instance, taken if isinstance(taken, dict) else {}


def _check_fits(path: str, instance: StepInstance) -> None:
    from brsolver.errors import CapacityError

    limit = int(instance.token_room[instance.open_workers].max(initial=0))
    kv_tokens = instance.prompts - instance.request_tokens
    fitting = int((kv_tokens <= limit).sum())
    if instance.admit is not None and fitting < instance.admit:
        at = int(instance.prompts.argmax())
        raise CapacityError(
            f"{path}: {instance.admit} requests must be admitted and {fitting} fit a worker: "
            f"request {at} has {kv_tokens[at]} tokens, the largest room is {limit}"
        )


def _solve_all(
    instance: StepInstance,
    taken: dict[str, Any],
    objectives: Sequence[Objective],
    plan: Sequence[tuple[str, str]],
    limits: dict[str, float],
    isolate: bool,
    bar: LateBar,
) -> list[Sheet]:
    from brsolver.oracles.backends import Isolation

    sheets: list[Sheet] = []
    with Isolation() as process:
        given = {**limits, "isolate": process if isolate else False}
        for done, objective in enumerate(objectives):
            rows = list(_without_solver(instance, objective, taken))
            for tried, (backend, kind) in enumerate(plan, start=1):
                rows.append(_solve(instance, objective, backend, kind, given))
                bar.update(done * len(plan) + tried, len(objectives) * len(plan))
            sheets.append(Sheet(objective=objective, rows=tuple(rows)))
    return sheets


def _solve(
    instance: StepInstance, objective: Objective, backend: str, kind: str, given: dict[str, Any]
) -> Row:
    from brsolver.errors import BrsolverError
    from brsolver.oracles.result import SolveResult, Status
    from brsolver.oracles.step import solve_step

    try:
        result = solve_step(instance, objective, backend=backend, relax=kind == LP, **given)
    except BrsolverError as error:
        result = SolveResult(status=Status.ERROR, message=" ".join(str(error).split()))
    return Row(backend=backend, kind=kind, result=result)


def _without_solver(
    instance: StepInstance, objective: Objective, taken: dict[str, Any]
) -> Iterator[Row]:
    """Yield what needs no solver: the policy's decision, heuristic, local search, Lagrangian."""
    from brsolver.oracles.result import SolveResult, Status
    from brsolver.oracles.step import heuristic, lagrangian_bound, local_search, violation

    if taken:
        yield Row(
            backend=str(taken.get("policy", "policy")),
            kind="policy",
            result=_judged(instance, objective, taken.get("assignment"), "as saved"),
        )
    known = heuristic(instance)
    if violation(instance, known.tolist()):
        message = "admits fewer requests than must be admitted"
        result = SolveResult(status=Status.LIMIT, origin="two stages", message=message)
    else:
        result = _judged(instance, objective, known.tolist(), "two stages")
    yield Row(backend="br", kind="heuristic", result=result)
    found = local_search(instance, objective, kicks=KICKS)
    yield Row(backend="local-search", kind="search", result=found)
    bound = lagrangian_bound(instance, objective, incumbent=_array(found) if found.found else None)
    yield Row(backend="lagrangian", kind="bound", result=bound)


def _array(found: SolveResult) -> Any:
    import numpy as np

    return np.asarray(found.solution, np.int64)


def _judged(
    instance: StepInstance, objective: Objective, assignment: Any, origin: str
) -> SolveResult:
    """Evaluate a decision, or say why it is none."""
    import numpy as np

    from brsolver.oracles.result import SolveResult, Status
    from brsolver.oracles.step import objective_value, violation

    whole = isinstance(assignment, list) and all(type(g) is int for g in assignment)
    broken = violation(instance, assignment) if whole else "assignment is no list of workers"
    if broken:
        return SolveResult(status=Status.ERROR, origin=origin, message=f"no decision: {broken}")
    return SolveResult(
        status=Status.FEASIBLE,
        solution=np.array(assignment, np.int64),
        objective=objective_value(instance, assignment, objective),
        origin=origin,
    )


def _check_any(sheets: Sequence[Sheet]) -> None:
    """Raise if no solver answered anything: what is left would not be what was asked for."""
    from brsolver.oracles.result import SolverError, Status

    tried = [row for sheet in sheets for row in sheet.rows if row.kind in (MILP, LP)]
    if tried and all(row.result.status is Status.ERROR for row in tried):
        # One reason per back end would repeat the missing package's; once each is enough.
        reasons = dict.fromkeys(row.result.message for row in tried)
        raise SolverError(f"no back end works: {'; '.join(reasons)}")
