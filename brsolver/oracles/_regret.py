"""Regret per decision: what each routing decision of a run missed by its own objective."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from brsolver.oracles.step import Objective, StepInstance
    from brsolver.policy import ClusterView, Decision, Policy, Waiting
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.model import Trace

IntArray = NDArray[np.int64]

OBJECTIVES: tuple[Objective, ...] = ("score", "imbalance")
TURNS = 40
"""Subgradient steps per decision: a run has thousands of decisions."""


@dataclass(slots=True)
class _Worst:
    objective: Objective
    regret: list[int] = field(default_factory=list)
    most: int = -1
    state: StepInstance | None = None
    taken: IntArray | None = None

    def note(self, regret: int, instance: StepInstance, assignment: IntArray) -> None:
        self.regret.append(regret)
        if regret > self.most:
            self.most, self.state, self.taken = regret, instance, assignment

    def summary(self, policy: str) -> dict[str, Any]:
        values = np.array(self.regret, np.int64)
        return {
            "mean": float(values.mean()),
            "p95": float(np.percentile(values, 95)),
            "worst": int(values.max()),
            "worst_state": self._saved(policy),
        }

    def _saved(self, policy: str) -> dict[str, Any] | None:
        """Return the state as `StepInstance.load` reads it, and what the policy did there."""
        if self.state is None or self.taken is None:
            return None
        taken = {
            "policy": policy,
            "objective": self.objective,
            "regret": self.most,
            "assignment": self.taken.tolist(),
        }
        return {**self.state.to_json(), "taken": taken}


class WatchedPolicy:
    """Routes as another policy does and bounds what each of its decisions missed.

    Parameters
    ----------
    inner : Policy
    decisions : int
        Decisions to expect; those examined are spread over them as time allows.
    budget_s : float
    policy : str
        Its name, for the states that are saved.
    """

    source = "step oracle"

    def __init__(self, inner: Policy, decisions: int, budget_s: float, policy: str) -> None:
        self.inner, self.policy = inner, policy
        self.horizon = int(getattr(inner, "horizon", 0))
        self.params = getattr(inner, "params", None)
        self.worst: dict[Objective, _Worst] = {name: _Worst(name) for name in OBJECTIVES}
        self.examined = 0
        self._pace = budget_s / max(decisions, 1)
        self._seen, self._spent = 0, 0.0

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        """Route, and look at the decision while the budget is not ahead of the run."""
        decision = self.inner.route(cluster, waiting)
        self._seen += 1
        if self._spent <= self._pace * self._seen:
            began = time.perf_counter()
            self._examine(cluster, waiting, decision)
            self._spent += time.perf_counter() - began
        return decision

    def _examine(self, cluster: ClusterView, waiting: Waiting, decision: Decision) -> None:
        from brsolver.oracles.step import StepInstance, lagrangian_bound, objective_value

        assignment = np.full(len(waiting), -1, np.int64)
        for at, g in decision:
            assignment[at] = g
        held = int((assignment < 0).sum()) > max(0, len(waiting) - int(cluster.room.sum()))
        instance = StepInstance.from_view(cluster, waiting, hold=held)
        self.examined += 1
        for name in OBJECTIVES:
            value = objective_value(instance, assignment.tolist(), name)
            found = lagrangian_bound(instance, name, incumbent=assignment, turns=TURNS)
            bound = value if found.dual_bound is None else int(found.dual_bound)
            self.worst[name].note(abs(bound - value), instance, assignment)

    def summary(self) -> dict[str, Any]:
        """Return regret per objective in KV tokens, at most; the state of the worst decision."""
        if not self.examined:
            return {}
        figures: dict[str, Any] = {
            name: worst.summary(self.policy) for name, worst in self.worst.items()
        }
        return {"decisions": self._seen, "examined": self.examined, **figures}


def run_regret(
    trace: Trace,
    spec: str,
    params: SimulationParams,
    *,
    decisions: int,
    predictor: str | None,
    budget_s: float,
) -> dict[str, Any]:
    """Repeat a policy's run and bound what its decisions missed at horizon 0.

    Regret is the distance from a Lagrangian bound of the step's optimum, so at most what is
    printed; ``score`` is the sum of F, ``imbalance`` is ``G·M' - Σ_g L'_g`` right after routing.

    Parameters
    ----------
    trace : Trace
    spec : str
        Policy specification.
    params : SimulationParams
    decisions : int
        How many decisions the run takes.
    predictor : str or None
    budget_s : float
        Seconds for the bounds; decisions are left out evenly where it does not suffice.
    """
    from brsolver.simulator import simulate

    watched = WatchedPolicy(_make(spec, params, trace, predictor), decisions, budget_s, spec)
    simulate(trace, watched, params, predictor=predictor, policy_name=spec)
    return watched.summary()


def _make(spec: str, params: SimulationParams, trace: Trace, predictor: str | None) -> Policy:
    from brsolver.registry import make_policy, make_predictor, policy_class, wants
    from brsolver.simulator.streams import stream
    from brsolver.specs import parse_spec

    name, values = parse_spec(spec)
    context: dict[str, object] = {"rng": stream(params.seed, "policy")}
    if wants(policy_class(name), "predictor"):
        source, settings = parse_spec(predictor or "survival")
        context["predictor"] = make_predictor(
            source,
            settings,
            rng=stream(params.seed, "predictor"),
            output_tokens=trace.output_tokens,
        )
    return make_policy(name, values, **context)
