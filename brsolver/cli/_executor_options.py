"""The options by which commands are told where independent runs are carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from brsolver.executors import ExecutorParams

SCALE = "Scale-out"

ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="NAME",
        rich_help_panel=SCALE,
        help="Where runs are carried out: local (processes of this machine) or ray (a cluster; "
        "extra: ray).",
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        rich_help_panel=SCALE,
        help="Ray cluster to use: HOST:PORT, ray://HOST:PORT, or auto for the one that runs "
        "here. (default: one is started on this machine)",
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        metavar="N",
        rich_help_panel=SCALE,
        help="Runs at once. (default: all processors)",
    ),
]

ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="DIR",
        rich_help_panel=SCALE,
        help="Keep every part there as it ends, and compute only those that are not there.",
    ),
]


def executor_params(
    executor: str = "local", jobs: int | None = None, ray_address: str | None = None
) -> ExecutorParams:
    """Put the three options together.

    Parameters
    ----------
    executor : str
    jobs : int, optional
    ray_address : str, optional

    Raises
    ------
    ParameterError
        One has a value it cannot have, or they do not go together.
    """
    from brsolver.executors import ExecutorParams

    return ExecutorParams(executor=executor, jobs=jobs, ray_address=ray_address)  # type: ignore[arg-type] # checked there


def side_by_side(
    executor: str = "local", jobs: int | None = None, ray_address: str | None = None
) -> ExecutorParams | None:
    """Put the options together; None is in this process, which processes would only delay."""
    found = executor_params(executor, jobs, ray_address)
    here = found.executor == "local" and (found.jobs is None or found.jobs == 1)
    return None if here else found


def check_resume(resume: str | None, out: str | None = None) -> None:
    """Raise `ParameterError` unless it names a folder, and another than the report's."""
    from pathlib import Path

    from brsolver.errors import ParameterError

    if resume is None:
        return
    if not resume.strip():
        raise ParameterError("resume is an empty name, must be a folder")
    if out is not None and Path(resume).resolve() == Path(out).resolve():
        raise ParameterError(f"resume is {resume!r}, must be another folder than the report's")


__all__ = [
    "SCALE",
    "ExecutorOption",
    "JobsOption",
    "RayAddressOption",
    "ResumeOption",
    "check_resume",
    "executor_params",
    "side_by_side",
]
