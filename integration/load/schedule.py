"""When requests are to be sent, before anything is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.streams import stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.traces.trace import Trace
    from integration.load.params import Pace


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Schedule:
    """When each request is to be sent.

    Attributes
    ----------
    due_s : ndarray of float64, shape (n,)
        Seconds from the beginning; NaN for turns that follow others, and in a closed loop.
    concurrency : int or None
        Requests in flight, of a closed loop.
    previous : ndarray of int64, shape (n,)
        The turn that each request follows, -1 if none.
    delay_s : ndarray of float64, shape (n,)
        Seconds from the end of that turn to this; 0 in a closed loop, where times do not count.
    """

    due_s: NDArray[np.float64]
    previous: NDArray[np.int64]
    delay_s: NDArray[np.float64]
    concurrency: int | None = None

    def __len__(self) -> int:
        return int(self.due_s.size)

    @property
    def followers(self) -> dict[int, list[int]]:
        """By request, those that follow it."""
        found: dict[int, list[int]] = {}
        for row in np.flatnonzero(self.previous >= 0).tolist():
            found.setdefault(int(self.previous[row]), []).append(row)
        return found


def schedule_of(trace: Trace, pace: Pace, seed: int = 0) -> Schedule:
    """Return when the requests of a trace are to be sent.

    As the simulator has it: a rate is that of all requests, first turns come at their share of
    it; delays are not scaled, since people think as long as they think; in a closed loop times and
    delays do not count, and a turn can be sent once the one before it has ended.

    Raises
    ------
    ParameterError
        The trace has no times, and there is neither a rate nor a number of clients.
    """
    follows = trace.follows
    delay = np.zeros(len(trace)) if trace.delay_s is None else np.nan_to_num(trace.delay_s)
    if pace.closed:
        due, delay = np.full(len(trace), np.nan), np.zeros(len(trace))
    elif pace.rate is not None:
        due = _poisson(follows, pace.rate, seed)
    elif trace.arrival_s is None:
        raise ParameterError(
            f"{trace.name} has no arrival times, must be sent with --rate or --concurrency"
        )
    else:
        due = np.where(follows, np.nan, trace.arrival_s / pace.speed)
    return Schedule(due_s=due, previous=trace.previous, delay_s=delay, concurrency=pace.concurrency)


def _poisson(follows: NDArray[np.bool_], rate: float, seed: int) -> NDArray[np.float64]:
    firsts = ~follows
    gaps = stream(seed, "arrivals").exponential(1 / (rate * firsts.mean()), int(firsts.sum()))
    gaps[0] = 0.0
    due = np.full(follows.size, np.nan)
    due[firsts] = np.cumsum(gaps)
    return due
