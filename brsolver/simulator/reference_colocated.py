"""Prefill on the decode ranks in plain Python, one step at a time.

Every rank has three lists: requests that wait there, prompts under way, and what runs. Tests hold
the kernels to it; it is the place to read what the ranks' schedulers do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from brsolver.hardware.costs import step_costs
from brsolver.hardware.reference import step_parts
from brsolver.simulator.reference import ReferenceSimulator, Request, StepRecord, Worker
from brsolver.simulator.reference_delay import Attempts, Outlook, delayer_of

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime
    from brsolver.simulator.components import WorkerEvent
    from brsolver.simulator.prefill import Prefill
    from brsolver.simulator.reference_delay import Verdict


@dataclass
class Rank(Worker):
    """A worker that prefills: prompts under way hold a slot and the KV tokens of all of them."""

    prompts: list[Request] = field(default_factory=list)
    bound: bool = False
    able: bool = False
    attempts: Attempts = field(default_factory=Attempts)

    @property
    def coming(self) -> list[Request]:
        """Requests that are here and do not decode yet."""
        return self.prompts + super().coming

    @property
    def holding(self) -> int:
        """Slots taken."""
        return super().holding + len(self.prompts)

    @property
    def held(self) -> int:
        """KV tokens of running requests, of prompts under way and of requests that move here."""
        return super().held + sum(r.kv_tokens for r in self.prompts)


@dataclass
class Plan:
    """What a rank does in a step: who decodes, and what it computes of which prompt."""

    decoding: list[Request]
    kv_tokens: int
    chunks: list[tuple[Request, int, int]] = field(default_factory=list)

    @property
    def prefill(self) -> int:
        """Prefill tokens."""
        return sum(chunk for _, _, chunk in self.chunks)

    @property
    def context(self) -> int:
        """Tokens up to and with each prefill token, summed over these."""
        return sum(before + j for _, before, chunk in self.chunks for j in range(1, chunk + 1))

    @property
    def ended(self) -> list[Request]:
        """Prompts that end in this step."""
        return [r for r, before, chunk in self.chunks if before + chunk == r.kv_tokens]


class ColocatedReference(ReferenceSimulator):
    """Replays requests step by step, prefill on the decode ranks.

    Parameters
    ----------
    requests : sequence of Request
        With `cached` tokens of their prompts, fewer than these.
    workers : sequence of Rank
    policy : Policy
    prefill : Prefill
        Whose scheduler, with which limits.
    step_time : StepTime
    **regime
        As of `ReferenceSimulator`.

    Attributes
    ----------
    recomputed : int
        Prefill tokens whose KV was lost by preemption or failure.
    """

    workers: list[Rank]  # type: ignore[assignment] # every one of them

    def __init__(self, *parts: Any, prefill: Prefill, step_time: StepTime, **regime: Any) -> None:
        super().__init__(*parts, **regime)
        self.prefill = prefill
        self.step_time = step_time
        self.costs = step_costs(step_time, budget=prefill.budget)
        self.recomputed = 0
        self.delayer = delayer_of(prefill)
        for rank in self.workers:
            rank.attempts = Attempts.of(prefill)

    def run(self) -> None:
        """Run until nothing more can happen."""
        while True:
            self._worker_events()
            self._land()
            self._reveal()
            if self.immediate:
                self._route_arrivals()
            elif self.waiting and sum(self._room()) > 0:
                self._route_pool()
            if any(w.running or w.prompts or w.queue for w in self.workers):
                self._plan_step()
            elif self.coming.follow():
                continue
            elif self._by_time() or self._moves():
                self._jump()
            elif self.events:
                self._wait_for_event()
            else:
                return

    def _start(self, request: Request, g: int) -> None:
        # Routed to the rank: it waits there for the rank's scheduler.
        request.worker, request.due = g, len(self.steps)
        self.workers[g].queue.append(request)

    def _begin(self, request: Request, rank: Rank) -> None:
        if request.start_step < 0:
            request.start_step, request.start_s = len(self.steps), self.clock
        request.computed = request.cached
        rank.prompts.append(request)

    def _backlog(self, worker: Worker) -> int:
        assert isinstance(worker, Rank)  # noqa: S101 # every one of them
        under_way = sum(r.kv_tokens - r.computed for r in worker.prompts)
        return under_way + sum(r.kv_tokens - r.cached for r in worker.queue)

    def _plan_step(self) -> None:
        self._migrate()
        idle = not any(w.running or w.prompts for w in self.workers)
        verdict = self._agree(idle=idle)
        plans = []
        for rank in self.workers:
            plan = Plan(list(rank.running), rank.load)
            if verdict != "none" and not self._defers(rank):
                self._schedule(rank, plan, idle=idle, begins=verdict == "all")
            if rank.able:
                slots = rank.slots - len(rank.running)
                rank.attempts.note(len(plan.chunks), len(rank.queue), slots)
            plans.append(plan)
        if any(plan.decoding or plan.chunks for plan in plans):
            self._do(plans)
        elif self._moves():
            self._jump()

    def _agree(self, *, idle: bool) -> Verdict:
        """Let the ranks agree on what may be prefilled in this step."""
        if self.delayer is None:
            return "all"
        for rank in self.workers:
            rank.able = bool(rank.prompts) or self._gives_slot(rank, idle=idle)
        return self.delayer.verdict([self._outlook(rank) for rank in self.workers if rank.alive])

    def _outlook(self, rank: Rank) -> Outlook:
        pending = sum(r.kv_tokens - r.computed for r in rank.prompts)
        pending += sum(r.kv_tokens - r.cached for r in rank.queue if r.due <= len(self.steps))
        return Outlook(
            can_prefill=rank.able,
            under_way=bool(rank.prompts),
            running=len(rank.running),
            slots=rank.slots,
            usage=rank.held / rank.capacity,
            pending=min(pending, self.prefill.budget),
            largest=rank.attempts.largest,
        )

    def _defers(self, rank: Rank) -> bool:
        """Tell whether the rank leaves prefill to a later step."""
        aligned = len(self.steps) % self.prefill.interval == 0
        return not aligned and not rank.bound and bool(rank.running)

    def _schedule(self, rank: Rank, plan: Plan, *, idle: bool, begins: bool) -> None:
        left = self.prefill.budget
        if self.prefill.scheduler == "v1":
            left -= len(rank.running)
        under_way = list(rank.prompts)
        while left > 0:
            if not under_way:
                if not begins or not self._gives_slot(rank, idle=idle):
                    break
                under_way.append(rank.queue.pop(0))
                self._begin(under_way[0], rank)
            request = under_way.pop(0)
            chunk = min(request.kv_tokens - request.computed, left)
            if self.prefill.threshold:
                chunk = min(chunk, self.prefill.threshold)
            plan.chunks.append((request, request.computed, chunk))
            request.computed += chunk
            self._computed(request, rank)
            left -= chunk
        rank.bound = bool(rank.queue) and rank.queue[0].due <= len(self.steps)

    def _gives_slot(self, rank: Rank, *, idle: bool) -> bool:
        while rank.queue:
            first = rank.queue[0]
            holding = rank.holding
            if holding >= rank.slots or (first.due > len(self.steps) and not idle):
                return False
            reserve = holding + 1 if holding else 0
            if rank.held + first.kv_tokens + reserve <= rank.capacity:
                return True
            if holding:
                return False
            self._reject(rank.queue.pop(0))
        return False

    def _do(self, plans: list[Plan]) -> None:
        apart = self.prefill.scheduler == "sglang" and any(plan.chunks for plan in plans)
        if apart:
            for plan in plans:
                plan.decoding, plan.kv_tokens = [], 0
        else:
            # A prompt that ends runs from this step on, which generates its first token.
            self._end_prompts(plans)
        loads = [rank.load for rank in self.workers]
        parts = self._cost(plans)
        start, self.clock = self.clock, self.clock + parts.seconds
        if apart:
            self._end_prompts(plans)
        generating = [
            request
            for rank, plan in zip(self.workers, plans, strict=True)
            for request in (plan.ended if apart else rank.running)
        ]
        for request in generating:
            self._generate(request)
        for rank in self.workers:
            self._depart(rank)
        post = [rank.load for rank in self.workers]
        prefill = [plan.prefill for plan in plans]
        self.steps.append(
            StepRecord(start, parts.seconds, loads, len(generating), post, prefill, parts)
        )
        for rank in self.workers:
            self._preempt(rank)

    def _computed(self, request: Request, rank: Rank) -> None:
        """Do nothing: where a prefix cache is, it has the request's blocks from now on."""

    def _depart(self, rank: Rank) -> None:
        rank.running = [r for r in rank.running if r.generated < r.output]

    def _end_prompts(self, plans: list[Plan]) -> None:
        for rank, plan in zip(self.workers, plans, strict=True):
            for request in plan.ended:
                rank.prompts.remove(request)
                rank.running.append(request)

    def _cost(self, plans: list[Plan]) -> Any:
        live = [plan for rank, plan in zip(self.workers, plans, strict=True) if rank.alive]
        return step_parts(
            self.step_time,
            [len(plan.decoding) for plan in live],
            [plan.kv_tokens for plan in live],
            [plan.prefill for plan in live],
            [plan.context for plan in live],
        )

    def _preempt(self, worker: Worker) -> None:
        assert isinstance(worker, Rank)  # noqa: S101 # every one of them
        while worker.prompts and worker.held > worker.capacity:
            request = worker.prompts.pop()
            self._lose(request)
            request.preemptions += 1
            worker.queue.insert(0, request)
        before = len(worker.queue)
        super()._preempt(worker)
        for request in worker.queue[: len(worker.queue) - before]:
            self._lose(request)

    def _lose(self, request: Request) -> None:
        """Count what has been computed of a prompt in vain."""
        self.recomputed += request.computed - request.cached
        request.computed = request.cached

    def _fire(self, event: WorkerEvent) -> None:
        rank = self.workers[event.worker]
        if event.kind == "fail":
            for request in (*rank.running, *rank.prompts, *rank.moved):
                self._lose(request)
            rank.running, rank.prompts = rank.running + rank.prompts, []
            rank.bound = False
        super()._fire(event)

    def _beyond_slots(self, worker: Worker) -> int:
        assert isinstance(worker, Rank)  # noqa: S101 # every one of them
        free = worker.slots * worker.alive - worker.holding
        return max(len(worker.queue) - free, 0)
