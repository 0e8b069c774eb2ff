"""Requests that are still to come, in plain Python: some come once others have ended."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from brsolver.simulator.reference import Request


class Coming(list["Request"]):
    """Requests that are known to come, the next one first.

    Parameters
    ----------
    requests : iterable of Request
        In order of readiness. One that `follows` another is known to come when that has ended.
    timed : bool
        Whether requests come at times of their own. Otherwise the cluster takes them, in the order
        of the trace: then delays do not count.

    Attributes
    ----------
    later : list of Request
        Those that follow others which have not ended.
    """

    def __init__(self, requests: Iterable[Request], *, timed: bool) -> None:
        everybody = list(requests)
        super().__init__(r for r in everybody if r.follows is None)
        self.later = [r for r in everybody if r.follows is not None]
        self.timed = timed

    def follow(self) -> bool:
        """Expect the turns whose previous one has ended; tell whether there were any."""
        told = [request for request in self.later if _ended_s(request) is not None]
        for request in told:
            self.later.remove(request)
            if self.timed:
                request.arrival_s = (_ended_s(request) or 0.0) + request.delay_s
                request.ready_s = request.arrival_s + request.prefill_s
            bisect.insort(self, request, key=self._order)
        return bool(told)

    def _order(self, request: Request) -> tuple[float, int]:
        return (request.ready_s or 0.0) if self.timed else 0.0, request.index


def _ended_s(request: Request) -> float | None:
    """Return when the turn before this one has ended, whichever way."""
    return None if request.follows is None else request.follows.ended_s
