"""The picker's core: pool, slots, books, step clock and router, without any transport."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.cluster._state_kernels import NONE
from brsolver.errors import ParameterError, StateError
from integration.picker.announcing import Announcer
from integration.picker.asks import Ask, End
from integration.picker.auditing import Audit, audit
from integration.picker.books import Books
from integration.picker.clock import StepClock
from integration.picker.driving import Driver
from integration.picker.events import Ended, FirstToken, Requested, Started
from integration.picker.foreign import Foreign
from integration.picker.making import made_ready
from integration.picker.membership import Calls, Membership
from integration.picker.requests import NotEnteredError, Request
from integration.picker.resuming import enter
from integration.picker.telling import Telling
from integration.picker.workers import Workers
from integration.routing.failsafe import Failsafe, Words
from integration.routing.pool import Held
from integration.routing.prefixes import PrefixHistory, cached_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from integration.picker.asks import Answer, Gauges, Seen, Usage
    from integration.picker.events import Listener
    from integration.picker.params import PickerParams, WorkerSpec
    from integration.picker.resuming import Live
    from integration.picker.workers import Worker

logger = logging.getLogger("brsolver.picker")
_WORDS = Words(
    logger,
    "the least loaded worker is taken",
    "requests go to the least loaded worker",
    "for a while",
)


class Core:
    """Decides where requests go and keeps the books of them; does nothing by itself.

    Whoever drives it tells what happens, and calls `advance` when it says. All of its methods must
    be called from one thread; answers are given from within them.

    Parameters
    ----------
    params : PickerParams
    workers : sequence of WorkerSpec
        At least one.
    clock : callable
        Seconds, monotonic.
    folder : Path, optional
        What relative paths in `params` are seen from.

    Attributes
    ----------
    params : PickerParams
    workers : Workers
        To be read.

    Raises
    ------
    BrsolverError
        There are no workers, or no such policy, predictor or hardware.
    """

    def __init__(
        self,
        params: PickerParams,
        workers: Sequence[WorkerSpec],
        *,
        clock: Callable[[], float],
        folder: Path = Path(),
    ) -> None:
        if not workers:
            raise ParameterError("workers is empty, must have at least one")
        self.params = params
        self.workers = Workers(params)
        for spec in workers:
            self.workers.put(self.workers.made(spec))
        self._clock_s = clock
        self._announcer = Announcer()
        self._foreign = Foreign(self.workers)
        self._made = made = made_ready(params, folder, self.workers, others=self._foreign)
        self._state = made.session.state
        self._books = Books(
            self._state,
            made.step_time,
            made.prefill,
            workers=self.workers,
            identities=made.identities,
            learning=made.session.learns,
        )
        self._clock = StepClock(self._books.ranks)
        self._history = PrefixHistory(params.block_tokens, params.cached_blocks)
        self._connect()

    def _connect(self) -> None:
        params, workers, books, session = self.params, self.workers, self._books, self._made.session
        for worker in workers:
            self._history.open(worker.index)
        if params.block_tokens and params.cached_blocks:
            session.cached = cached_by(
                lambda: self._history, lambda who: books.by_identity(who).ask.blocks
            )
        self._driver = Driver(
            params,
            self._made,
            books=books,
            workers=workers,
            clock=self._clock,
            history=self._history,
            failsafe=Failsafe(
                params.budget_ms / 1000, params.max_failures, failed=self._failed, words=_WORDS
            ),
            announcer=self._announcer,
            began_s=self._clock_s(),
        )
        self._telling = Telling(
            params, workers, books=books, made=self._made, clock=self._clock, foreign=self._foreign
        )
        calls = Calls(emit=self._announcer.emit, lost=self._end_all, emptied=self._emptied)
        self._membership = Membership(params, workers, session=session, books=books, calls=calls)

    @property
    def listeners(self) -> list[Listener]:
        """Who is told of events; to be added to."""
        return self._announcer.listeners

    @property
    def policy(self) -> str:
        """What events call the policy."""
        return self.params.policy

    @property
    def step_scale(self) -> float:
        """How much longer steps last than the hardware says."""
        return self._clock.pace.scale

    def request(self, ask: Ask, answer: Callable[[Answer], None]) -> None:
        """Take in a request; `answer` is called once, now or later.

        Parameters
        ----------
        ask : Ask
        answer : callable
            Told where it goes, or why nowhere. Not called for what is withdrawn before.

        Raises
        ------
        NotEnteredError
            There is one of that name.
        """
        if ask.name in self._books.known:
            raise NotEnteredError(f"request {ask.name!r} is here already")
        now = self._clock_s()
        request = Request(ask, now)
        if request.prompt_tokens > self.workers.most_tokens():
            # No worker will hold it: the engine is to say so, and then nothing is there of it.
            request.prompt_tokens = 1
        self._books.enter(request)
        self._announcer.emit(Requested(ask.name, ask, now))
        self._driver.take_in(Held(answer, request, self._clock.step), now)

    def again(self, name: str, answer: Callable[[Answer], None]) -> None:
        """Take in that a worker did not take a request, and decide anew, for others if there are.

        Raises
        ------
        NotEnteredError
            There is none of that name that has a worker.
        """
        request = self._books.known.get(name)
        if request is None or request.worker == NONE:
            raise NotEnteredError(f"request {name!r} has no worker to come back from")
        now, worker = self._clock_s(), self.workers[request.worker]
        self._driver.give_back(request, now)
        self._membership.ended(worker.index, End.RESET, now)
        self._membership.drained(worker)
        self._driver.take_in(Held(answer, request, self._clock.step), now, again=True)

    def withdraw(self, name: str) -> bool:
        """Take in that the client of a held request is gone; tell whether it was held."""
        request = self._books.known.get(name)
        held = request is not None and request.worker == NONE
        return held and self.ended(name, End.DISCONNECTED)

    def started(self, name: str, worker: int) -> None:
        """Take in that a worker has taken a request, perhaps another than was decided.

        Raises
        ------
        StateError
            There is no such worker.
        """
        request = self._books.known.get(name)
        found = self.workers[worker]
        if request is None or request.worker == NONE:
            return
        if found.gone:
            raise StateError(f"worker {worker} is gone")
        moved = request.worker != worker
        if moved:
            left = self.workers[request.worker]
            self._history.ended(request.worker, request.ask.blocks)
            self._books.move(request, worker)
            self._history.used(worker, request.ask.blocks)
            self._membership.drained(left)
        if moved or not request.started:
            self._mark_started(request)
            self._announcer.emit(Started(name, worker))

    def _mark_started(self, request: Request) -> None:
        request.started = True
        self._driver.unstarted.pop(request.name, None)

    def first_token(self, name: str) -> None:
        """Take in that the first token of a request is there."""
        request = self._books.known.get(name)
        if request is None or request.worker == NONE or request.first_s is not None:
            return
        now = self._clock_s()
        self._mark_started(request)
        request.first_s, request.begun = now, self._clock.mark(now)
        self._clock.saw_end(now)
        self._books.first(request)
        self._membership.answered(request.worker)
        self._announcer.emit(FirstToken(name, now))

    def sampled(self, name: str, seen: Seen, *, last: bool = False) -> None:
        """Take in what the proxy has seen of an answer so far, or `last`, just before its end."""
        request = self._books.known.get(name)
        if request is not None and request.worker != NONE:
            self._telling.learning.sampled(request, seen, self._clock_s(), last=last)

    def ended(self, name: str, end: End, usage: Usage | None = None) -> bool:
        """Take in that a request has ended; tell whether it was here.

        What it had reserved is released now; a second end of the same name changes nothing.
        """
        request = self._books.known.get(name)
        if request is None:
            return False
        now, worker = self._clock_s(), request.worker
        self._end(request, end, usage)
        if worker != NONE:
            self._membership.ended(worker, end, now)
        return True

    def _end(self, request: Request, end: End, usage: Usage | None = None) -> None:
        """Release what a request has; its worker is not to blame."""
        now, worker, name = self._clock_s(), request.worker, request.name
        if worker == NONE:
            self._driver.decider.pool.drop(name)
        else:
            self._history.ended(worker, request.ask.blocks)
        self._driver.unstarted.pop(name, None)
        tokens, each = self._telling.tokens_of(request, end, usage)
        ttft_s, tpot_s = request.times(now, -(-tokens // request.slots))
        times = self._telling.learning.ended(request, now, each, end, usage)
        self._books.release(request, end, generated=each, cancelled=end is not End.FINISHED)
        self._announcer.emit(Ended(name, worker, end, usage, now, ttft_s, tpot_s, tokens, times))
        if worker != NONE:
            self._membership.drained(self.workers[worker])
            self._clock.stop_if_idle()
            self._driver.look_by(now + self.params.settle_ms / 1000)

    def told(self, worker: int, gauges: Gauges) -> None:
        """Take in what an engine's own metrics say of a worker.

        Raises
        ------
        StateError
            There is no such worker.
        """
        found, now = self.workers[worker], self._clock_s()
        if found.gone:
            return
        if wrong := self._telling.told(found, gauges, now):
            self._announcer.fault("pin-ignored", wrong)
        ranks, before = self._telling.lost_before(found, now)
        for rank in ranks:
            self._end_all(rank.index, End.RESET, before=before)
        self._driver.look_by(now)

    def reported(self, worker: int, *, ok: bool, why: str = "") -> None:
        """Take in that a worker answered a probe, or that it did not; see `Membership.reported`."""
        self._membership.reported(worker, self._clock_s(), ok=ok, why=why)
        self._driver.look_by(self._clock_s())

    def add_worker(self, spec: WorkerSpec) -> int:
        """Let a worker take requests; return its index. See `Membership.add`."""
        index = self._membership.add(spec)
        self._driver.look_by(self._clock_s())
        return index

    def keep(self, worker: int, spec: WorkerSpec) -> bool:
        """Let a worker have the slots and KV tokens of a spec; see `Membership.keep`."""
        kept = self._membership.keep(worker, spec)
        self._driver.look_by(self._clock_s())
        return kept

    def retire(self, worker: int, why: str = "") -> None:
        """Give a worker no more requests; it is gone once those that it has have ended."""
        self._membership.retire(worker, why)
        self._driver.look_by(self._clock_s())

    def down(self, worker: int, why: str = "") -> None:
        """Give a worker no requests until `up`; its streams are lost if that takes long."""
        self._membership.down(worker, self._clock_s(), why)
        self._driver.look_by(self._clock_s())

    def up(self, worker: int, why: str = "") -> None:
        """Give a worker requests again; see `Membership.up`."""
        self._membership.up(worker, why)
        self._driver.look_by(self._clock_s())

    def abandon(self, end: End, worker: int | None = None) -> int:
        """End all requests that have a worker, or that have this one; return how many."""
        every = range(len(self.workers)) if worker is None else [worker]
        return sum(self._end_all(each, end) for each in every)

    def rebuild(self, live: Iterable[Live]) -> int:
        """Enter requests that run already, as after a restart; return how many were not known."""
        now, books = self._clock_s(), self._books
        count = enter(live, books=books, workers=self.workers, announcer=self._announcer, now=now)
        self._clock.wake(now)
        return count

    def cached_blocks(
        self, worker: int, stored: Iterable[int], removed: Iterable[int], *, cleared: bool = False
    ) -> None:
        """Take in, by our block hashes, what is cached; `cleared`: all from before has gone."""
        if not self.workers[worker].gone:
            self._history.told(worker, stored, removed, cleared=cleared)

    def audit(self) -> Audit:
        """Count anew who is where, and hold the books against it."""
        return audit(
            self._books,
            self.workers,
            self._state,
            history=self._history,
            held=self._driver.held,
            scale=self.step_scale,
            steps=self._clock.step,
        )

    def advance(self) -> float | None:
        """Move the step clock to now and decide what can be decided.

        Returns
        -------
        float or None
            Seconds until it should be called again; None: not before something happens.
        """
        now = self._clock_s()
        self._membership.tend(now)
        if self._telling.let_go_stale(self.workers, now):
            self._driver.look_by(now)
        for request in self._driver.overdue_starts(now):
            self._announcer.fault("unstarted", f"{request.name}: no worker has taken it")
            self._end(request, End.TIMEOUT)
        self._driver.step_on(now)
        self._driver.decide_if_due(now)
        self._driver.let_go_overdue(now)
        next_s = min(self._driver.next_s(), self._membership.next_s())
        if self._driver.held:
            next_s = min(next_s, self._telling.next_s())
        return None if next_s == float("inf") else max(next_s - now, 0.0)

    def fault(self, kind: str, text: str) -> None:
        """Tell listeners that something went wrong."""
        self._announcer.fault(kind, text)

    def _failed(self, kind: str) -> None:
        instead = "the least loaded worker is taken" if kind == "decision" else "it is put off"
        self._announcer.fault(kind, f"{kind} failed: {instead}")

    def _end_all(self, worker: int, end: End, *, before: float = float("inf")) -> int:
        """End what a worker was given before some time; return how many these were."""
        lost = [each for each in self._books.at(worker) if each.decided_s < before]
        if lost:
            text = f"{self.workers[worker].spec.name}: {len(lost)} streams are lost"
            self._announcer.fault("lost", text)
        for request in lost:
            self._end(request, end)
        return len(lost)

    def _emptied(self, worker: Worker) -> None:
        self._history.open(worker.index)
        self._telling.forget(worker)
