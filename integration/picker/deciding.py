"""Decisions: which of those who wait go where, by the policy or else by the fail-safe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from brsolver.cluster._state_kernels import W_ACTIVE, W_QUEUED
from brsolver.cluster.view import (
    LOAD,
    QUEUE_ROWS,
    REQUEST,
    ROOM,
    SINCE,
    SLOTS,
    TOKEN_ROOM,
    TOKENS,
)
from integration.picker.keeping import Keeping
from integration.routing.failsafe import FAILED
from integration.routing.patience import Patience
from integration.routing.pool import Held, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from brsolver.cluster.session import ClusterSession
    from brsolver.cluster.view import IntArray
    from integration.picker.books import Books
    from integration.picker.params import PickerParams
    from integration.picker.requests import Request
    from integration.picker.workers import Workers
    from integration.routing.failsafe import Failsafe

IDLE = "idle"
_OFFERED, _OFFERED_PER_SLOT = 256, 4
"""How many of the oldest a decision chooses among: so many, or that many for each free slot."""


class Placement(NamedTuple):
    """A request that has been given a worker.

    Attributes
    ----------
    held : Held
    worker : int
    fallback : bool
        Whether the policy did not choose it.
    seconds : float
        What of the decision's time is its.
    """

    held: Held[Request]
    worker: int
    fallback: bool
    seconds: float


class Decider:
    """Asks the policy about what waits, and places what it will not.

    Whoever is placed is entered in the books at once.

    Parameters
    ----------
    params : PickerParams
    session : ClusterSession
    books : Books
    workers : Workers
    failsafe : Failsafe
    place : callable
        Enters a request at a worker.
    began_s : float
        When the core began, on its clock.

    Attributes
    ----------
    pool : Pool
        What is held.
    """

    def __init__(
        self,
        params: PickerParams,
        session: ClusterSession,
        *,
        books: Books,
        workers: Workers,
        failsafe: Failsafe,
        place: Callable[[Request, int], None],
        began_s: float,
    ) -> None:
        self._params = params
        self._session = session
        self._books = books
        self._workers = workers
        self._failsafe = failsafe
        self._place = place
        self._began_s = began_s
        self._keeping = Keeping(params)
        self._most_slots = 1
        self._free: list[int] = []
        self.pool: Pool[Request] = Pool()
        self._patience = Patience()
        self._queue_of_one: IntArray = np.zeros((QUEUE_ROWS, 1), np.int64)

    def idle(self) -> bool:
        """Tell whether nothing runs at any worker."""
        return not self._books.ranks.busy and not any(each.foreign for each in self._workers)

    def look(self, *, immediate: bool = False) -> int:
        """Bring the view up to date; return how many could be placed."""
        closed, kept = self._workers.closed, self._keeping.worker
        self._session.closed = closed if kept is None else sorted({*closed, kept})
        self._most_slots = max((each.slots for each in self._workers if each.open), default=1)
        self._session.hear()
        room = self._session.look(immediate=immediate)
        # The one request that tries a worker again may be one of several sequences.
        self._free = [
            left + each.withheld if left else 0
            for left, each in zip(self._session.limits[ROOM].tolist(), self._workers, strict=True)
        ]
        return room

    def at_once(self, held: Held[Request], step: int, now: float) -> list[Placement]:
        """Place one request as it comes, room or not; some worker takes requests."""
        began = time.perf_counter()
        self.look(immediate=True)
        queue, request = self._queue_of_one, held.request
        queue[TOKENS, 0], queue[REQUEST, 0] = request.prompt_tokens, request.identity
        queue[SINCE, 0] = step
        worker = self._failsafe_run(queue, step, now, immediate=True)
        if worker is None or worker[0][1] in self._avoided(request):
            return self._fall_back([held], tokens=False, full=True)
        self._place(request, worker[0][1])
        return [Placement(held, worker[0][1], False, time.perf_counter() - began)]

    def release(self, step: int, now: float) -> list[Placement]:
        """Decide about all that is held."""
        gathered = self._gather(now)
        oldest = self.pool.oldest
        placed = self._release(step, now)
        self._keeping.passed(oldest, len(placed))
        return gathered + placed

    def _gather(self, now: float) -> list[Placement]:
        """Keep a worker for a request of several sequences that waits too long; place it there."""
        self._keeping.worker = None
        oldest = self.pool.oldest
        if oldest is None or not self._keeping.is_due(oldest, now, self._slots()):
            return []
        self.look()
        placed = self._fall_back([oldest])
        if not placed:
            self._keeping.worker = self._roomiest(oldest.request)
        return placed

    def _slots(self) -> int:
        return sum(each.slots for each in self._workers if each.open)

    def _roomiest(self, request: Request) -> int | None:
        """Return the worker with the most free slots of those large enough; None if none is."""
        needed, avoided = self._needed(request), self._avoided(request)
        there = [
            each.index
            for each in self._workers
            if each.open and each.index not in avoided and each.slots >= needed
        ]
        return max(there, key=self._free.__getitem__, default=None)

    def _release(self, step: int, now: float) -> list[Placement]:
        room = self.look() if len(self.pool) else 0
        if not room:
            self._patience.used()
            return []
        began = time.perf_counter()
        held, queue = self._offered(room)
        if not held:
            return []
        answer = self._failsafe_run(queue, step, now, immediate=False)
        if answer is None:
            return self._fall_back(held[:room])
        if not answer and (reason := self._unused(held[0], now)):
            if reason != IDLE:
                self._failsafe.fail("decision", reason)
            return self._fall_back(held[:room])
        fits = self._session.fits(held[0].request.prompt_tokens)
        placed = self._with_slots([(held[at], worker) for at, worker in answer])
        for each, worker in placed:
            self.pool.take([each])
            self._place(each.request, worker)
        if placed:
            self._patience.used()
        seconds = (time.perf_counter() - began) / max(len(placed), 1)
        placements = [Placement(each, worker, False, seconds) for each, worker in placed]
        return placements + self._let_the_oldest_go(held[0], len(placed), fits=fits)

    def overdue(self, held: Held[Request]) -> list[Placement]:
        """Place a request that has been held for as long as one may be, if a worker has room."""
        self._keeping.worker = None
        return self._fall_back([held], slots=self._params.overdue == "refuse")

    def least_loaded(
        self, request: Request, *, tokens: bool, slots: bool, full: bool = False
    ) -> int | None:
        """Return the least loaded worker with room; first of all, one with the most slots it needs.

        Parameters
        ----------
        request : Request
        tokens : bool
            Whether it must have KV room for the prompt.
        slots : bool
            Whether it must have a free slot for each sequence; else for one.
        full : bool
            Whether those without a free slot will do.
        """
        limits, prompt = self._session.limits, request.prompt_tokens
        sequences, least = request.ask.sequences, self._needed(request) if slots else 1
        avoided = self._avoided(request)
        best = [
            (0 if full else -min(free, sequences), int(limits[LOAD, g]), g)
            for g, free in enumerate(self._free)
            if limits[SLOTS, g] > 0
            and g not in avoided
            and (full or free >= least)
            and (not tokens or limits[TOKEN_ROOM, g] >= prompt)
        ]
        return min(best)[-1] if best else None

    def ranking(self) -> list[int]:
        """Return the workers that take requests, best first: with free slots, then the rest."""
        rows, slots = self._session.state.workers, self._session.state.slots
        taken = (rows[W_ACTIVE] + rows[W_QUEUED] >= slots).tolist()
        known = [
            (taken[each.index], each.reserved, each.index) for each in self._workers if each.open
        ]
        return [worker for *_, worker in sorted(known)]

    def _failsafe_run(
        self, queue: IntArray, step: int, now: float, *, immediate: bool
    ) -> list[list[int]] | None:
        """Return the policy's answer; None if there is none to go by."""
        if not self._failsafe.active:
            return None
        clock_s = now - self._began_s
        answer = self._failsafe.run("decision", self._ask, queue, step, clock_s, immediate)
        return answer if answer is not FAILED and isinstance(answer, list) else None

    def _ask(self, queue: IntArray, step: int, clock_s: float, immediate: bool) -> list[list[int]]:
        admitted = self._books.take_admitted()
        if admitted.size:
            self._session.forecast(admitted, step)
        pairs: list[list[int]] = self._session.decide(
            queue, step=step, clock_s=clock_s, immediate=immediate
        ).tolist()
        return pairs

    def _offered(self, room: int) -> tuple[list[Held[Request]], IntArray]:
        """Return who is to be decided about: of the oldest, those who find slots enough somewhere.

        Others would stand in the way of all that came after them.
        """
        held, queue = self.pool.offer(max(_OFFERED, _OFFERED_PER_SLOT * room))
        most = max(self._free)
        if all(each.request.ask.sequences <= most and not each.request.failed for each in held):
            return held, queue
        chosen = [at for at, each in enumerate(held) if self._finds_slots(each.request)]
        # Of the one layout that kernels are compiled for.
        return [held[at] for at in chosen], np.ascontiguousarray(queue[:, chosen])

    def _finds_slots(self, request: Request) -> bool:
        needed, avoided = self._needed(request), self._avoided(request)
        return any(free >= needed for g, free in enumerate(self._free) if g not in avoided)

    def _avoided(self, request: Request) -> Collection[int]:
        """Return the workers that did not take a request, unless there are no others."""
        failed = request.failed
        if not failed or all(each.index in failed for each in self._workers if each.open):
            return ()
        return failed

    def _with_slots(
        self, answer: list[tuple[Held[Request], int]]
    ) -> list[tuple[Held[Request], int]]:
        """Leave out, or lead elsewhere, requests of several sequences that find too few slots.

        Policies count a slot for each request, and know nothing of who did not take it before.
        """
        slots, tokens = self._free.copy(), self._session.limits[TOKEN_ROOM].tolist()
        kept = []
        for held, chosen in answer:
            request, worker = held.request, chosen
            needed, avoided = self._needed(request), self._avoided(request)
            if worker in avoided or slots[worker] < needed:
                others = (each for each in range(len(slots)) if each not in avoided)
                worker = max(others, key=slots.__getitem__)
                if slots[worker] < needed or tokens[worker] < request.prompt_tokens:
                    continue
            # One request is all that a worker has that is tried again.
            slots[worker] = 0 if self._workers[worker].withheld else slots[worker] - needed
            tokens[worker] -= request.prompt_tokens
            kept.append((held, worker))
        return kept

    def _needed(self, request: Request) -> int:
        """Return how many free slots of one worker a request takes: no more than any has."""
        most, avoided = self._most_slots, self._avoided(request)
        if avoided:
            open_ = (each for each in self._workers if each.open and each.index not in avoided)
            most = max(each.slots for each in open_)
        return min(request.ask.sequences, most)

    def _unused(self, oldest: Held[Request], now: float) -> str:
        idle = self.idle()
        fits = self._session.fits(oldest.request.prompt_tokens)
        # What fits nowhere while nothing runs never will; and to a policy a slot that is withheld,
        # of a worker that is tried again, is one in which something runs.
        excused = not fits or any(each.withheld for each in self._workers)
        reason = self._patience.unused(
            idle=idle,
            fits=fits,
            now_s=now,
            allowed_s=self._params.stall_s + self._session.policy.holds_s,
        )
        return IDLE if reason and idle and excused else reason

    def _let_the_oldest_go(
        self, oldest: Held[Request], placed: int, *, fits: bool
    ) -> list[Placement]:
        passed = oldest.request.name in self.pool and not fits
        slots = int(self._session.limits[SLOTS].sum())
        limit = self._params.overtakes * slots
        if not self._patience.overtaken(oldest, placed, passed=passed, limit=limit):
            return []
        return self._fall_back([oldest], tokens=False)

    def _fall_back(
        self,
        chosen: list[Held[Request]],
        *,
        tokens: bool = True,
        slots: bool = True,
        full: bool = False,
    ) -> list[Placement]:
        """Place requests at the least loaded workers, first come first, as far as there is room."""
        placements = []
        for held in chosen:
            began = time.perf_counter()
            if not self.look() and not full:
                break
            request = held.request
            worker = self.least_loaded(request, tokens=tokens, slots=slots, full=full)
            if worker is None:
                continue
            self.pool.take([held])
            self._place(request, worker)
            placements.append(Placement(held, worker, True, time.perf_counter() - began))
        return placements
