"""What a step costs, and what is promised, as routers are told: configured, or else found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.cluster.costs import Objectives, StepCosts
from brsolver.hardware.costs import step_costs
from brsolver.hardware.model import step_time_of
from integration.vllm.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.hardware.online import OnlineEstimate
    from brsolver.policy import BasePolicy
    from integration.vllm.config import AdapterConfig, AdapterParams
    from integration.vllm.deployment import Deployment

NOTICED = 0.05
"""By how much what was found must change to be handed over: it is a new view for policies."""
PATIENCE = 2000
"""Steps after which what is still not identified is said."""


def configured(config: AdapterConfig, budget: int) -> StepCosts | None:
    """Return what a step costs by the hardware that is named; None if none is.

    Parameters
    ----------
    config : AdapterConfig
    budget : int
        Tokens that a rank computes in a step; 0 where it computes no prompts.

    Raises
    ------
    UnknownNameError, ParameterError
        There is no such hardware, or its file is none.
    """
    hardware = config.params.hardware
    if hardware is None:
        return None
    return step_costs(step_time_of(hardware, config.folder), budget=budget)


def objectives_of(params: AdapterParams) -> Objectives:
    """Return what is promised to those who wait."""
    return Objectives(ttft_s=_seconds(params.slo_ttft_ms), tpot_s=_seconds(params.slo_tpot_ms))


def remarks(
    policy: BasePolicy, known: Deployment, *, priced: bool, named: bool = False
) -> Iterator[str]:
    """Yield what an operator must know of a policy that holds, a line each.

    Parameters
    ----------
    policy : BasePolicy
    known : Deployment
    priced : bool
        Whether it will ever be told what a step costs, a prefill token included.
    named : bool
        Whether hardware is named, and what was found out therefore does not count.
    """
    if not policy.holds_s:
        return
    if known.interval > 1:
        yield (
            f"--prefill-schedule-interval is {known.interval}: requests wait for that after they "
            "have been held; leave it at 1 with this policy"
        )
    if not priced:
        yield _unpriced(known, named=named)


def _unpriced(known: Deployment, *, named: bool) -> str:
    if not named:
        return (
            "what a step costs is not found out here, and nothing is held for it; name the "
            "hardware in the TOML file"
        )
    if not known.budget:
        return "vLLM does not say how many tokens a step computes, and nothing is held for it"
    return (
        "by the hardware that is named a prefill token costs its rank nothing, and nothing is held "
        "for it; name hardware with per_prefill_token in the TOML file"
    )


class Pricing:
    """Costs by what is found out while serving, once it is to be trusted.

    That asks for what a KV token and a prefill token cost: by these two routers weigh a wave.
    What of a prefill token all ranks pay is not told apart from what the slowest one does.

    Parameters
    ----------
    budget : int
        Tokens that a rank computes in a step; 0 if vLLM does not say.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._costs: StepCosts | None = None
        self._said: set[str] = set()

    def learned(
        self, estimate: OnlineEstimate, policy: BasePolicy, *, computes: bool
    ) -> StepCosts | None:
        """Return what a step costs now; None as long as that is known in part only.

        Parameters
        ----------
        estimate : OnlineEstimate
        policy : BasePolicy
            Who waits for it: of a policy that holds nothing, nothing need be said.
        computes : bool
            Whether ranks compute prompts.
        """
        unknown = self._unknown(estimate, computes=computes)
        if not unknown:
            fresh = _costs(estimate, self._budget if computes else 0)
            if self._costs is None or _changed(self._costs, fresh):
                self._costs = fresh
        if policy.holds_s:
            self._say(unknown, estimate.steps)
        return self._costs

    def _unknown(self, estimate: OnlineEstimate, *, computes: bool) -> list[str]:
        _, kv_token, prefill_token = estimate.identified
        known = {"a KV token": kv_token, "a prefill token": prefill_token or not computes}
        return [name for name, told in known.items() if not told]

    def _say(self, unknown: list[str], steps: int) -> None:
        found = self._costs
        if found is not None:
            self._once(
                f"found out what a step costs: {1e6 * found.per_kv_token_s:.3g} ms per 1,000 KV "
                f"tokens, {1e3 * found.per_prefill_token_s:.3g} ms per prefill token"
            )
        elif steps >= PATIENCE:
            self._once(
                f"{PATIENCE:,} steps did not tell what {' and '.join(unknown)} costs: nothing is "
                "held for it; name the hardware in the TOML file"
            )

    def _once(self, text: str) -> None:
        key = text.partition(":")[0]
        if key not in self._said:
            self._said.add(key)
            logger.info("brsolver: %s", text)


def _costs(estimate: OnlineEstimate, budget: int) -> StepCosts:
    return StepCosts(
        base_s=estimate.base,
        per_sequence_s=estimate.per_sequence,
        per_kv_token_s=estimate.per_token,
        per_prefill_token_s=estimate.per_prefill_token,
        budget=budget,
    )


def _changed(old: StepCosts, new: StepCosts) -> bool:
    names = ("base_s", "per_sequence_s", "per_kv_token_s", "per_prefill_token_s", "budget")
    pairs = [(getattr(old, name), getattr(new, name)) for name in names]
    return any(abs(after - before) > NOTICED * before for before, after in pairs)


def _seconds(promised_ms: float | None) -> float | None:
    return None if promised_ms is None else promised_ms / 1000.0
