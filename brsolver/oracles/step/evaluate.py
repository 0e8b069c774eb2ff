"""Objectives and feasibility of a step decision, from their definitions and nothing else.

Shares no code with the models, kernels and bounds it judges: plain Python integers.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from brsolver.oracles.step.instance import StepInstance

Objective = Literal["score", "imbalance"]


def violation(instance: StepInstance, assignment: Sequence[int]) -> str:
    """Say what makes a decision impossible; empty if nothing does.

    Parameters
    ----------
    instance : StepInstance
    assignment : sequence of int, shape (n,)
        Worker of each waiting request, -1 to hold it.
    """
    if len(assignment) != instance.prompts.size:
        return f"{len(assignment)} decisions for {instance.prompts.size} requests"
    given = Counter(int(g) for g in assignment if g >= 0)
    for g, count in given.items():
        if g >= instance.workers or count > instance.room[g]:
            return f"worker {g} is given {count} requests beyond its room"
    tokens = _tokens(instance, assignment)
    for g in given:
        held = tokens[g] - instance.request_tokens * given[g]
        if held > instance.token_room[g]:
            return f"worker {g} is given {held} KV tokens for {instance.token_room[g]}"
    if instance.admit is not None and given.total() != instance.admit:
        return f"{given.total()} requests are admitted, must be {instance.admit}"
    return ""


def objective_value(instance: StepInstance, assignment: Sequence[int], objective: Objective) -> int:
    """Return the objective of a decision.

    ``score``: ``Σ_g Σ_h d_h·(α·S_{g,h} - β·(S_{g,h} - m_{g,h})_+)``, to maximise, see "F-score"
    in ``docs/formulation.md``.
    ``imbalance``: ``Σ_h d_h·(G·M'_h - Σ_g L'_{g,h})`` with ``L'_{g,h} = L_{g,h} + S_{g,h}`` and
    ``M'_h = max_g L'_{g,h}`` ([BFIO]), to minimise. ``S_{g,h}`` is the sum of the tokens given
    to g, under growth h more per request.
    """
    return (_score if objective == "score" else _imbalance)(instance, assignment)


def _score(instance: StepInstance, assignment: Sequence[int]) -> int:
    tokens, requests = _tokens(instance, assignment), _requests(instance, assignment)
    loads = instance.projected.tolist()
    # A worker that is given nothing scores 0: its load is at most the envelope.
    served = [(loads[g], tokens[g], requests[g]) for g in range(len(loads)) if requests[g]]
    value = 0
    for h, (weight, column) in enumerate(_by_step(instance)):
        envelope = max(column)
        step = instance.growth * h
        for load, token, request in served:
            given = token + step * request
            over = max(given - (envelope - load[h]), 0)
            value += weight * (instance.alpha * given - instance.beta * over)
    return value


def _imbalance(instance: StepInstance, assignment: Sequence[int]) -> int:
    tokens, requests = _tokens(instance, assignment), _requests(instance, assignment)
    value = 0
    for h, (weight, column) in enumerate(_by_step(instance)):
        step = instance.growth * h
        after = [
            load + token + step * request
            for load, token, request in zip(column, tokens, requests, strict=True)
        ]
        value += weight * (instance.workers * max(after) - sum(after))
    return value


def _by_step(instance: StepInstance) -> Iterator[tuple[int, list[int]]]:
    """Yield the weight of each step and all workers' loads at it."""
    return zip(instance.weights.tolist(), instance.projected.T.tolist(), strict=True)


def _tokens(instance: StepInstance, assignment: Sequence[int]) -> list[int]:
    tokens = [0] * instance.workers
    for prompt, g in zip(instance.prompts.tolist(), assignment, strict=True):
        if g >= 0:
            tokens[g] += prompt
    return tokens


def _requests(instance: StepInstance, assignment: Sequence[int]) -> list[int]:
    requests = [0] * instance.workers
    for g in assignment:
        if g >= 0:
            requests[g] += 1
    return requests
