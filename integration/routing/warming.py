"""Compiling all that a policy and its predictor need, before anybody is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.cluster.warmup import warm_up
from brsolver.wiring import warmed_up_with, wire
from integration.routing.identities import Identities

if TYPE_CHECKING:
    from brsolver.policy import BasePolicy
    from brsolver.predictors import BasePredictor
    from brsolver.registry import PolicySpec, PredictorSpec
    from brsolver.wiring import Parts

BY_AGE_ALONE = "survival"


def keyed(parts: Parts, predictor: PredictorSpec) -> bool:
    """Tell whether forecasts may go by the keys of requests, not by their age alone."""
    return parts.predictor is not None and predictor.name != BY_AGE_ALONE


def compile_parts(
    policy: PolicySpec,
    predictor: PredictorSpec,
    parts: Parts,
    *,
    seed: int,
    refresh_steps: int,
) -> None:
    """Compile or load every kernel that a session needs, by a run of it in miniature.

    Parameters
    ----------
    policy, predictor : PolicySpec, PredictorSpec
    parts : Parts
        Made of them; they notice nothing.
    seed : int
        What others are made with, where these cannot be copied.
    refresh_steps : int
        As of `ClusterSession`.
    """

    def anew() -> tuple[BasePolicy, BasePredictor | None]:
        made = wire(policy, predictor, seed=seed)
        return warmed_up_with(policy, made.policy), made.predictor

    warm_up(
        warmed_up_with(policy, parts.policy),
        parts.predictor,
        anew=anew,
        refresh_steps=refresh_steps,
        columns=Identities(keyed=keyed(parts, predictor)).columns,
    )
