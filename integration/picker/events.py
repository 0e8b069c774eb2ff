"""What happens in the picker, for whoever listens: metrics, pages, records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from integration.picker.asks import Ask, End, Measured, Refused, Usage

if TYPE_CHECKING:
    from brsolver.cluster.view import IntArray
    from brsolver.simulator.live import LiveStep

__all__ = [
    "NOWHERE",
    "Ask",
    "Decided",
    "End",
    "Ended",
    "Event",
    "Fault",
    "FirstToken",
    "Listener",
    "Measured",
    "Refusal",
    "Refused",
    "Requested",
    "Returned",
    "Started",
    "Stepped",
    "Usage",
    "WorkerChanged",
]

NOWHERE = -1
"""In place of a worker: the request was never given one."""


@dataclass(frozen=True, slots=True)
class Requested:
    """A request has come.

    Attributes
    ----------
    name : str
    ask : Ask
    at_s : float
        On the core's clock.
    """

    name: str
    ask: Ask
    at_s: float


@dataclass(frozen=True, slots=True)
class Decided:
    """A request has been given a worker.

    Attributes
    ----------
    name : str
    worker : int
    held_s : float
        How long it was held.
    decision_s : float
        What the decision took of the processor, shared among all that it placed.
    policy : str
    fallback : bool
        Whether the fail-safe decided instead of the policy.
    """

    name: str
    worker: int
    held_s: float
    decision_s: float
    policy: str
    fallback: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request has been refused.

    Attributes
    ----------
    name : str
    answer : Refused
    """

    name: str
    answer: Refused


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has taken a request.

    Attributes
    ----------
    name : str
    worker : int
        Perhaps another than was decided.
    """

    name: str
    worker: int


@dataclass(frozen=True, slots=True)
class Returned:
    """A worker did not take a request, which is held again.

    Attributes
    ----------
    name : str
    worker : int
    """

    name: str
    worker: int


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first token of a request is there.

    Attributes
    ----------
    name : str
    at_s : float
        On the core's clock.
    """

    name: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A request has ended, and what it had reserved is released.

    Attributes
    ----------
    name : str
    worker : int
        `NOWHERE` if it was withdrawn before it was given one.
    end : End
    usage : Usage or None
    at_s : float
        On the core's clock.
    ttft_s, tpot_s : float or None
        Seconds to its first token, and per token after it, as far as they are known; by the model
        where no door tells of first tokens.
    tokens : int
        Generated tokens: as the engine counted, or else by the bytes of its stream, where others of
        its kind have told what a token has, or else by the model.
    measured : Measured or None
        Its times as the proxy saw them, where it saw a stream.
    """

    name: str
    worker: int
    end: End
    usage: Usage | None
    at_s: float
    ttft_s: float | None
    tpot_s: float | None
    tokens: int = 0
    measured: Measured | None = None


@dataclass(frozen=True, slots=True)
class Stepped:
    """The model of the ranks has done a step.

    Attributes
    ----------
    step : LiveStep
        Its durations are as long as the engines' own steps seem to last.
    at_s : float
        When the step ends, on the core's clock.
    running, held : int
        Requests that are at workers, and that are held.
    backlog : ndarray of int64, shape (G,)
        Prompt tokens that each worker has yet to compute.
    """

    step: LiveStep
    at_s: float
    running: int
    held: int
    backlog: IntArray


@dataclass(frozen=True, slots=True)
class WorkerChanged:
    """A worker has come, gone, or changed.

    Attributes
    ----------
    worker : int
    what : str
        ``added``, ``up``, ``down``, ``draining`` or ``gone``.
    why : str
        In one line; empty if nobody said.
    """

    worker: int
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something went wrong, and serving goes on.

    Attributes
    ----------
    kind : str
    text : str
        In one line.
    """

    kind: str
    text: str


Event = (
    Requested
    | Decided
    | Refusal
    | Started
    | Returned
    | FirstToken
    | Ended
    | Stepped
    | WorkerChanged
    | Fault
)


class Listener(Protocol):
    """Who is told of every event, in order, while it happens; must not call the core."""

    def event(self, event: Event) -> None:
        """Take in an event."""
        ...
