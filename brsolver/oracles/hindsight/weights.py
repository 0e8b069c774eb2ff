"""What hindsight counts of a run with free admission: whole numbers for steps and barrier time."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isclose
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeWeights:
    """Integer objective ``per_step·K + per_token·Σ_k M(k)``.

    Attributes
    ----------
    per_step, per_token : int
        ``(0, 1)`` is barrier time; ``per_step : per_token = C : t`` is the affine makespan.
    """

    per_step: int = 0
    per_token: int = 1

    @classmethod
    def of_makespan(cls, model: StepTime, request_tokens: int = 0) -> FreeWeights:
        """Scale ``C·K + t·Σ_k M(k)`` to integers, ``C/t`` to the nearest thousandth.

        Parameters
        ----------
        model : StepTime
            Affine, or of three loads that are affine in effective load: nothing shared, nothing
            padded, and a sequence weighs as much as `request_tokens` KV tokens. What prefill
            costs does not matter: hindsight is about decoding.
        request_tokens : int
            KV tokens that a request weighs in ``M(k)`` besides those it holds.
        """
        if reason := _why_not_affine(model, request_tokens):
            raise ParameterError(f"step_time is {model.model!r} with {reason}")
        ratio = (Fraction(model.base) / Fraction(model.per_token)).limit_denominator(1000)
        return cls(per_step=ratio.numerator, per_token=ratio.denominator)


def _why_not_affine(model: StepTime, request_tokens: int) -> str:
    """Say why a makespan is no sum of steps and barrier time, and what would be accepted."""
    if model.model not in {"affine", "loads"} or model.per_token <= 0:
        return (
            f"per_token {model.per_token}, must be 'affine' with a positive per_token for "
            "makespans in hindsight"
        )
    if model.per_mean_sequence or model.per_mean_token or model.graph_sizes or model.all_experts:
        return "shared or padded loads or experts, must have none for makespans in hindsight"
    if not isclose(model.per_sequence, request_tokens * model.per_token, rel_tol=1e-9):
        return (
            f"a sequence of {model.per_sequence / model.per_token:.10g} KV tokens, must be the "
            f"{request_tokens} that a request weighs for makespans in hindsight"
        )
    return ""
