"""A server of several ranks and the books of a picker before it, with all that is late or lost.

Time is the simulation's own. What the picker sees of it is what `Arrivals` is told.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from itertools import count

import numpy as np

from integration.picker.arrivals import Arrivals, Told

LISTEN_S = 0.1
WAITING_WEIGHS = 4


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a server is sent, and what goes wrong.

    Attributes
    ----------
    kept : bool
        Whether the engine follows pins; else it places as vLLM's own front end does.
    ranks, slots : int
    rate : float
        Requests per second for each slot, where a request takes one second on average.
    spread : float
        Of the logarithm of how long they take.
    transit_s, lag_s : float
        How long requests are on their way at most, and their ends.
    leave, slow, short : float
        Shares of requests whose client leaves, of those whose end is read up to 30 s late, and of
        those that the engine finishes and does not count.
    others : float
        Requests that others send, for each of our own.
    every_s, late_s : float
        Between two polls, and how old and how late their answers are at most.
    """

    kept: bool
    ranks: int = 2
    slots: int = 4
    rate: float = 1.5
    spread: float = 0.7
    transit_s: float = 0.2
    lag_s: float = 0.3
    leave: float = 0.0
    slow: float = 0.0
    short: float = 0.0
    others: float = 0.0
    every_s: float = 1.0
    late_s: float = 0.3


class Request:
    """Where a request is; `sent_to` is None of one that is not ours."""

    def __init__(self, sent_to, takes_s):
        self.sent_to, self.takes_s = sent_to, takes_s
        self.rank = None
        self.running = self.finished = self.gone = self.over = False


class Server:
    """The simulation.

    Attributes
    ----------
    sent : int
        Requests that the picker has sent.
    tellings : int
        Of all ranks.
    found : dict
        What was found to be wrong, the first time.
    """

    def __init__(self, traffic, seed):
        self._t, self._rng = traffic, np.random.default_rng(seed)
        self._now, self._order, self._coming = 0.0, count(), []
        self._held = deque()
        ranks = range(traffic.ranks)
        self._reserved, self._sent, self._lost = ([0] * traffic.ranks for _ in range(3))
        self._finished = [0] * traffic.ranks
        self._waiting, self._running = [deque() for _ in ranks], [0 for _ in ranks]
        self._heard, self._heard_s = [0 for _ in ranks], -1.0
        self._arrivals = Arrivals()
        self.tellings, self.found = 0, {}

    @property
    def sent(self):
        return sum(self._sent)

    def run(self, tellings):
        """Let time pass until something is found to be wrong, or that often was told."""
        self._after(0.0, self._ours)
        if self._t.others:
            self._after(0.0, self._anothers)
        self._after(self._t.every_s, self._ask)
        while self.tellings < tellings and not self.found:
            self._now, _, what, given = heapq.heappop(self._coming)
            what(*given)
        return self

    def _after(self, seconds, what, *given):
        heapq.heappush(self._coming, (self._now + seconds, next(self._order), what, given))

    def _upto(self, most):
        return self._rng.uniform(0.0, most)

    def _chance(self, share):
        return share > 0 and self._rng.random() < share

    def _takes_s(self):
        return self._rng.lognormal(-(self._t.spread**2) / 2, self._t.spread)

    def _rate(self):
        return self._t.rate * self._t.ranks * self._t.slots

    def _ours(self):
        # No more than a real pool holds.
        if len(self._held) < 100:
            self._held.append(self._takes_s())
        self._place()
        self._after(self._rng.exponential(1 / self._rate()), self._ours)

    def _anothers(self):
        self._arrive(request := Request(None, self._takes_s()))
        if self._chance(self._t.leave):
            self._after(self._upto(request.takes_s), self._leave, request)
        self._after(self._rng.exponential(1 / (self._rate() * self._t.others)), self._anothers)

    def _place(self):
        while self._held and min(self._reserved) < self._t.slots:
            free = np.flatnonzero(np.array(self._reserved) == min(self._reserved))
            rank = int(self._rng.choice(free))
            self._reserved[rank] += 1
            self._sent[rank] += 1
            request = Request(rank, self._held.popleft())
            self._after(self._upto(self._t.transit_s), self._arrive, request)
            if self._chance(self._t.leave):
                after_s = self._upto(request.takes_s)
                self._after(after_s + self._upto(self._t.lag_s), self._leave, request)
                self._after(after_s + self._upto(self._t.lag_s), self._end, request, True)

    def _chosen(self):
        """Return the rank that the engine takes by itself, by what it heard last."""
        if self._now - self._heard_s >= LISTEN_S:
            self._heard_s = self._now
            self._heard = [
                WAITING_WEIGHS * len(queue) + running
                for queue, running in zip(self._waiting, self._running, strict=True)
            ]
        rank = int(np.argmin(self._heard))
        self._heard[rank] += WAITING_WEIGHS
        return rank

    def _arrive(self, request):
        if request.gone:
            return
        pinned = self._t.kept and request.sent_to is not None
        request.rank = request.sent_to if pinned else self._chosen()
        self._waiting[request.rank].append(request)
        self._start(request.rank)

    def _start(self, rank):
        while self._waiting[rank] and self._running[rank] < self._t.slots:
            request = self._waiting[rank].popleft()
            request.running = True
            self._running[rank] += 1
            self._after(request.takes_s, self._finish, request)

    def _finish(self, request):
        if request.gone:
            return
        request.finished, request.running = True, False
        self._running[request.rank] -= 1
        # Those that are not counted are of one kind, which one rank has more of than another.
        self._finished[request.rank] += not self._chance(self._t.short * (1 + request.rank) / 2)
        self._start(request.rank)
        late_s = self._upto(30.0) if self._chance(self._t.slow) else self._upto(self._t.lag_s)
        self._after(late_s, self._end, request, False)

    def _leave(self, request):
        if request.finished or request.gone:
            return
        request.gone = True
        if request.rank is None:
            return
        if request.running:
            self._running[request.rank] -= 1
        else:
            self._waiting[request.rank].remove(request)
        self._start(request.rank)

    def _end(self, request, lost):
        if request.over or request.sent_to is None:
            return
        request.over = True
        self._reserved[request.sent_to] -= 1
        self._lost[request.sent_to] += lost
        self._place()

    def _ask(self):
        self._after(self._upto(self._t.late_s), self._count, self._now)

    def _count(self, asked_s):
        counted = [
            (len(queue) + running, finished)
            for queue, running, finished in zip(
                self._waiting, self._running, self._finished, strict=True
            )
        ]
        self._after(self._upto(self._t.late_s), self._tell, counted, asked_s)

    def _tell(self, counted, asked_s):
        self.tellings += 1
        for rank, (present, finished) in enumerate(counted):
            told = Told(present, finished, self._sent[rank], self._lost[rank])
            self.found = self._arrivals.told(rank, told, range(self._t.ranks)) or self.found
        # One that answers late is asked at the next tick.
        ticks = int((self._now - asked_s) / self._t.every_s) + 1
        self._after(asked_s + ticks * self._t.every_s - self._now, self._ask)
