"""From a client's request to the workers to try: what all doors have in common."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from integration.picker import Ask, End, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from integration.doors.fleet import Fleet
    from integration.doors.ledger import Ledger
    from integration.picker import Answer, Pump, Reader

NOBODY = Refused(status=503, message="no worker is ready", retry_after_s=1.0)


class Destination(NamedTuple):
    """Where a request goes.

    Attributes
    ----------
    endpoints : str
        Workers to try, ``ip:port`` separated by commas.
    rank : int or None
        Rank that the request is pinned to, where one server has several.
    name : str or None
        Our identity of the request; None if it has no reservation.
    last : bool
        Whether it is not to be tried elsewhere any more.
    """

    endpoints: str
    rank: int | None
    name: str | None
    last: bool = False


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a request goes, and as what.

    Attributes
    ----------
    destination : Destination or Refused
    body : bytes or None
        In place of the client's; None leaves that as it is.
    headers : dict of str to str
        To set besides.
    """

    destination: Destination | Refused
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def by_client(reader: Reader) -> Callable[[str, str, bytes, str | None], Ask | Refused | None]:
    """Return what reads requests for a `Reception`.

    Clients that give no name of their own go by their API key's.

    Parameters
    ----------
    reader : Reader
    """

    def read(method: str, path: str, body: bytes, client: str | None) -> Ask | Refused | None:
        ask = reader.read(method, path, body)
        if client is not None and isinstance(ask, Ask) and ask.key is None:
            return replace(ask, key=client)
        return ask

    return read


class Reception:
    """Places requests.

    Parameters
    ----------
    pump : Pump
    fleet : Fleet
    ledger : Ledger
    read : callable
        Makes an `Ask` of method, path, body and client's name, a `Refused` of a body that no
        engine would take, None of a request that needs no reservation.
    retries : int or None
        How often the proxy may ask again about a request that a worker did not take; None where it
        never does.

    Attributes
    ----------
    passed : Counter of str
        Requests that were let pass without a reservation, by worker's address.
    """

    def __init__(
        self,
        pump: Pump,
        fleet: Fleet,
        ledger: Ledger,
        *,
        read: Callable[[str, str, bytes, str | None], Ask | Refused | None],
        retries: int | None = None,
    ) -> None:
        self._pump = pump
        self._fleet = fleet
        self._retries = retries
        self.ledger = ledger
        self.read = read
        self.passed: Counter[str] = Counter()

    def anywhere(self, subset: Collection[str] | None = None) -> Destination | Refused:
        """Return a live worker for a request that needs no reservation.

        Parameters
        ----------
        subset : collection of str, optional
            Addresses that may be picked.
        """
        worker = self._fleet.any_live() if subset is None else self._least(subset)
        if worker is None:
            return NOBODY
        self.passed[self._fleet.specs[worker].address] += 1
        return self._destination(worker, (), None)

    async def place(self, ask: Ask, subset: Collection[str] | None = None) -> Destination | Refused:
        """Wait for a worker for a request. Cancelled, the request is withdrawn.

        Parameters
        ----------
        ask : Ask
        subset : collection of str, optional
            Addresses that may be picked.
        """
        if subset is not None and self._least(subset) is None:
            return NOBODY
        return self.settle(ask.name, await self._pump.pick(ask), subset)

    async def place_again(self, identity: str) -> Destination | Refused:
        """Wait for another worker for a request that came back. Cancelled, it is withdrawn.

        Parameters
        ----------
        identity : str
            See `Ledger.back`.
        """
        if not self.ledger.is_back(identity):
            return self.anywhere()
        name = self.ledger.asked_again(identity)
        return self.settle(name, await self._pump.pick_again(name))

    def ask(self, ask: Ask, told: Callable[[Answer], None]) -> None:
        """Have a worker found for a request; `told` is called once, now or later, to `settle` it.

        Who waits no longer calls `withdraw`.
        """
        self._pump.ask(ask, told)

    def again(self, name: str, told: Callable[[Answer], None]) -> None:
        """Have another worker found for a request that came back, as `ask` does.

        Parameters
        ----------
        name : str
            See `Ledger.asked_again`.
        told : callable
        """
        self._pump.again(name, told)

    def withdraw(self, name: str) -> None:
        """Take in that nobody waits for a request's worker any more."""
        self._pump.ended(name, End.DISCONNECTED)

    def settle(
        self, name: str, answer: Answer, subset: Collection[str] | None = None
    ) -> Destination | Refused:
        """Enter a decision and return where the request goes."""
        if isinstance(answer, Refused):
            return answer
        last = self._retries is not None and self.ledger.turn(name) >= self._retries
        identity = self.ledger.place(name, answer.worker)
        if subset is not None:
            return self._within(identity, answer.worker, answer.fallbacks, subset)
        destination = self._destination(answer.worker, answer.fallbacks, identity)
        return destination._replace(last=last)

    def _within(
        self, name: str, worker: int, fallbacks: tuple[int, ...], subset: Collection[str]
    ) -> Destination | Refused:
        """Keep to the workers allowed: policies decide over all, and few proxies restrict them."""
        specs = self._fleet.specs
        if specs[worker].address not in subset:
            least = self._least(subset)
            if least is None:
                self.ledger.lost(name)
                return NOBODY
            self.ledger.move(name, least)
            worker = least
        kept = tuple(other for other in fallbacks if specs[other].address in subset)
        return self._destination(worker, kept, name)

    def _least(self, subset: Collection[str]) -> int | None:
        """Return the live worker of those allowed that has the fewest requests."""
        running = self.ledger.running
        allowed = [w for w in self._fleet.live if self._fleet.specs[w].address in subset]
        return min(allowed, key=running.__getitem__, default=None)

    def _destination(
        self, worker: int, fallbacks: tuple[int, ...], name: str | None
    ) -> Destination:
        specs = self._fleet.specs
        address = specs[worker].address
        if fallbacks:
            tried = dict.fromkeys([address, *(specs[other].address for other in fallbacks)])
            address = ",".join(tried)
        return Destination(address, specs[worker].rank, name)
