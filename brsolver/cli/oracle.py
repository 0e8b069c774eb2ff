"""``brsolver oracle``: solve saved states with every back end, side by side; find the best runs.

Everything heavy is imported inside the commands: ``brsolver --help`` imports this module.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brsolver.cli._executor_options import (
    ExecutorOption,
    RayAddressOption,
    ResumeOption,
    check_resume,
    jobs_option,
    side_by_side,
    tells_lines,
)
from brsolver.cli._side_by_side import LP, MILP, Row, Sheet, Solved, print_json, print_sheets
from brsolver.cli._spans import parse_span
from brsolver.cli.oracle_hindsight import hindsight

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from brsolver.oracles.states import SolveLimits
    from brsolver.oracles.step import Objective, StepInstance

app = typer.Typer(
    help="Solve saved states by every solver, and search for the best runs.",
    no_args_is_help=True,
    add_completion=False,
)

OBJECTIVES = ("score", "imbalance")
SIFTING = "sifting"
_INTEGER = ("highs", "cp-sat")
_INTEGER_ONLY = ("cp-sat",)


app.command()(hindsight)


@app.command()
def step(
    states: Annotated[
        list[str],
        typer.Argument(
            metavar="STATE.json...", help="Saved states, e.g. by gap --oracle step --out."
        ),
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
    executor: ExecutorOption = "local",
    ray_address: RayAddressOption = None,
    jobs: Annotated[int | None, jobs_option("Models solved")] = None,
    resume: ResumeOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Solve saved routing decisions with every back end."""
    from brsolver.cli._progress import late_bar
    from brsolver.oracles.states import solve_states, ways_of

    limits = _limits(time_limit, memory_limit, isolate=isolate)
    objectives = _objectives(objective)
    ways = list(ways_of(_plan(backends, relax)))
    where = side_by_side(executor, jobs, ray_address)
    check_resume(resume)
    loaded = {path: _load(path) for path in states}
    with late_bar("solving, models", lines=tells_lines(executor, resume)) as bar:
        found = solve_states(
            {path: instance for path, (instance, _) in loaded.items()},
            objectives,
            ways,
            limits=limits,
            executor=where,
            resume=resume,
            progress=bar.update,
        )
    solved = [
        Solved(
            state=path,
            instance=instance,
            sheets=tuple(
                Sheet(
                    objective=name,
                    rows=(
                        *_as_saved(instance, name, taken),
                        *(
                            Row(backend=way.backend, kind=way.kind, result=result)
                            for way, result in found[path, name].items()
                        ),
                    ),
                )
                for name in objectives
            ),
        )
        for path, (instance, taken) in loaded.items()
    ]
    _check_any([sheet for each in solved for sheet in each.sheets])
    if json:
        print_json(solved, limits.time_limit_s)
    else:
        print_sheets(solved)


def _limits(time_limit: str, memory_limit: float | None, *, isolate: bool) -> SolveLimits:
    from brsolver.errors import ParameterError
    from brsolver.oracles.states import SolveLimits

    limit_s = parse_span(time_limit, "time limit")
    if memory_limit is not None and not (math.isfinite(memory_limit) and memory_limit > 0):
        raise ParameterError(f"memory limit is {memory_limit}, must be a positive number")
    return SolveLimits(time_limit_s=limit_s, memory_limit_mb=memory_limit, isolate=isolate)


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


def _as_saved(instance: StepInstance, objective: Objective, taken: dict[str, Any]) -> Iterator[Row]:
    """Yield the decision that was saved with the state, if there is one."""
    from brsolver.oracles.states import evaluated

    if taken:
        result = evaluated(instance, objective, taken.get("assignment"), "as saved")
        yield Row(backend=str(taken.get("policy", "policy")), kind="policy", result=result)


def _check_any(sheets: Sequence[Sheet]) -> None:
    """Raise if no solver answered anything: what is left would not be what was asked for."""
    from brsolver.oracles.result import SolverError, Status

    tried = [row for sheet in sheets for row in sheet.rows if row.kind in (MILP, LP)]
    if tried and all(row.result.status is Status.ERROR for row in tried):
        # One reason per back end would repeat the missing package's; once each is enough.
        reasons = dict.fromkeys(row.result.message for row in tried)
        raise SolverError(f"no back end works: {'; '.join(reasons)}")
