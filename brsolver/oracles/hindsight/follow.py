"""A policy that follows a plan, and the simulation that vouches for what a plan costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles.result import SolverError
from brsolver.simulator import Arrivals, SimulationParams, StepTime, simulate

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]


class FollowAssignment:
    """Route every request to its planned worker, at its planned step.

    Parameters
    ----------
    worker : ndarray of int64, shape (n,)
        Worker of every request of the trace.
    start : ndarray of int64, shape (n,), optional
        Admission step of every request; as soon as there is room if not given.
    """

    source = "hindsight oracle"

    def __init__(self, worker: IntArray, start: IntArray | None = None) -> None:
        self.worker = worker
        self.start = start

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Place what the plan starts now."""
        worker = self.worker[waiting.request]
        if self.start is None:
            at = np.arange(min(len(waiting), int(cluster.room.sum())))
        else:
            at = np.flatnonzero(self.start[waiting.request] == cluster.step)
        return np.stack((at, worker[at]), axis=1).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a plan costs, according to the simulator.

    Attributes
    ----------
    barrier_time : int
        ``Σ_k M(k)`` in KV-token steps.
    steps : int
        Decode steps K.
    imbalance : int
        ``Σ_k I(k)``.
    """

    barrier_time: int
    steps: int
    imbalance: int


def replay(
    trace: Trace,
    worker: IntArray,
    start: IntArray | None,
    *,
    workers: int,
    slots: int,
    pool: int,
    step_time: StepTime | None = None,
) -> Replay:
    """Run a plan through `simulate` and return what it cost.

    Raises
    ------
    SolverError
        If the simulator refuses the plan, or requests did not run when the plan says.
    """
    params = SimulationParams(
        workers=workers,
        slots=slots,
        arrivals=Arrivals(mode="pool", pool=pool),
        step_time=step_time or StepTime(),
    )
    result = simulate(trace, FollowAssignment(worker, start), params, predictor="none")
    log = result.requests
    if result.metrics.unfinished:
        raise SolverError(
            f"hindsight plan leaves {result.metrics.unfinished} requests unfinished on replay"
        )
    if not np.array_equal(log.worker, worker):
        raise SolverError("hindsight plan was not followed on replay: workers differ")
    if start is not None and not np.array_equal(log.start_step, start):
        raise SolverError("hindsight plan was not followed on replay: admission steps differ")
    return Replay(
        barrier_time=int(result.steps.load_max.sum()),
        steps=len(result.steps),
        imbalance=int(result.steps.imbalance_sum().sum()),
    )


def check_value(claimed: int, found: int, origin: str) -> None:
    """Raise `SolverError` unless the replayed value is the one the solver claimed."""
    if claimed != found:
        raise SolverError(f"{origin} claims {claimed}, but its plan costs {found} on replay")
