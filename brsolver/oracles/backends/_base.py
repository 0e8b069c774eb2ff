"""What back ends are given and what they answer, before it is believed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from brsolver.oracles.linear_model import FloatArray, IntArray, LinearModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from brsolver.oracles.result import Status

T = TypeVar("T")

POLL_S = 0.01
"""Seconds between two looks at memory, deadline and interrupt of a running solver."""

GRACE = 0.02
"""Part of its time limit a solver may go over it before it is told to stop."""

SHORTEST_S = 1e-3
"""What solvers are given where building their model used up the time."""

TIME, MEMORY, INTERRUPTED = "time limit", "memory limit", "interrupted"
"""Why a solver was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How to solve a model.

    Attributes
    ----------
    time_limit_s : float or None
        Seconds of wall-clock time.
    memory_limit_mb : float or None
        Resident memory of this process at which to stop, in MiB.
    threads : int
    warm_start : ndarray of int64, shape (n,), or None
        A solution to start from.
    relax : bool
        Solve the linear relaxation.
    report : callable or None
        Given an `Answer` whenever there is a better solution or bound.
    began : float
        ``time.monotonic()`` from which the time limit counts: handing a solver its model is part
        of solving.
    """

    time_limit_s: float | None = None
    memory_limit_mb: float | None = None
    threads: int = 1
    warm_start: IntArray | None = None
    relax: bool = False
    report: Callable[[Answer], None] | None = None
    began: float = field(default_factory=time.monotonic)

    def left(self) -> float | None:
        """Return the seconds that are left, None without a limit."""
        if self.time_limit_s is None:
            return None
        return max(self.began + self.time_limit_s - time.monotonic(), SHORTEST_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a solver says, in the model's own units and not yet checked.

    Attributes
    ----------
    status : Status
    solution : ndarray or None
        One value per column.
    duals : ndarray or None
        Of a relaxation: one multiplier per row, in the sign convention ``c - Aᵀy``.
    bound : float or None
        Dual bound.
    exact : bool
        Whether the solver calculates with integers.
    nodes, iterations : int
    origin, message : str
    """

    status: Status
    solution: NDArray[np.float64] | NDArray[np.int64] | None = None
    duals: FloatArray | None = None
    bound: float | None = None
    exact: bool = False
    nodes: int = 0
    iterations: int = 0
    origin: str = ""
    message: str = ""


Backend = Callable[[LinearModel, Job], Answer]


def guarded(run: Callable[[], T], stop: Callable[[], None], job: Job) -> tuple[T, str]:
    """Run a solver in a thread of its own; stop it at a limit or at an interrupt.

    Solvers run outside Python, where neither an interrupt nor a look at memory reaches them, and
    some check their time limit rarely; the calling thread stays free to do all three.

    Parameters
    ----------
    run : callable
        Solves; releases the interpreter lock meanwhile.
    stop : callable
        Tells the solver to return the best it has, from another thread.
    job : Job

    Returns
    -------
    tuple of (T, str)
        What `run` returned, and why it was stopped: empty, `TIME`, `MEMORY` or `INTERRUPTED`.
    """
    done: list[T] = []
    failed: list[Exception] = []
    # An interrupted Thread.join marks a running thread as ended (Python 3.11, bpo-45274).
    ended = threading.Event()

    def work() -> None:
        try:
            done.append(run())
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            failed.append(error)
        finally:
            ended.set()

    threading.Thread(target=work, daemon=True).start()
    reason = _wait(ended, stop, job)
    if failed:
        raise failed[0]
    return done[0], reason


def _wait(ended: threading.Event, stop: Callable[[], None], job: Job) -> str:
    reason = ""
    left = job.left()
    deadline = None if left is None else time.monotonic() + left + GRACE * (job.time_limit_s or 0.0)
    while not ended.is_set():
        try:
            if ended.wait(POLL_S):
                break
            reason = reason or _limit_reached(deadline, job.memory_limit_mb)
        except KeyboardInterrupt:
            reason = INTERRUPTED
        if reason:
            stop()
    return reason


def _limit_reached(deadline: float | None, memory_limit_mb: float | None) -> str:
    if deadline is not None and time.monotonic() > deadline:
        return TIME
    if memory_limit_mb is not None and resident_mb() > memory_limit_mb:
        return MEMORY
    return ""


def resident_mb(process: int | None = None) -> float:
    """Return a process's resident memory in MiB; this one's if none is given.

    Where the system does not tell: of this process its peak, of another 0.
    """
    try:
        statm = Path("/proc") / ("self" if process is None else str(process)) / "statm"
        pages = int(statm.read_text("ascii").split()[1])
    except (OSError, IndexError):
        return _peak_mb() if process is None else 0.0
    import resource

    return pages * resource.getpagesize() / 2.0**20


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
