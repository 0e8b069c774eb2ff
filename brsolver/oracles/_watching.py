"""The states that a run met, and what it did there."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver.policy import BasePolicy
from brsolver.routers._br_kernels import census
from brsolver.routers._discounting import Turnover

if TYPE_CHECKING:
    from brsolver.cluster.view import ClusterView, Decision, Waiting
    from brsolver.oracles.step import StepInstance
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut
    from brsolver.simulator.params import SimulationParams

IntArray = NDArray[np.int64]

SAMPLE = 512
"""Decisions of a run that are kept to be judged: a run has thousands."""

GAMMA = 0.86
"""Discount per step where the policy names none; [BFIO]'s."""

LEAST_GAMMA = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """By which projection decisions are judged.

    Attributes
    ----------
    horizon : int
    gamma : float or None
        Discount per step; None follows the cluster's turnover, as BR-H does.
    growth, survival : bool
        As in `ClusterView.projection`.
    """

    horizon: int
    gamma: float | None
    growth: bool
    survival: bool

    @classmethod
    def of(cls, run: SimulationResult, horizon: int | None) -> Weights:
        """Take a policy's own; `horizon` instead of its own if given."""
        own = run.policy_params
        ahead, gamma = own.get("horizon", 0), own.get("gamma", GAMMA)
        fixed = float(gamma) if isinstance(gamma, int | float) else GAMMA
        return cls(
            horizon=(ahead if isinstance(ahead, int) else 0) if horizon is None else horizon,
            gamma=None if gamma == "auto" else fixed,
            growth=own.get("growth") is True,
            survival=own.get("projection") == "survival",
        )


class Plan(NamedTuple):
    """What a run did: worker and first step of every request."""

    worker: IntArray
    start: IntArray

    @classmethod
    def of(cls, run: SimulationResult) -> Plan:
        """Take it from a run."""
        return cls(run.requests.worker, run.requests.start_step)


class Recorder(BasePolicy):
    """Repeats a run and keeps some of the states it met, and what was done there.

    Following the run's admissions rather than asking its policy again meets the same states
    whatever the policy draws or learns, with forecasts for any horizon.

    Parameters
    ----------
    plan : Plan
    weights : Weights
    keep : ndarray of int64, shape (k,)
        Which decisions to keep, counted from 0.
    """

    source = "step oracle"

    def __init__(self, plan: Plan, weights: Weights, keep: IntArray) -> None:
        self.horizon = weights.horizon
        self.kept: dict[int, tuple[StepInstance, IntArray]] = {}
        self.gammas: list[float] = []
        self.seen = 0
        self._weights, self._turnover = weights, Turnover()
        self._wanted = set(keep.tolist())
        self._worker, self._start = plan

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Do what the run did, and keep the state if it is one of those wanted."""
        self._turnover.look(cluster.step, *census(cluster.table))
        at = np.flatnonzero(self._start[waiting.request] == cluster.step)
        workers = self._worker[waiting.request[at]]
        if self.seen in self._wanted:
            assignment = np.full(len(waiting), -1, np.int64)
            assignment[at] = workers
            self.kept[self.seen] = (self._state(cluster, waiting, at.size), assignment)
        self.seen += 1
        self._turnover.placed(at.size)
        return np.stack((at, workers), axis=1).astype(np.int64)

    def _state(self, cluster: ClusterView, waiting: Waiting, admitted: int) -> StepInstance:
        from brsolver.oracles.step import StepInstance

        w = self._weights
        gamma = self._turnover.gamma if w.gamma is None else w.gamma
        # Forecasts that deserve no belief leave BR-H the present alone.
        gamma = max(gamma * cluster.trust, LEAST_GAMMA)
        self.gammas.append(gamma)
        return StepInstance.from_view(
            cluster,
            waiting,
            horizon=w.horizon,
            gamma=gamma,
            growth=w.growth,
            survival=w.survival and w.horizon > 0,
            # Whoever leaves slots free that it could fill is judged as free to do so.
            hold=admitted < min(len(waiting), int(cluster.room.sum())),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watched:
    """The states that a run met, as far as they are kept to be judged, and what it did there.

    Attributes
    ----------
    decisions : int
        Of the whole run.
    gamma : float
        Mean discount per step.
    numbers : tuple of int
        Which decisions these are, in an order whose every beginning is spread over the run.
    states : tuple of StepInstance
    taken : tuple of ndarray of int64
        A worker, or -1, per waiting request.
    """

    decisions: int
    gamma: float
    numbers: tuple[int, ...]
    states: tuple[StepInstance, ...]
    taken: tuple[IntArray, ...]


def watched(
    held: HeldOut, params: SimulationParams, policy: str, plan: Plan, weights: Weights, total: int
) -> Watched:
    """Repeat a run of `total` decisions and keep a sample of the states it met."""
    from brsolver.simulator import simulate

    recorder = Recorder(plan, weights, spread(total, SAMPLE))
    own = copy.deepcopy(held.predictor)
    simulate(held.trace, recorder, params, predictor=own, policy_name=policy)
    numbers = sorted(recorder.kept)
    order = [numbers[at] for at in spread_order(len(numbers))]
    return Watched(
        decisions=recorder.seen,
        gamma=float(np.mean(recorder.gammas)) if recorder.gammas else GAMMA,
        numbers=tuple(order),
        states=tuple(recorder.kept[at][0] for at in order),
        taken=tuple(recorder.kept[at][1] for at in order),
    )


def spread(total: int, count: int) -> IntArray:
    """Return up to `count` indices below `total`, in the middles of equal parts."""
    count = min(total, count)
    return ((2 * np.arange(count) + 1) * total // (2 * max(count, 1))).astype(np.int64)


def spread_order(count: int) -> IntArray:
    """Return an order of ``0..count-1`` whose every beginning is spread over the whole.

    Bits reversed (van der Corput, 1935).
    """
    bits = max(count - 1, 1).bit_length()
    reversed_bits = [int(f"{at:0{bits}b}"[::-1], 2) for at in range(1 << bits)]
    return np.array([at for at in reversed_bits if at < count], np.int64)
