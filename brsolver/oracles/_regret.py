"""Regret per decision: what each routing decision of a run missed by two objectives."""

from __future__ import annotations

import copy
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brsolver.policy import BasePolicy
from brsolver.routers._br_kernels import census
from brsolver.routers._discounting import Turnover

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.cluster.view import ClusterView, Decision, Waiting
    from brsolver.oracles.step import Objective, StepInstance
    from brsolver.oracles.step.judge import Judgement
    from brsolver.predictors import BasePredictor
    from brsolver.registry import PredictorSpec
    from brsolver.results.result import SimulationResult
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]

OBJECTIVES: tuple[Objective, ...] = ("score", "imbalance")
SAMPLE = 512
"""Decisions of a run that are kept to be judged: a run has thousands."""

GAMMA = 0.86
"""Discount per step where the policy names none; [BFIO]'s."""

LEAST_GAMMA = 1e-9

LEAST_S, MOST_S = 0.05, 1.0
"""Least and most seconds for one decision and objective."""

WARM_S = 60.0
"""More than compiling takes; the tiny decision itself takes milliseconds."""

SHARE = 50
"""Decisions that the budget must suffice for, whatever each takes."""


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


class Recorder(BasePolicy):
    """Repeats a run and keeps some of the states it met, and what was done there.

    Following the run's admissions rather than asking its policy again meets the same states
    whatever the policy draws or learns, with forecasts for any horizon.

    Parameters
    ----------
    run : SimulationResult
    weights : Weights
    keep : ndarray of int64, shape (k,)
        Which decisions to keep, counted from 0.
    """

    source = "step oracle"

    def __init__(self, run: SimulationResult, weights: Weights, keep: IntArray) -> None:
        self.horizon = weights.horizon
        self.kept: dict[int, tuple[StepInstance, IntArray]] = {}
        self.gammas: list[float] = []
        self.seen = 0
        self._weights, self._turnover = weights, Turnover()
        self._wanted = set(keep.tolist())
        self._worker, self._start = run.requests.worker, run.requests.start_step

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


@dataclass(slots=True)
class _Tally:
    """Judgements of one policy by one objective, in KV tokens."""

    policy: str
    objective: Objective
    value: list[float] = field(default_factory=list)
    regret: list[float] = field(default_factory=list)
    surely: list[float] = field(default_factory=list)
    proven: int = 0
    origins: Counter[str] = field(default_factory=Counter)
    worst_state: dict[str, Any] | None = None

    def note(self, found: Judgement, instance: StepInstance, taken: IntArray) -> None:
        # Per unit of weight, so that horizons compare: at horizon 0 it is the imbalance itself.
        unit = instance.weight_sum
        regret = found.regret / unit
        if not self.regret or regret > max(self.regret):
            self.worst_state = {**instance.to_json(), "taken": self._taken(regret, taken)}
        self.value.append(found.value / unit)
        self.regret.append(regret)
        self.surely.append(found.surely / unit)
        self.proven += found.proven
        self.origins[found.origin] += 1

    def _taken(self, regret: float, taken: IntArray) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "objective": self.objective,
            "regret": regret,
            "assignment": taken.tolist(),
        }

    def summary(self) -> dict[str, Any]:
        regret = np.array(self.regret)
        return {
            "mean": float(regret.mean()),
            "median": float(np.median(regret)),
            "p95": float(np.percentile(regret, 95)),
            "worst": float(regret.max()),
            "at_least": float(np.mean(self.surely)),
            "taken": float(np.mean(self.value)),
            "proven": self.proven,
            "origins": dict(self.origins.most_common()),
            "worst_state": self.worst_state,
        }


class _Watched:
    """A run, the decisions kept of it and what was found of them."""

    def __init__(
        self, trace: Trace, run: SimulationResult, source: BasePredictor | PredictorSpec, w: Weights
    ) -> None:
        from brsolver.simulator import simulate

        total = run.metrics.decisions
        recorder = Recorder(run, w, spread(total, SAMPLE))
        own = copy.deepcopy(source)
        simulate(trace, recorder, run.params, predictor=own, policy_name=run.policy)
        self.weights, self.decisions = w, recorder.seen
        self.gamma = float(np.mean(recorder.gammas)) if recorder.gammas else GAMMA
        order = spread_order(len(recorder.kept))
        kept = [recorder.kept[at] for at in sorted(recorder.kept)]
        self.left = [kept[at] for at in order][::-1]
        self.tallies = [_Tally(run.policy, name) for name in OBJECTIVES]

    def judge_next(self, limit_s: float) -> None:
        from brsolver.oracles.step.judge import judge

        instance, taken = self.left.pop()
        for tally in self.tallies:
            found = judge(instance, taken, tally.objective, time_limit_s=limit_s)
            tally.note(found, instance, taken)

    def summary(self) -> dict[str, Any]:
        examined = len(self.tallies[0].regret)
        if not examined:
            return {}
        return {
            "decisions": self.decisions,
            "examined": examined,
            "horizon": self.weights.horizon,
            "gamma": self.gamma,
            **{tally.objective: tally.summary() for tally in self.tallies},
        }


def regrets(
    trace: Trace,
    runs: Sequence[SimulationResult],
    *,
    predictor: BasePredictor | PredictorSpec,
    budget_s: float,
    horizon: int | None = None,
) -> list[dict[str, Any]]:
    """Repeat runs and say what a sample of their decisions missed.

    Regret is in KV tokens per unit of weight ``Σ_h d_h``: ``score`` is ``Σ_g F_g`` with α = 1 and
    β = G, ``imbalance`` is ``G·M'_h - Σ_g L'_{g,h}``. Where the best decision is not proven, the
    regret is the distance from the bound, so at most what is said; ``at_least`` is the mean
    distance from the best decision known. The decisions are spread evenly over each run, and as
    many are judged of each as the budget allows.

    Parameters
    ----------
    trace : Trace
    runs : sequence of SimulationResult
    predictor : BasePredictor or PredictorSpec
        Where forecasts come from, as the runs had it before they began; it is copied for each.
    budget_s : float
        Seconds for all of them.
    horizon : int, optional
        Steps of the projection; None is each policy's own, 0 if it has none.
    """
    watched = [_Watched(trace, run, predictor, Weights.of(run, horizon)) for run in runs]
    _warm_up()
    parts = len(OBJECTIVES) * len(watched) * SHARE
    limit_s = min(max(budget_s / parts, LEAST_S), MOST_S)
    ends = time.perf_counter() + budget_s
    first = True
    # One of each in turn: whenever time is up, all have about as many, spread over their runs.
    while any(one.left for one in watched) and (first or time.perf_counter() < ends):
        for one in watched:
            if one.left and (first or time.perf_counter() < ends):
                one.judge_next(limit_s)
        first = False
    return [one.summary() for one in watched]


def _warm_up() -> None:
    """Judge a tiny decision, so that the budget buys judgements and not compilation."""
    from brsolver.cluster.view import NO_LIMIT
    from brsolver.oracles.step import StepInstance, heuristic
    from brsolver.oracles.step.judge import judge

    tiny = StepInstance(
        projected=np.array([[40, 30], [35, 31], [37, 36]]),
        room=np.array([2, 2, 1]),
        token_room=np.full(3, NO_LIMIT),
        prompts=np.array([3, 5, 8, 13, 21, 2]),
        weights=np.array([2, 1]),
        beta=3,
        admit=5,
    )
    for objective in OBJECTIVES:
        judge(tiny, heuristic(tiny), objective, time_limit_s=WARM_S)


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
