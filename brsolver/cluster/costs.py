"""What a step costs, as far as routers need to know: seconds per unit of load.

Whoever drives a session sets them (`brsolver.cluster.session.ClusterSession.costs`): the simulator
from the step time it charges, a server from a calibration or from what it learns while serving.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from brsolver.errors import ParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """Seconds that a step takes per unit of the ranks' loads.

    A step lasts ``base_s`` more than what the slowest rank pays for its own loads and all ranks
    for the mean ones; see `brsolver.hardware.step_time.StepTime`.

    Attributes
    ----------
    base_s : float
        Seconds per step at zero load.
    per_sequence_s, per_kv_token_s, per_prefill_token_s : float
        Bound to the rank: per decoding sequence, KV token read, prefill token computed.
    per_mean_sequence_s, per_mean_kv_token_s, per_mean_prefill_token_s : float
        The same of the mean over live ranks, which all pay.
    budget : int
        Tokens that a rank computes in a step; 0 where prompts are not computed there.

    Raises
    ------
    ParameterError
        One of them is negative or no finite number.
    """

    base_s: float = 0.0
    per_sequence_s: float = 0.0
    per_kv_token_s: float = 0.0
    per_prefill_token_s: float = 0.0
    per_mean_sequence_s: float = 0.0
    per_mean_kv_token_s: float = 0.0
    per_mean_prefill_token_s: float = 0.0
    budget: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (math.isfinite(value) and value >= 0):
                raise ParameterError(f"{each.name} is {value}, must be a number of 0 or more")

    @property
    def prices_prefill(self) -> bool:
        """Whether prompts are computed on the ranks, and what that costs is known."""
        return self.budget > 0 and self.per_prefill_token_s > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What the operator promises, for routers that trade one for the other.

    Attributes
    ----------
    ttft_s, tpot_s : float or None
        Seconds to a request's first token, and per token after it; None where nothing is
        promised.

    Raises
    ------
    ParameterError
        One of them is not positive.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ParameterError(f"{each.name} is {value}, must be a positive number")


NOTHING_PROMISED = Objectives()
