"""What time brings: steps of the model, decisions about what is held, bounds on waiting."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from brsolver.cluster._state_kernels import W_BACKLOG
from integration.picker.asks import NO_WORKER, POOL_FULL, End, Placed, Refused
from integration.picker.clock import MOST_STEPS
from integration.picker.deciding import Decider
from integration.picker.events import Decided, Refusal, Returned, Stepped
from integration.picker.forecasts import Forecasts
from integration.picker.pace import NOTICED
from integration.routing.failsafe import named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.simulator.live import LiveStep
    from integration.picker.announcing import Announcer
    from integration.picker.books import Books
    from integration.picker.clock import StepClock
    from integration.picker.deciding import Placement
    from integration.picker.making import Made
    from integration.picker.params import PickerParams
    from integration.picker.requests import Request
    from integration.picker.workers import Workers
    from integration.routing.failsafe import Failsafe
    from integration.routing.pool import Held
    from integration.routing.prefixes import PrefixHistory

NEVER = float("inf")
STILL_S = 0.02
"""While others' requests alone run, of which no steps are known: between two decisions."""


class Driver:
    """Moves the model on, has what is held decided about, and answers.

    Parameters
    ----------
    params : PickerParams
    made : Made
    books : Books
    workers : Workers
    clock : StepClock
    history : PrefixHistory
    failsafe : Failsafe
    announcer : Announcer
    began_s : float
        When the core began, on its clock.

    Attributes
    ----------
    decider : Decider
    unstarted : dict of str to Request
        Who has been given a worker that has not taken it yet, oldest first.
    """

    def __init__(
        self,
        params: PickerParams,
        made: Made,
        *,
        books: Books,
        workers: Workers,
        clock: StepClock,
        history: PrefixHistory,
        failsafe: Failsafe,
        announcer: Announcer,
        began_s: float,
    ) -> None:
        self._params = params
        self._made = made
        self._books = books
        self._workers = workers
        self._clock = clock
        self._history = history
        self._announcer = announcer
        self._failsafe = failsafe
        self._asked_again_s = NEVER
        self._look_at = NEVER
        self._told_scale, self._told_apart = 1.0, False
        self.unstarted: dict[str, Request] = {}
        self._forecasts = Forecasts(
            made.session, books, failsafe, refresh_steps=params.refresh_steps
        )
        self.decider = Decider(
            params,
            made.session,
            books=books,
            workers=workers,
            failsafe=failsafe,
            place=self._reserve,
            began_s=began_s,
        )

    @property
    def held(self) -> int:
        """Requests that have no worker yet."""
        return len(self.decider.pool)

    def look_by(self, at_s: float) -> None:
        """Have what is held decided about by then, if not sooner."""
        self._look_at = min(self._look_at, at_s)

    def take_in(self, held: Held[Request], now: float, *, again: bool = False) -> None:
        """Answer a request that has just come, or hold it.

        One that has come back from a worker has waited before: it is the next.
        """
        if not self._workers.any_open:
            self._refuse(held, NO_WORKER, "no worker is up")
        elif self._params.mode == "immediate":
            self._rest(now)
            self._answer(self.decider.at_once(held, self._clock.step, now), now)
        else:
            self._hold(held, now, again=again)

    def give_back(self, request: Request, now: float) -> None:
        """Take in that a request's worker did not take it."""
        worker = request.worker
        self._history.ended(worker, request.ask.blocks)
        self.unstarted.pop(request.name, None)
        self._books.give_back(request)
        request.failed |= {worker}
        request.since_s = now
        self._announcer.emit(Returned(request.name, worker))

    def step_on(self, now: float) -> None:
        """Do the steps that are due; decide before the last of them, as it begins."""
        for _ in range(MOST_STEPS):
            if not self._clock.due(now):
                return
            if self.held and self._clock.current(now):
                self.decide(now)
            try:
                self._clock.run(self._stepped)
            except Exception as error:  # noqa: BLE001 # whatever it is, serving must go on
                self._begin_anew(error, now)
        self._clock.skip_to(now)

    def decide_if_due(self, now: float) -> None:
        """Decide about what is held, if somebody asked for that by now."""
        if self._look_at <= now:
            self.decide(now)

    def decide(self, now: float) -> None:
        """Decide about what is held."""
        self._look_at = NEVER
        self._rest(now)
        pool = self.decider.pool
        if not self._workers.any_open:
            for held in pool.drain():
                self._refuse(held, NO_WORKER, "no worker is up")
        elif len(pool):
            self._answer(self.decider.release(self._clock.step, now), now)
            if len(pool) and self._clock.next_s is None:
                self.look_by(now + STILL_S)

    def let_go_overdue(self, now: float) -> None:
        """Place, or refuse, who has been held for as long as anybody may be."""
        pool, most_s = self.decider.pool, self._params.wait_max_s
        while (held := self._longest_held()) is not None and held.request.since_s + most_s <= now:
            placed = self.decider.overdue(held)
            self._answer(placed, now)
            if not placed:
                pool.drop(held.request.name)
                self._refuse(held, POOL_FULL, _no_room(held.request, most_s))

    def next_s(self) -> float:
        """Return when something is to be done; infinity if nothing is."""
        times = [self._look_at, self._clock.next_s if self._clock.next_s is not None else NEVER]
        if (oldest := self._longest_held()) is not None:
            times.append(oldest.request.since_s + self._params.wait_max_s)
        for request in self.unstarted.values():
            if self._params.start_max_s:
                times.append(request.decided_s + self._params.start_max_s)
            break
        return min(times)

    def overdue_starts(self, now: float) -> list[Request]:
        """Return who should have been taken by a worker long ago."""
        most_s, found = self._params.start_max_s, []
        for request in self.unstarted.values():
            if not most_s or request.decided_s + most_s > now:
                break
            found.append(request)
        return found

    def _hold(self, held: Held[Request], now: float, *, again: bool) -> None:
        pool, most = self.decider.pool, self._params.pool_max
        pool.add(held, sum(1 for _ in self._came_back()) if again else None)
        if again:
            # One more than are held at most does no harm.
            self.decide(now)
            return
        if len(pool) <= most and not (len(pool) == 1 and self.decider.idle()):
            self.look_by(now)
            return
        self.decide(now)
        if len(pool) > most and pool.drop(held.request.name) is not None:
            self._refuse(held, POOL_FULL, "too many requests are waiting")

    def _came_back(self) -> Iterator[Held[Request]]:
        """Return those in the pool that a worker did not take: they stand before all others."""
        return takewhile(lambda held: held.request.failed, self.decider.pool)

    def _longest_held(self) -> Held[Request] | None:
        oldest = self.decider.pool.oldest
        if oldest is None or not oldest.request.failed:
            return oldest
        came = (each for each in self.decider.pool if not each.request.failed)
        return min(oldest, next(came, oldest), key=lambda held: held.request.since_s)

    def _reserve(self, request: Request, worker: int) -> None:
        blocks = request.ask.blocks
        cached = int(self._history.cached_tokens(blocks)[worker]) if blocks else 0
        self._history.used(worker, blocks)
        self._books.reserve(request, worker, cached_tokens=cached)
        self.unstarted[request.name] = request

    def _answer(self, placed: list[Placement], now: float) -> None:
        if not placed:
            return
        self._clock.wake(now)
        for each in placed:
            request = each.held.request
            request.decided_s = now
            held_s = now - request.since_s
            self._announcer.emit(
                Decided(
                    request.name,
                    each.worker,
                    held_s,
                    each.seconds,
                    self._params.policy,
                    each.fallback,
                )
            )
        most = self._params.fallbacks
        ranking = self.decider.ranking()[: most + 1]
        for each in placed:
            others = [worker for worker in ranking if worker != each.worker]
            self._tell(each.held, Placed(each.worker, tuple(others[:most])))

    def _refuse(self, held: Held[Request], status: int, why: str) -> None:
        refused = Refused(status, why, self._params.retry_after_s)
        self._books.release(held.request, End.REFUSED, generated=0, cancelled=True)
        self._announcer.emit(Refusal(held.request.name, refused))
        self._tell(held, refused)

    def _tell(self, held: Held[Request], answer: Placed | Refused) -> None:
        try:
            held.message(answer)
        except Exception as error:  # noqa: BLE001 # one's transport must not keep others waiting
            self._announcer.fault("answer", f"{held.request.name}: {named(error)}")

    def _rest(self, now: float) -> None:
        """Let a policy that has failed too often be asked again after a while."""
        if self._failsafe.active:
            return
        if self._asked_again_s == NEVER:
            self._asked_again_s = now + self._params.rest_s
        elif now >= self._asked_again_s:
            self._asked_again_s = NEVER
            self._failsafe.stand_up()

    def _stepped(self, step: LiveStep, at_s: float) -> None:
        self._books.stepped(step.first, self._clock.mark(at_s))
        self._forecasts.stepped(self._clock.step)
        self._reprice()
        backlog = self._made.session.state.workers[W_BACKLOG].copy()
        running = len(self._books.ranks)
        self._announcer.emit(Stepped(step, at_s, running, self.held, backlog))

    def _reprice(self) -> None:
        scale, apart = self._clock.pace.scale, self._clock.prompts.apart
        if abs(scale / self._told_scale - 1) > NOTICED or apart != self._told_apart:
            self._told_scale, self._told_apart = scale, apart
            self._made.session.costs = self._made.costs(scale, apart=apart)

    def _begin_anew(self, error: Exception, now: float) -> None:
        """Enter everyone anew, the model being broken."""
        self._announcer.fault("model", named(error))
        self._books.rebuild(self._made.step_time)
        self._clock.ranks = self._books.ranks
        self._clock.restart(now)


def _no_room(request: Request, waited_s: float) -> str:
    sequences = request.ask.sequences
    what = "room" if sequences == 1 else f"slots for {sequences} sequences"
    return f"no worker had {what} for {waited_s:g} s"
