"""Requests that were given a worker and of which no end was told yet, as the doors know them."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from typing import TYPE_CHECKING

from integration.picker import End
from integration.picker.events import Ended, Refusal
from integration.picker.resuming import BEFORE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from integration.doors.fleet import Fleet
    from integration.picker import Pump, Seen, Usage
    from integration.picker.events import Event
    from integration.picker.resuming import Live


class Place:
    """Where a request is.

    Attributes
    ----------
    name : str
        Of the request.
    worker : int
    since_s : float
        When it was given the worker, or when the worker took it.
    started : bool
        Whether the proxy said that the worker has it.
    answering : bool
        Whether its response has begun, where that is seen.
    back : bool
        Whether the worker did not take it, and the proxy is about to ask again.
    """

    __slots__ = ("answering", "back", "name", "since_s", "started", "worker")

    def __init__(self, name: str, worker: int, since_s: float) -> None:
        self.name = name
        self.worker = worker
        self.since_s = since_s
        self.started = self.answering = self.back = False


class Ledger:
    """Turns what proxies tell of requests into calls of the pump, each end once.

    Proxies know a request by its name, and each further time that it is placed by another
    identity: what they tell late of the time before concerns nobody.

    Parameters
    ----------
    pump : Pump
        Its core tells the ledger what it gives up by itself.
    fleet : Fleet
    clock : callable
        Seconds, monotonic.

    Attributes
    ----------
    places : dict of str to Place
        By identity, in the order in which they were placed.
    unknown : int
        Ends that were told of requests not in here: of a picker before this one.
    """

    def __init__(self, pump: Pump, fleet: Fleet, *, clock: Callable[[], float]) -> None:
        self._pump = pump
        self._fleet = fleet
        self._clock = clock
        self.places: dict[str, Place] = {}
        self.running: Counter[int] = Counter()
        self._turns: dict[str, int] = {}
        self.unknown = 0
        self._counted: tuple[float, float] | None = None
        pump.core.listeners.append(self)

    def __len__(self) -> int:
        return len(self.places)

    def place(self, name: str, worker: int) -> str:
        """Enter a request with the worker that was decided for it; return its identity."""
        identity = self._identity(name)
        self.places[identity] = Place(name, worker, self._clock())
        self.running[worker] += 1
        return identity

    def turn(self, name: str) -> int:
        """Return how often a request has come back from a worker."""
        return self._turns.get(name, 0)

    def _identity(self, name: str) -> str:
        turn = self._turns.get(name)
        return name if turn is None else f"{name}.{turn}"

    def back(self, identity: str, grace_s: float) -> str:
        """Note that a worker did not take a request; return by what the proxy shall ask again.

        If it does not, within `grace_s` seconds, its client has left.
        """
        place = self.places.pop(identity, None)
        if place is None:
            # Of a picker before this one: what is asked then is of a new request.
            return identity
        self._turns[place.name] = self.turn(place.name) + 1
        identity = self._identity(place.name)
        self.places[identity] = place
        place.started, place.back = False, True
        asyncio.get_running_loop().call_later(grace_s, self._not_asked, identity)
        return identity

    def is_back(self, identity: str) -> bool:
        """Tell whether a request has come back and was not asked about yet."""
        place = self.places.get(identity)
        return place is not None and place.back

    def asked_again(self, identity: str) -> str:
        """Take a request that is back out, for another decision; return its name."""
        place = self.places.pop(identity)
        self.running[place.worker] -= 1
        return place.name

    def _not_asked(self, identity: str) -> None:
        if self.is_back(identity):
            self.ended(identity, End.DISCONNECTED)

    def started(self, name: str, address: str | None = None) -> None:
        """Note which worker took a request: a retry may have moved it.

        Parameters
        ----------
        name : str
        address : str, optional
            The decided worker's by default.
        """
        place = self.places.get(name)
        if place is None:
            return
        rank = self._fleet.specs[place.worker].rank
        worker = None if address is None else self._fleet.worker(address, rank)
        if place.started and worker in {None, place.worker}:
            return
        place.started = True
        place.since_s = self._clock()
        if worker is not None and worker != place.worker:
            self._move(place, worker)
        self._pump.started(place.name, place.worker)

    def move(self, name: str, worker: int) -> None:
        """Give a request another worker than was decided."""
        place = self.places[name]
        self._move(place, worker)
        self._pump.started(place.name, worker)

    def _move(self, place: Place, worker: int) -> None:
        self.running[place.worker] -= 1
        self.running[worker] += 1
        place.worker = worker

    def sampled(self, name: str, seen: Seen) -> None:
        """Pass on how far a stream has come; of one that has ended, nobody wants to know."""
        place = self.places.get(name)
        if place is not None:
            self._pump.sampled(place.name, seen)

    def ended(
        self, name: str, end: End, usage: Usage | None = None, *, seen: Seen | None = None
    ) -> bool:
        """Release what a request had.

        Parameters
        ----------
        name : str
        end : End
        usage : Usage, optional
            As its engine counted.
        seen : Seen, optional
            What the proxy saw of its answer.

        Returns
        -------
        bool
            Whether the books had it; a second end, or one of a request that they never had,
            changes nothing.
        """
        place = self.places.pop(name, None)
        if place is None:
            self.unknown += 1
            return False
        self.running[place.worker] -= 1
        self._turns.pop(place.name, None)
        # Of a request that came back the proxy has seen the last attempt alone.
        whole = seen if name == place.name else None
        return self._pump.ended(place.name, end, usage, seen=whole)

    def take_over(self, live: Iterable[Live], *, counted: tuple[float, float]) -> None:
        """Enter requests that run already, which a picker before this one decided, or none.

        Parameters
        ----------
        live : iterable of Live
        counted : (float, float)
            Between which times of the wall clock they were counted.
        """
        self._counted = counted
        found = list(live)
        self._pump.rebuild(found)
        for each in found:
            self.place(each.name, each.worker)
            self.places[each.name].started = True

    @property
    def before(self) -> int:
        """How many of those that were taken over still run."""
        return sum(name.startswith(BEFORE) for name in self.places)

    def ended_before(
        self,
        address: str | None,
        end: End,
        usage: Usage | None = None,
        *,
        span: tuple[float, float],
    ) -> bool:
        """Release what one has that was taken over, if this was one of them by its times.

        Of those at its address, nobody knows which.

        Parameters
        ----------
        address : str or None
            Its worker's.
        end : End
        usage : Usage, optional
        span : (float, float)
            When its worker was sent it and when it ended, by the wall clock.

        Returns
        -------
        bool
            Whether there was one.
        """
        if self._counted is None or not self.before:
            return False
        # Entries are told late, too: of what ended while no picker was there, and was not counted.
        # Whoever came or ended meanwhile may have been counted or not: figures will tell.
        if not (span[0] < self._counted[0] and self._counted[1] < span[1]):
            return False
        for name, place in self.places.items():
            if not name.startswith(BEFORE):
                # Those that were taken over are the oldest.
                return False
            if self._fleet.specs[place.worker].address == address:
                return self.ended(name, end, usage)
        return False

    def event(self, event: Event) -> None:
        """Forget what the core has given up by itself; as a listener of the core."""
        if not isinstance(event, Ended | Refusal):
            return
        place = self.places.pop(self._identity(event.name), None)
        self._turns.pop(event.name, None)
        if place is not None:
            self.running[place.worker] -= 1

    def tripped(self, door: str, error: Exception) -> None:
        """Tell the core's listeners of an error of a door's own, which costs no request anything.

        What it says may quote a request and is left out.
        """
        at = traceback.extract_tb(error.__traceback__)[-1:]
        where = "".join(f" in {frame.name}, line {frame.lineno}" for frame in at)
        self._pump.core.fault(door, f"{type(error).__name__}{where}")

    def first_token(self, name: str) -> None:
        """Note that a request's first token is there."""
        place = self.places.get(name)
        if place is not None:
            self._pump.first_token(place.name)

    def answering(self, name: str) -> None:
        """Note that a request's response has begun."""
        place = self.places.get(name)
        if place is not None:
            place.answering = True

    def doubt(self, name: str, grace_s: float) -> None:
        """Give a request up unless somebody says within `grace_s` seconds that it started."""
        place = self.places.get(name)
        if place is not None and not place.started:
            asyncio.get_running_loop().call_later(grace_s, self.lost, name)

    def lost(self, name: str) -> None:
        """Release a request that was placed and never reached a worker, as nobody will tell."""
        place = self.places.get(name)
        if place is not None and not place.started:
            self.ended(name, End.DISCONNECTED)
