"""The step oracle's models in cvxpy, to be read next to the formulae; tests hold the fast to it.

Slow on purpose: one binary per request and worker, one overflow variable per worker and step of
the horizon, and nothing merged, dropped, aggregated or lifted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brsolver.cluster.view import NO_LIMIT
from brsolver.oracles.backends._load import load

if TYPE_CHECKING:
    from brsolver.oracles.step.evaluate import Objective
    from brsolver.oracles.step.instance import StepInstance


def reference_optimum(
    instance: StepInstance, objective: Objective = "score", *, relax: bool = False
) -> float:
    """Return the optimum of a routing decision, NaN if there is no decision.

    With ``x_{g,i}`` whether request i goes to worker g, ``S_{g,h} = Σ_i (s_i + h·growth)·x_{g,i}``:

    - ``score``: ``max Σ_g Σ_h d_h·(α·S_{g,h} - β·u_{g,h})``, ``u_{g,h} ≥ S_{g,h} - m_{g,h}``,
      ``u ≥ 0`` ("F-score" in ``docs/formulation.md``);
    - ``imbalance``: ``min Σ_h d_h·(G·M_h - Σ_g (L_{g,h} + S_{g,h}))``,
      ``M_h ≥ L_{g,h} + S_{g,h}`` ([BFIO]).
    """
    cp = load("cvxpy")
    x = cp.Variable((instance.workers, instance.prompts.size), boolean=not relax)
    problem = (_score if objective == "score" else _imbalance)(cp, instance, x)
    problem.solve(solver=cp.HIGHS, highs_options={"presolve": "off", "mip_rel_gap": 0.0})
    return float(problem.value) if problem.status == cp.OPTIMAL else float("nan")


def _score(cp: Any, instance: StepInstance, x: Any) -> Any:
    unit = instance.alpha * instance.weight_sum
    tokens = _tokens(cp, instance, x)
    margin = instance.envelope - instance.projected
    over = cp.Variable(margin.shape, nonneg=True)
    weights = instance.weights / unit
    value = cp.sum((instance.alpha * tokens - instance.beta * over) @ weights)
    rules = [*_rules(cp, instance, x), over >= tokens - margin]
    return cp.Problem(cp.Maximize(unit * value), rules)


def _imbalance(cp: Any, instance: StepInstance, x: Any) -> Any:
    load_after = instance.projected + _tokens(cp, instance, x)
    envelope = cp.Variable(instance.weights.size)
    unit = instance.weight_sum
    idle = instance.workers * envelope - cp.sum(load_after, axis=0)
    rules = [*_rules(cp, instance, x), envelope >= instance.envelope]
    rules += [envelope >= load_after[g] for g in range(instance.workers)]
    return cp.Problem(cp.Minimize(unit * (idle @ (instance.weights / unit))), rules)


def _tokens(cp: Any, instance: StepInstance, x: Any) -> Any:
    """``S_{g,h}``, shape (G, H + 1)."""
    horizon = instance.weights.size
    columns = [x @ (instance.prompts + instance.growth * h) for h in range(horizon)]
    return cp.vstack(columns).T


def _rules(cp: Any, instance: StepInstance, x: Any) -> list[Any]:
    rules = [x >= 0, x <= 1, cp.sum(x, axis=0) <= 1, cp.sum(x, axis=1) <= instance.room]
    if instance.admit is not None:
        rules.append(cp.sum(x) == instance.admit)
    bounded = [g for g in range(instance.workers) if instance.token_room[g] < NO_LIMIT]
    kv_tokens = instance.prompts - instance.request_tokens
    rules += [x[g] @ kv_tokens <= int(instance.token_room[g]) for g in bounded]
    return rules
