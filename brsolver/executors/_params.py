"""Which executor, by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from brsolver.errors import ParameterError, UnknownNameError

if TYPE_CHECKING:
    from brsolver.executors._base import Executor

MAX_JOBS = 1024

EXECUTORS = MappingProxyType(
    {
        "local": "processes of this machine",
        "ray": "a Ray cluster, of this machine or a given one (extra: ray)",
    }
)
"""Names, and what they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorParams:
    """Where independent runs are carried out.

    Attributes
    ----------
    executor : {"local", "ray"}
    jobs : int or None
        Runs at once; None is one per processor, of a cluster's as well. 1 runs them, locally, in
        this process.
    ray_address : str or None
        ``HOST:PORT`` of a cluster, ``ray://HOST:PORT`` of a client's server, ``auto`` for the one
        that runs here; None starts one on this machine, and ends it.
    """

    executor: Literal["local", "ray"] = "local"
    jobs: int | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise UnknownNameError.suggest("executor", self.executor, EXECUTORS)
        if self.jobs is not None and not 1 <= self.jobs <= MAX_JOBS:
            raise ParameterError(
                f"jobs is {self.jobs}, must be at least 1 and at most {MAX_JOBS:,}"
            )
        if self.ray_address is not None and self.executor != "ray":
            raise ParameterError(
                f"ray_address is {self.ray_address!r} and executor {self.executor!r}, must be 'ray'"
            )


def executor_of(params: ExecutorParams | None = None, *, most: int | None = None) -> Executor:
    """Make an executor.

    Parameters
    ----------
    params : ExecutorParams, optional
    most : int, optional
        Tasks that there will be, where that is known: no more processes are started.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    """
    params = params or ExecutorParams()
    if params.executor == "ray":
        from brsolver.executors.ray import RayExecutor

        return RayExecutor(address=params.ray_address, jobs=params.jobs)
    jobs = params.jobs or os.cpu_count() or 1
    if most is not None:
        jobs = max(1, min(jobs, most))
    if jobs == 1:
        from brsolver.executors.inline import InlineExecutor

        return InlineExecutor()
    from brsolver.executors.local import LocalExecutor

    return LocalExecutor(jobs=jobs)
