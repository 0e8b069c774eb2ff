"""The step oracle: exact best assignments at one routing decision, and bounds on them."""

from brsolver.oracles.step.evaluate import Objective, objective_value, violation
from brsolver.oracles.step.instance import StepInstance
from brsolver.oracles.step.lagrangian import lagrangian_bound
from brsolver.oracles.step.models import imbalance_model, score_model
from brsolver.oracles.step.search import heuristic, local_search
from brsolver.oracles.step.solve import solve_step
from brsolver.oracles.step.trajectory import StepRelaxer

__all__ = [
    "Objective",
    "StepInstance",
    "StepRelaxer",
    "heuristic",
    "imbalance_model",
    "lagrangian_bound",
    "local_search",
    "objective_value",
    "score_model",
    "solve_step",
    "violation",
]
