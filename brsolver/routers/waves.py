"""BR-T, BalanceRoute in time: where requests run, and when they are released."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from brsolver.cluster.view import (
    QUEUED,
    ROOM,
    RUNNING,
    SLOTS,
    VIEW_ROWS,
    ClusterView,
    IntArray,
    Waiting,
)
from brsolver.policy import BasePolicy
from brsolver.routers._br_kernels import census
from brsolver.routers._discounting import Turnover
from brsolver.routers._holding import Holding, balanced, lowered, slowdown
from brsolver.routers._kept import Kept
from brsolver.routers._outlook import Outlook
from brsolver.routers._returned import with_returned
from brsolver.routers._wave_kernels import Plan, plan_wave
from brsolver.routers._window_kernels import ends_at
from brsolver.routers.balance import overdue
from brsolver.routers.params import BRRampParams
from brsolver.routers.ramp import BRRamp
from brsolver.routers.wave_params import BRTParams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from brsolver.cluster.costs import StepCosts

    BoolArray = NDArray[np.bool_]

_NOBODY: IntArray = np.zeros((0, 2), np.int64)
_NOTHING_CACHED: IntArray = np.zeros((0, 0), np.int64)
_NO_TABLE: IntArray = np.zeros((VIEW_ROWS, 1), np.int64)
_NO_PROMPTS: IntArray = np.zeros(0, np.int64)
_KEPT = 0.9
"""Of a promised first token: attention over what comes before a token is in no estimate."""
_SHORT = 0.8
"""Of a promised time per token: where steps take longer, no first token is kept in reserve."""

_NOTHING_TO_HOLD_FOR = (
    "br-t held nothing: prompts were computed on the ranks, but by this step time a prefill token "
    "costs its rank nothing"
)


class BRT(BasePolicy):
    """Routing and release by the time that the barrier costs.

    Where prompts are prefilled on the decode ranks, a chunk on one rank is waited for by all.
    Requests that could run are therefore released in waves, in which the ranks prefill together,
    each request where it adds least to the barrier: ``c_P·(P_g + p - max_j P_j)_+`` for the
    backlogs P of prefill tokens and ``τ·c_L·(L_g + s - max_j L_j)_+`` for loads, which weigh until
    the next departure lets them be corrected. What ends no later than the largest backlog under
    way goes at once. The rest waits until holding has cost those held as much as the wave would
    cost those that run (`brsolver.routers._holding.Holding`): docs/br-t.md.

    Where prompts are prefilled elsewhere nothing is held, and loads alone decide, as in `BRRamp`.

    With ``growth="survival"`` loads are those that forecasts expect in the steps to come, with
    their growth, and the weight of a load until the next departure is spread over these steps.

    Parameters
    ----------
    params : BRTParams, optional
    """

    __slots__ = (
        "_cached",
        "_elsewhere",
        "_free",
        "_holding",
        "_kappa",
        "_kept",
        "_outlook",
        "_pairs",
        "_seconds",
        "_turnover",
        "holds_s",
        "horizon",
        "params",
    )

    Params: ClassVar[type] = BRTParams
    asks_cached = True
    source = "this project, docs/br-t.md"

    def __init__(self, params: BRTParams | None = None) -> None:
        self.params: BRTParams = params or BRTParams()
        self._elsewhere = BRRamp(BRRampParams(patience=self.params.patience))
        self._free = False
        self._turnover = Turnover(opportunities=1.0)
        self._holding = Holding()
        self._kept = Kept()
        self.holds_s = self.params.hold_s
        self._kappa = self.params.kappa
        self._pairs: IntArray = np.zeros((64, 2), np.int64)
        survival = self.params.growth == "survival"
        self.horizon = self.params.horizon if survival else 0
        self._outlook = Outlook(self.horizon)
        self._seconds = np.zeros(2)
        self._cached = _NOTHING_CACHED
        # Asked where a first token is promised, and no warm-up promises any: loaded here.
        ends_at(_NO_TABLE, _NO_PROMPTS, self._cached, self._pairs[:0])

    @property
    def kappa(self) -> float:
        """What holding weighs now."""
        return self._kappa

    def route(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        """Place what delays no other request, and all if the wave is due; see `brsolver.Policy`."""
        cluster, costs = with_returned(cluster), cluster.costs
        if costs is None or not costs.prices_prefill:
            self._free = costs is not None and costs.budget > 0
            return self._by_loads(cluster, waiting)
        self._look(cluster)
        plan = self._plan(cluster, waiting, costs)
        chosen = plan.placements if cluster.immediate else self._released(cluster, waiting, plan)
        self._turnover.placed(chosen)
        return self._pairs[:chosen].copy() if chosen else _NOBODY

    def _by_loads(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        if not self.horizon:
            return self._elsewhere.route(cluster, waiting)
        self._look(cluster)
        seen = self._outlook.expected(cluster, self._turnover)
        chosen = self._elsewhere.route(seen, waiting)
        self._turnover.placed(chosen.shape[0])
        return chosen

    def _look(self, cluster: ClusterView) -> None:
        live, present = census(cluster.table)
        self._turnover.look(cluster.step, live, present)

    def notes(self) -> Sequence[str]:
        """Say what was held, what that cost and what for; or why nothing could be."""
        told = self._holding.tally
        if not told.waves:
            return (_NOTHING_TO_HOLD_FOR,) if self._free else ()
        return (
            f"br-t released {told.released:,} requests in {told.waves:,} waves and {told.filled:,} "
            f"while others prefilled; it held requests that could run for {told.held_s:,.1f} s "
            f"altogether, and the waves kept ranks waiting for {told.stalled_s:,.1f} s",
        )

    def tally(self) -> Mapping[str, float]:
        """Return waves, who was released, and seconds held and stalled; see `Tally`."""
        return asdict(self._holding.tally)

    def _plan(self, cluster: ClusterView, waiting: Waiting, costs: StepCosts) -> Plan:
        count = len(waiting)
        if self._pairs.shape[0] < count:
            self._pairs = np.zeros((2 * count, 2), np.int64)
        table = _with_a_slot(cluster.table) if cluster.immediate else cluster.table
        told = cluster.cached is not None
        self._cached = cluster.cached_tokens(waiting) if told else _NOTHING_CACHED
        loads, self._seconds = self._outlook.seconds(cluster, costs, self._turnover)
        return plan_wave(
            table,
            loads,
            waiting.prompt_tokens,
            self._cached,
            cluster.request_tokens,
            int(self.horizon > 0),
            waiting.since,
            overdue(cluster, self.params.patience),
            self._seconds,
            self._pairs,
        )

    def _released(self, cluster: ClusterView, waiting: Waiting, plan: Plan) -> int:
        """Return how many of a plan's placements are made now."""
        holding, rest = self._holding, plan.placements - plan.fills
        holding.look(cluster.step, cluster.clock_s, idle=plan.running == 0)
        self._watch(cluster, plan)
        holding.tally.filled += plan.fills
        alone = plan.placements == len(waiting)
        holding.growth.grown(rest, alone=alone)
        holding.growth.placed(plan.fills)
        if not rest:
            holding.hold(0, plan.running)
            return plan.fills
        costs_s = max(plan.lost * self._seconds.item(0), 0.0)
        paid = self._paid(waiting, plan, costs_s)
        if paid or self._must(cluster, waiting, plan, costs_s):
            # A wave that costs nobody anything goes at once, whatever κ is.
            decided = paid and costs_s > 0 and plan.running > 0
            self._adapt(cluster, waiting, plan, decided=decided)
            holding.release(rest, costs_s)
            holding.growth.placed(rest)
            return plan.placements
        holding.hold(rest, plan.running)
        return plan.fills

    def _paid(self, waiting: Waiting, plan: Plan, costs_s: float) -> bool:
        """Tell whether holding has cost what the wave would, or could only cost more each."""
        holding, rest = self._holding, plan.placements - plan.fills
        alone = plan.placements == len(waiting)
        weighs_s = self._weighs_s(plan, costs_s, alone=alone)
        if holding.spent >= weighs_s:
            return True
        return alone and holding.stalled(rest, plan.running, weighs_s)

    def _must(self, cluster: ClusterView, waiting: Waiting, plan: Plan, costs_s: float) -> bool:
        """Tell whether a wave goes that holding has not paid for."""
        if plan.running == 0 or self._holding.held_s(cluster.clock_s) >= self.params.hold_s:
            return True
        return self._saves(cluster, waiting, plan, costs_s)

    def _weighs_s(self, plan: Plan, costs_s: float, *, alone: bool) -> float:
        """Return what a wave's seconds weigh; `alone` as of `Growth.grown`."""
        typical = slowdown(self._turnover.steps_of(plan.running)) if alone else 1.0
        return self._kappa * costs_s / typical

    def _watch(self, cluster: ClusterView, plan: Plan) -> None:
        token_s = self._token_s(cluster)
        if token_s is not None and self._first_s(cluster) is not None:
            length, idle = self._turnover.steps_of(plan.running), plan.running == 0
            now = (cluster.step, cluster.clock_s)
            self._kept.look(*now, length=length, promised_s=token_s, idle=idle)

    def _first_s(self, cluster: ClusterView) -> float | None:
        return _promised(self.params.slo_ttft_ms, cluster.objectives.ttft_s)

    def _token_s(self, cluster: ClusterView) -> float | None:
        return _promised(self.params.slo_tpot_ms, cluster.objectives.tpot_s)

    def _saves(self, cluster: ClusterView, waiting: Waiting, plan: Plan, costs_s: float) -> bool:
        """Tell whether to go now keeps more promised first tokens than it uses up promises.

        Those that run are kept for `costs_s`: at the promised time per token so many steps, in
        which so many of them would have ended, and what they were promised is used up by. Of each
        second as much counts as the mean step takes of the promise: far below it there is slack.
        """
        promised_s, token_s = self._first_s(cluster), self._token_s(cluster)
        if promised_s is None or cluster.costs is None:
            return False
        saved = self._saved(cluster, waiting, plan, cluster.costs, promised_s)
        if not saved or token_s is None:
            return saved > 0
        length = max(self._turnover.steps_of(plan.running), 1.0)
        used = plan.running / length * costs_s / token_s
        return saved >= self._kept.exchange * self._holding.step_s / token_s * used

    def _saved(
        self,
        cluster: ClusterView,
        waiting: Waiting,
        plan: Plan,
        costs: StepCosts,
        promised_s: float,
    ) -> int:
        """Return how many of those held would miss their first token if held for another step.

        Who would miss it as well by going now, by the time that the prefill takes alone, is not
        among them: a router that stopped holding for these would lose throughput, and with that
        come to miss all.
        """
        step_s = self._holding.step_s
        held = self._pairs[plan.fills : plan.placements, 0]
        waited_s = (cluster.step - waiting.since[held]) * step_s
        steps = -(-self._ends(cluster, waiting, plan) // costs.budget)
        token_s = costs.per_prefill_token_s + costs.per_mean_prefill_token_s
        # All wait for the rank that has most to compute, for as long as their own has any.
        prefill_s = np.minimum(plan.longest, steps * costs.budget) * token_s
        # It came within the step before; the next decision is a step away.
        first_s = waited_s + (2 + steps) * step_s + prefill_s
        late = first_s >= self._kept_s(cluster, promised_s)
        return int((late & (waited_s + prefill_s <= promised_s)).sum())

    def _late(
        self,
        cluster: ClusterView,
        waiting: Waiting,
        plan: Plan,
        costs: StepCosts,
        promised_s: float,
    ) -> tuple[BoolArray, BoolArray]:
        """Tell who of those held is late by what was waited and the prompt's own prefill alone.

        And who of these would not be had it not been held.
        """
        held, ranks = self._pairs[plan.fills : plan.placements].T
        fresh = waiting.prompt_tokens[held]
        if self._cached.size:
            fresh = fresh - self._cached[held, ranks]
        waited_s = (cluster.step - waiting.since[held]) * self._holding.step_s
        queued_s = np.maximum(waited_s - self._holding.held_s(cluster.clock_s), 0.0)
        prefill_s = fresh * (costs.per_prefill_token_s + costs.per_mean_prefill_token_s)
        late = waited_s + prefill_s > promised_s
        return late, late & (queued_s + prefill_s <= promised_s)

    def _ends(self, cluster: ClusterView, waiting: Waiting, plan: Plan) -> IntArray:
        placed = self._pairs[: plan.placements]
        ends: IntArray = ends_at(cluster.table, waiting.prompt_tokens, self._cached, placed)
        return ends[plan.fills :]

    def _kept_s(self, cluster: ClusterView, promised_s: float) -> float:
        """Return when first tokens are to come, of what is promised."""
        token_s = self._token_s(cluster)
        broken = token_s is not None and self._holding.step_s > _SHORT * token_s
        return promised_s if broken else _KEPT * promised_s

    def _adapt(self, cluster: ClusterView, waiting: Waiting, plan: Plan, *, decided: bool) -> None:
        """Bring κ nearer to what the promises ask for; `decided` as of `balanced`."""
        promised_s, token_s = self._first_s(cluster), self._token_s(cluster)
        if token_s is None:
            return
        step_s, floor, costs = self._holding.step_s, self.params.kappa, cluster.costs
        if promised_s is None or costs is None:
            self._kappa = lowered(self._kappa, floor, step_s, token_s)
            return
        late, missed = self._late(cluster, waiting, plan, costs, promised_s)
        self._kept.release(late)
        share = float(missed.mean())
        self._kappa = balanced(self._kappa, floor, step_s, token_s, missed=share, decided=decided)


def _promised(own_ms: float | None, run_s: float | None) -> float | None:
    return run_s if own_ms is None else own_ms / 1000.0


def _with_a_slot(table: IntArray) -> IntArray:
    """Return a table by which a request goes where a slot is free, if one is.

    By old news a slot can be free at a worker that is gone, which only the room tells.
    """
    free = (table[SLOTS] - table[RUNNING] - table[QUEUED] > 0) & (table[ROOM] > 0)
    if not free.any():
        return table
    narrowed = table.copy()
    narrowed[ROOM] *= free
    return narrowed
