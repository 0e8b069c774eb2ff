"""The options by which commands are told where independent runs are carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from brsolver.executors import ExecutorParams

SCALE = "Scale-out"
SOME_FAILED = 1
"""Exit status where some of what was asked for failed, and the rest is shown."""

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


def jobs_option(what: str) -> Any:
    """Return ``--jobs`` of a command that does one after the other by itself.

    Parameters
    ----------
    what : str
        Is done at once.
    """
    return typer.Option(
        "--jobs",
        metavar="N",
        rich_help_panel=SCALE,
        help=f"{what} at once. (default: 1, in this process; on a cluster all processors)",
    )


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


def tells_lines(executor: str, resume: str | None) -> bool:
    """Tell whether a command takes long enough for lines of progress where there is no terminal."""
    return executor != "local" or resume is not None


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
    "SOME_FAILED",
    "ExecutorOption",
    "JobsOption",
    "RayAddressOption",
    "ResumeOption",
    "check_resume",
    "executor_params",
    "jobs_option",
    "side_by_side",
    "tells_lines",
]
