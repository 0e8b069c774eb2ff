"""What engines say of themselves, held against the books: ignored pins, lost streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.picker.arrivals import Arrivals, Told

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from integration.picker.workers import Worker, Workers

_TELLINGS = 8
"""Of every rank, at least, before anything is said of pins."""
_ENOUGH = 96.0
"""Requests that must have been seen, summed over tellings."""
_MEMORY = 64
"""Tellings after which what was seen counts half."""
_ASTRAY = 0.35
"""Share of requests that are not where they were sent, from which on pins seem to be ignored."""
_TOGETHER = 0.3
"""Share by which the sums of all ranks may differ: else others send requests there, too."""


class _Seen:
    """Sums over tellings of one rank."""

    __slots__ = ("astray", "books", "engine", "tellings")

    def __init__(self) -> None:
        self.tellings = 0
        self.books = self.engine = self.astray = 0.0

    def add(self, books: int, engine: int) -> None:
        if self.tellings >= _MEMORY:
            self.tellings //= 2
            self.books, self.engine, self.astray = self.books / 2, self.engine / 2, self.astray / 2
        self.tellings += 1
        self.books += books
        self.engine += engine
        self.astray += abs(books - engine)


class Pins:
    """Notices ranks whose engine does not run what was pinned to them.

    By what came to each, where engines say how many requests they have finished, rank by rank: see
    `integration.picker.arrivals`. Where they do not, by how many run at each, which differs only
    as far as an engine's own choice leaves ranks unequal.

    Parameters
    ----------
    workers : Workers
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._seen: dict[int, _Seen] = {}
        self._arrivals: dict[str, Arrivals] = {}
        self._said: set[int] = set()

    def ignored(self, worker: int) -> bool:
        """Tell whether a worker's engine was found to ignore pins."""
        return worker in self._said

    def forget(self, worker: Worker) -> None:
        """Begin anew with a worker, and with what came to all ranks of its server."""
        self._seen.pop(worker.index, None)
        self._said.discard(worker.index)
        if self._arrivals.pop(worker.spec.address, None) is not None:
            self._said -= {each.index for each in self.ranks_beside(worker)}

    def told(self, worker: Worker) -> str:
        """Take in what a rank's engine has told; return what is wrong with it, once."""
        gauges = worker.gauges
        requests = None if gauges is None else gauges.requests
        if gauges is None or requests is None:
            return ""
        if worker.spec.rank is None or worker.index in self._said:
            return ""
        if gauges.finished is None:
            return self._by_running(worker, requests)
        return self._by_arrivals(worker, Told(requests, gauges.finished, worker.sent, worker.lost))

    def _by_arrivals(self, worker: Worker, told: Told) -> str:
        arrivals = self._arrivals.setdefault(worker.spec.address, Arrivals())
        group = [each.index for each in self.ranks_beside(worker)]
        moved = arrivals.told(worker.index, told, group)
        if not moved:
            return ""
        self._said.update(group)
        return self._moved_text(worker, moved)

    def _moved_text(self, worker: Worker, moved: Mapping[int, int]) -> str:
        least = self._workers[min(moved, key=moved.__getitem__)]
        most = self._workers[max(moved, key=moved.__getitem__)]
        return (
            f"{least.spec.name}: at least {-moved[least.index]} requests that were sent to it did "
            f"not come, and {moved[most.index]} that were not came to {most.spec.name}: "
            f"{worker.spec.address} seems to ignore the rank that requests are pinned to"
        )

    def _by_running(self, worker: Worker, requests: int) -> str:
        self._seen.setdefault(worker.index, _Seen()).add(worker.reserved, requests)
        if not self._astray(worker):
            return ""
        self._said.add(worker.index)
        return self._text(worker)

    def _astray(self, worker: Worker) -> bool:
        group = [self._seen.get(each.index) for each in self.ranks_beside(worker)]
        known = [each for each in group if each is not None and each.tellings >= _TELLINGS]
        if len(known) < len(group) or len(group) < 2:
            return False
        books, engine = sum(each.books for each in known), sum(each.engine for each in known)
        if abs(books - engine) > _TOGETHER * max(books, engine):
            return False
        mine = self._seen[worker.index]
        most = max(mine.books, mine.engine)
        return most >= _ENOUGH and mine.astray > _ASTRAY * most

    def _text(self, worker: Worker) -> str:
        mine = self._seen[worker.index]
        return (
            f"{worker.spec.name}: its engine runs {mine.engine / mine.tellings:.1f} requests where "
            f"{mine.books / mine.tellings:.1f} were sent: {worker.spec.address} seems to ignore "
            "the rank that requests are pinned to"
        )

    def ranks_beside(self, worker: Worker) -> list[Worker]:
        """Return the ranks of a worker's server, itself among them."""
        address = worker.spec.address
        return [each for each in self._workers if each.spec.address == address and not each.gone]


class Leaks:
    """Notices servers that run nothing for a while, where the books have streams.

    Parameters
    ----------
    patience_s : float
        For how long; 0 notices nothing.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._idle_since: dict[int, float] = {}

    def told(self, worker: Worker, now: float) -> None:
        """Take in what an engine has told."""
        requests = None if worker.gauges is None else worker.gauges.requests
        if requests == 0:
            self._idle_since.setdefault(worker.index, now)
        else:
            self._idle_since.pop(worker.index, None)

    def forget(self, worker: int) -> None:
        """Begin anew with a worker."""
        self._idle_since.pop(worker, None)

    def lost_before(self, ranks: Iterable[Worker], now: float) -> float | None:
        """Return the time before which streams of a server's ranks began that are lost, if any."""
        since = [self._idle_since.get(each.index) for each in ranks]
        known = [each for each in since if each is not None]
        if not self._patience_s or not known or len(known) < len(since):
            return None
        latest = max(known)
        return latest if now - latest >= self._patience_s else None
