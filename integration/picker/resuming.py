"""Requests that ran before this picker did: entered by what engines and the proxy say of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from integration.picker.asks import Ask
from integration.picker.events import Requested, Started
from integration.picker.foreign import TOKENS_EACH
from integration.picker.requests import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from integration.picker.announcing import Announcer
    from integration.picker.asks import Gauges
    from integration.picker.books import Books
    from integration.picker.workers import Worker, Workers

BEFORE = "before-"
"""What names begin with of requests that ran before: nobody told theirs."""


class Live(NamedTuple):
    """A request that runs already.

    Attributes
    ----------
    name : str
    worker : int
    prompt_tokens, generated : int
        As far as they can be told.
    """

    name: str
    worker: int
    prompt_tokens: int
    generated: int


def found_running(
    workers: Iterable[Worker], at_proxy: Mapping[str, int], gauges: Mapping[int, Gauges]
) -> list[Live]:
    """Return what a proxy has at workers, each request with a share of the KV cache in use there.

    Which of a server's ranks has a request only engines tell; where they tell nothing, its
    requests are spread evenly.

    Parameters
    ----------
    workers : iterable of Worker
    at_proxy : mapping of str to int
        Requests under way by worker's address, as the proxy counts them.
    gauges : mapping of int to Gauges
        By worker, of those whose engines tell anything.
    """
    here = [each for each in workers if not each.gone]
    found: list[Live] = []
    for address, active in at_proxy.items():
        ranks = [each for each in here if each.spec.address == address]
        for worker, count in _spread(ranks, active, gauges):
            told = gauges.get(worker.index)
            tokens = _tokens_each(worker, count, told)
            found += [
                Live(f"{BEFORE}{worker.index}-{number}", worker.index, tokens, 1)
                for number in range(count)
            ]
    return found


def _spread(
    ranks: Sequence[Worker], active: int, gauges: Mapping[int, Gauges]
) -> list[tuple[Worker, int]]:
    """Return how many of the requests at an address each of its ranks has."""
    told = {each.index: gauges[each.index].requests for each in ranks if each.index in gauges}
    counts = Counter[int]()
    for each in ranks:
        requests = told.get(each.index)
        if requests is not None:
            # Engines may run others' requests, too: no more of them than the proxy has.
            counts[each.index] = min(requests, active - counts.total())
    silent = [each.index for each in ranks if told.get(each.index) is None]
    for turn in range(active - counts.total() if silent else 0):
        counts[silent[turn % len(silent)]] += 1
    return [(each, counts[each.index]) for each in ranks if counts[each.index] > 0]


def _tokens_each(worker: Worker, count: int, told: Gauges | None) -> int:
    usage = None if told is None else told.kv_usage
    if usage is None or worker.capacity is None:
        return TOKENS_EACH
    shares = max(count, told.requests or 0) if told is not None else count
    return max(1, int(usage * worker.capacity / shares))


def enter(
    live: Iterable[Live],
    *,
    books: Books,
    workers: Workers,
    announcer: Announcer,
    now: float,
) -> int:
    """Enter requests that run; return how many: those known, or at workers gone, are passed over.

    Parameters
    ----------
    live : iterable of Live
    books : Books
    workers : Workers
    announcer : Announcer
    now : float
    """
    count = 0
    for name, worker, prompt_tokens, generated in live:
        if name in books.known or workers[worker].gone:
            continue
        request = Request(Ask(name, prompt_tokens), now)
        books.enter(request)
        announcer.emit(Requested(name, request.ask, now))
        books.resume(request, worker, generated)
        request.started = True
        announcer.emit(Started(name, worker))
        count += 1
    return count
