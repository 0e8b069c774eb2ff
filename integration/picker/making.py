"""The session that the picker decides with, made from its parameters, all of it compiled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from brsolver._limits import MAX_REQUEST_TOKENS
from brsolver.cluster.costs import Objectives
from brsolver.cluster.session import ClusterSession
from brsolver.cluster.state import ClusterState
from brsolver.hardware.costs import step_costs
from brsolver.hardware.model import step_time_of
from brsolver.registry import PolicySpec, PredictorSpec
from brsolver.simulator.live import LiveRanks
from brsolver.simulator.prefill import Prefill
from brsolver.wiring import wire
from integration.routing.identities import Identities
from integration.routing.warming import compile_parts, keyed

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.cluster.costs import StepCosts
    from brsolver.cluster.session import Others
    from brsolver.hardware.step_time import StepTime
    from integration.picker.params import PickerParams
    from integration.picker.workers import Workers

_SLOTS, _PROMPT, _STEPS = 2, 3, 4


class Made(NamedTuple):
    """What the picker decides with.

    Attributes
    ----------
    session : ClusterSession
    identities : Identities
    step_time : StepTime
    prefill : Prefill
    """

    session: ClusterSession
    identities: Identities
    step_time: StepTime
    prefill: Prefill

    def costs(self, scale: float, *, apart: bool = False) -> StepCosts:
        """Return what a step costs where all take `scale` times as long as the hardware says.

        Parameters
        ----------
        scale : float
        apart : bool
            Whether prompts are computed without anybody waiting for them.
        """
        budget = self.prefill.budget if self.prefill.colocated and not apart else 0
        costs = step_costs(self.step_time, budget=budget)
        names = [name for name in costs.__dataclass_fields__ if name.endswith("_s")]
        return replace(costs, **{name: scale * getattr(costs, name) for name in names})


def made_ready(params: PickerParams, folder: Path, workers: Workers, *, others: Others) -> Made:
    """Make a session for some workers.

    Parameters
    ----------
    params : PickerParams
    folder : Path
        What a relative path of hardware is seen from.
    workers : Workers
    others : Others
        What is at the workers besides.

    Raises
    ------
    BrsolverError
        There is no such policy, predictor or hardware, or it cannot be made.
    """
    policy, predictor = PolicySpec.parse(params.policy), PredictorSpec.parse(params.predictor)
    step_time = step_time_of(params.hardware, folder)
    prefill = _prefill(params)
    parts = wire(policy, predictor, seed=params.seed)
    compile_parts(policy, predictor, parts, seed=params.seed, refresh_steps=params.refresh_steps)
    _compile_ranks(step_time, prefill)
    identities = Identities(keyed=keyed(parts, predictor))
    session = ClusterSession(
        parts.policy,
        parts.predictor,
        [worker.slots for worker in workers],
        capacity=[worker.capacity for worker in workers],
        refresh_steps=params.refresh_steps,
        columns=identities.columns,
        others=others,
        request_tokens=_weight(params, step_time),
        objectives=Objectives(
            ttft_s=_seconds(params.slo_ttft_ms), tpot_s=_seconds(params.slo_tpot_ms)
        ),
    )
    made = Made(session, identities, step_time, prefill)
    session.costs = made.costs(1.0)
    return made


def _prefill(params: PickerParams) -> Prefill:
    return Prefill(mode="colocated", budget=params.budget) if params.prefill else Prefill()


def _weight(params: PickerParams, step_time: StepTime) -> int:
    if params.request_tokens != "auto":
        return params.request_tokens
    return min(step_time.request_tokens, MAX_REQUEST_TOKENS)


def _seconds(promised_ms: float | None) -> float | None:
    return None if promised_ms is None else promised_ms / 1000.0


def _compile_ranks(step_time: StepTime, prefill: Prefill) -> None:
    """Let ranks do all they can do, in miniature."""
    ranks = LiveRanks(ClusterState([_SLOTS] * 2), step_time, prefill=prefill)
    for request in range(_STEPS):
        ranks.send(request, request % 2, _PROMPT)
        ranks.step()
    ranks.first_now(_STEPS - 1)
    ranks.leave(0)
    ranks.step()
    ranks.drop(1)
    ranks.state.remove_worker(1)
