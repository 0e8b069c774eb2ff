"""Requests as the picker's books know them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.cluster._state_kernels import NONE
from brsolver.cluster.view import NO_LIMIT
from brsolver.errors import StateError

if TYPE_CHECKING:
    from integration.picker.asks import Ask, Seen
    from integration.picker.clock import Mark


class NotEnteredError(StateError):
    """A request cannot be entered, or be back, as things are: nothing has changed."""


class Request:
    """A request that is held, or that has a worker.

    Attributes
    ----------
    name : str
    ask : Ask
    identity : int
        What it goes by in the session; `NONE` while it has none.
    prompt_tokens, max_tokens : int
        As booked.
    generated : int
        Tokens it had when it was entered; once it has ended, all.
    cached_tokens : int
        Prompt tokens that its worker is taken to have already.
    worker : int
        Where it is; `NONE` while it is held.
    arrival_s, decided_s : float
        When it came, and when it was given a worker, on the core's clock.
    first_s : float or None
        When its first token was there.
    since_s : float
        Since when it has been held, or was held: when it came, or came back from a worker.
    sent : bool
        Whether it was sent to a worker by these books, and did not run there before.
    started : bool
        Whether a worker has taken it.
    failed : frozenset of int
        Workers that did not take it, though it was sent there.
    begun : Mark or None
        How the step clock stood at its first token, as far as that is known.
    prompt_hash : int
        The same for equal prompts, as far as blocks tell.
    model, session : str
        Names by which forecasts may learn.
    seen : Seen or None
        What the proxy saw of its answer, just before it ends.
    beside : list of Request
        Its further sequences, which share its prompt, while it has a worker.
    """

    __slots__ = (
        "arrival_s",
        "ask",
        "begun",
        "beside",
        "cached_tokens",
        "decided_s",
        "failed",
        "first_s",
        "generated",
        "identity",
        "max_tokens",
        "model",
        "name",
        "prompt_hash",
        "prompt_tokens",
        "seen",
        "sent",
        "session",
        "since_s",
        "started",
        "worker",
    )

    def __init__(self, ask: Ask, arrival_s: float) -> None:
        self.name = ask.name
        self.ask = ask
        self.identity = NONE
        self.prompt_tokens = max(1, ask.prompt_tokens)
        self.max_tokens = NO_LIMIT if ask.max_tokens is None else max(1, ask.max_tokens)
        self.generated = 0
        self.cached_tokens = 0
        self.worker = NONE
        self.arrival_s = arrival_s
        self.since_s = arrival_s
        self.decided_s = arrival_s
        self.failed: frozenset[int] = frozenset()
        self.first_s: float | None = None
        self.sent = False
        self.started = False
        self.begun: Mark | None = None
        self.seen: Seen | None = None
        self.prompt_hash = ask.blocks[-1] if ask.blocks else 0
        self.model = ask.model
        self.session = ask.key or ""
        self.beside: list[Request] = []

    @property
    def slots(self) -> int:
        """How many slots it has, or will have at the least: sequences beyond wait for one."""
        return 1 + len(self.beside)

    def sequence(self) -> Request:
        """Return a further sequence of it: what the prompt holds counts once."""
        other = Request(self.ask, self.arrival_s)
        other.prompt_tokens = 1
        return other

    def times(self, now: float, tokens: int) -> tuple[float | None, float | None]:
        """Return seconds to its first token, and per token after it, as far as they are known.

        Parameters
        ----------
        now : float
            When it ended.
        tokens : int
            How many came of each of its slots.
        """
        first_s = self.first_s
        if first_s is None and self.begun is not None and tokens:
            # Nobody told: by the model.
            first_s = self.begun[0]
        if first_s is None or first_s > now:
            return None, None
        each = (now - first_s) / (tokens - 1) if tokens > 1 else None
        return first_s - self.arrival_s, each
