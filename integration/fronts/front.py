"""A front: requests of a library, placed by the picker's core at replicas by their ids."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from integration.fronts.calls import UNKNOWN_TOKENS
from integration.picker import Core, End, Pump, Reader, Refused, WorkerSpec
from integration.picker.events import Fault
from integration.picker.resuming import Live
from integration.routing.failsafe import Failsafe, Words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from integration.fronts.settings import FrontSettings
    from integration.picker import Ask, Audit, Gauges, Usage
    from integration.picker.bodies import Body
    from integration.picker.events import Event

_NO_HOST = re.compile(r"[\s:/@\[\]]")
_BUDGET_S = 60.0
"""Of telling: only what decides has a budget worth the name, and that is the core's to keep."""


class Room(NamedTuple):
    """What a replica has room for; None is as the settings say.

    Attributes
    ----------
    slots : int or None
        Requests that it runs at once.
    capacity : int or None
        KV tokens that it holds.
    """

    slots: int | None = None
    capacity: int | None = None


class Seat(NamedTuple):
    """Where a request goes.

    Attributes
    ----------
    name : str
        By which its end is told.
    replica : str
    """

    name: str
    replica: str


class Front:
    """Places requests at replicas, and is told of their ends.

    Nobody may be kept from being served by it: where it has no answer, or fails, `place` returns
    None, and the library goes by its own rule. After too many failures it always does.

    To be used from one event loop, but for its making.

    Parameters
    ----------
    core : Core
        Made with a worker for each of `replicas`, in their order.
    reader : Reader
    replicas : mapping of str to Room
    words : Words
        In which failures are told.
    lasting : bool
        Whether a name is that of one replica for ever, which has what it had when it comes back;
        else it is another by then.
    """

    def __init__(
        self,
        core: Core,
        reader: Reader,
        replicas: Mapping[str, Room],
        *,
        words: Words,
        lasting: bool = False,
    ) -> None:
        self._core, self._reader = core, reader
        self._pump = Pump(core)
        self._failsafe = Failsafe(
            _BUDGET_S, core.params.max_failures, failed=lambda _kind: None, words=words
        )
        self._failsafe.when_down(self._let_all_go)
        core.listeners.extend([reader, self])
        self._workers = {replica: index for index, replica in enumerate(replicas)}
        self._replicas = {index: replica for replica, index in self._workers.items()}
        self._rooms, self._lasting = dict(replicas), lasting
        self._added = 0
        self._placing: set[asyncio.Task[Seat | None]] = set()

    @property
    def active(self) -> bool:
        """Whether it places anybody."""
        return self._failsafe.active

    @property
    def replicas(self) -> list[str]:
        """Those that requests may go to."""
        return list(self._workers)

    async def place(self, body: Body) -> Seat | None:
        """Wait for a replica; None leaves the request to the library's own rule.

        Cancelled, the request is withdrawn.
        """
        failsafe = self._failsafe
        if not failsafe.active:
            return None
        task = asyncio.get_running_loop().create_task(self._placed(body))
        self._placing.add(task)
        try:
            return self._still(await task)
        except asyncio.CancelledError:
            if not self._let_go(task):
                self._take_back(task)
                raise
            return None
        except Exception as error:  # noqa: BLE001 # whatever it is, serving must go on
            failsafe.fail("placing", error)
            return None
        finally:
            self._placing.discard(task)

    def place_at(self, replica: str, body: Body) -> Seat | None:
        """Enter a request that goes to a replica in any case; None if that is not known."""
        seat = Seat(self._reader.name(), replica)
        return seat if self._tell("entering", self._enter, seat, body) is True else None

    def started(self, seat: Seat) -> None:
        """Take in that a replica has taken a request."""
        worker = self._workers.get(seat.replica)
        if worker is not None:
            self._tell("starting", self._pump.started, seat.name, worker)

    def ended(self, seat: Seat, end: End, usage: Usage | None = None) -> None:
        """Take in that a request has ended."""
        self._tell("ending", self._pump.ended, seat.name, end, usage)

    def told(self, replica: str, gauges: Gauges) -> None:
        """Take in what a replica says of itself, or what is said of it."""
        worker = self._workers.get(replica)
        if worker is not None:
            self._tell("gauges", self._pump.told, worker, gauges)

    def follow(self, replicas: Mapping[str, Room]) -> None:
        """Let requests go to these replicas and no others; what runs elsewhere runs on.

        Of one that is known already other slots are taken in, and no other capacity.
        """
        for replica in [each for each in self._workers if each not in replicas]:
            why = "it is no more among the replicas"
            self._tell("retiring", self._pump.retire, self._workers.pop(replica), why)
        for replica, room in replicas.items():
            worker = self._workers.get(replica)
            if worker is None:
                self._tell("adding", self._add, replica, room)
            elif room.slots != self._rooms[replica].slots:
                self._tell("resizing", self._pump.keep, worker, self._with_slots(worker, room))
        self._rooms = dict(replicas)

    def lost(self, replica: str) -> None:
        """Take in that a replica has died, and with it all that it ran."""
        worker = self._workers.pop(replica, None)
        if worker is not None:
            self._tell("abandoning", self._core.abandon, End.WORKER_DIED, worker)
            self._tell("retiring", self._pump.retire, worker, "it died")

    def audit(self) -> Audit:
        """Count anew who is where."""
        return self._core.audit()

    def event(self, event: Event) -> None:
        """Take in that the core itself fails, as a listener of it."""
        if isinstance(event, Fault) and event.kind == "advance":
            self._failsafe.fail(event.kind, event.text)

    async def _placed(self, body: Body) -> Seat | None:
        while True:
            ask = self._ask(body, self._reader.name())
            answer = await self._pump.pick(ask)
            if isinstance(answer, Refused):
                return None
            replica = self._replicas[answer.worker]
            if self._workers.get(replica) == answer.worker:
                return Seat(ask.name, replica)
            # It went, or died, before its name was handed on.
            self._pump.ended(ask.name, End.DISCONNECTED)

    def _ask(self, body: Body, name: str) -> Ask:
        try:
            return self._reader.ask(body, name)
        except (TypeError, ValueError, OverflowError):
            # What is no prompt is for the replica to judge, and no failure of ours.
            unseen = replace(body, prompts=(), more_tokens=UNKNOWN_TOKENS)
            return self._reader.ask(unseen, name)

    def _enter(self, seat: Seat, body: Body) -> bool:
        worker = self._workers.get(seat.replica)
        if worker is None:
            return False
        ask = self._ask(body, seat.name)
        return self._core.rebuild([Live(ask.name, worker, ask.prompt_tokens, 0)]) == 1

    def _add(self, replica: str, room: Room) -> None:
        before = self._before(replica)
        if before is not None and self._pump.keep(before, self._with_slots(before, room)):
            self._workers[replica] = before
            return
        self._added += 1
        worker = self._pump.add_worker(_spec(f"{replica}#{self._added}", room))
        self._workers[replica], self._replicas[worker] = worker, replica

    def _with_slots(self, worker: int, room: Room) -> WorkerSpec:
        return replace(self._core.workers[worker].spec, slots=room.slots)

    def _before(self, replica: str) -> int | None:
        """Return which worker a replica was before it went, if it is the same that comes back."""
        known = (worker for worker, name in self._replicas.items() if name == replica)
        return next(known, None) if self._lasting else None

    def _tell(self, kind: str, call: Callable[..., object], *args: object) -> object:
        return self._failsafe.run(kind, call, *args)

    def _let_all_go(self) -> None:
        """Leave who is held to the library's rule."""
        for task in self._placing:
            task.cancel()
        self._placing.clear()

    def _still(self, seat: Seat | None) -> Seat | None:
        """Return a seat, unless its replica went before whoever waits had its turn."""
        if seat is None or seat.replica in self._workers:
            return seat
        self.ended(seat, End.DISCONNECTED)
        return None

    def _take_back(self, task: asyncio.Task[Seat | None]) -> None:
        """End what was placed of which nobody will hear, cancelled just after it was."""
        if not task.done() or task.cancelled() or task.exception() is not None:
            return
        seat = task.result()
        if seat is not None:
            self.ended(seat, End.DISCONNECTED)

    def _let_go(self, task: asyncio.Task[Seat | None]) -> bool:
        """Tell whether a request that is held no more was let go, its caller still waiting."""
        mine = asyncio.current_task()
        return task not in self._placing and not (mine is not None and mine.cancelling())


def open_front(
    settings: FrontSettings,
    replicas: Mapping[str, Room],
    *,
    words: Words,
    lasting: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Front:
    """Make a front, all of it compiled: seconds, in which nothing else should wait.

    Parameters
    ----------
    settings : FrontSettings
    replicas : mapping of str to Room
        At least one.
    words : Words
        In which failures are told.
    lasting : bool
        See `Front`.
    clock : callable, optional
        Seconds, monotonic.

    Raises
    ------
    BrsolverError
        There is no such policy, predictor or hardware, or no replica.
    """
    specs = [_spec(replica, room) for replica, room in replicas.items()]
    core = Core(settings.picker, specs, clock=clock, folder=settings.folder)
    reader = Reader(settings.picker, settings.folder)
    return Front(core, reader, replicas, words=words, lasting=lasting)


def _spec(name: str, room: Room) -> WorkerSpec:
    # A library reaches its replicas in its own way; no two are ranks of one server.
    address = f"{_NO_HOST.sub('-', name)}:1"
    return WorkerSpec(name=name, address=address, slots=room.slots, capacity=room.capacity)
