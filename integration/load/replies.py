"""What became of each request, as its client saw it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from integration.load.kinds import Kind


@dataclass(slots=True, kw_only=True, eq=False)
class Reply:
    """One request; times are of the monotonic clock, in seconds, 0 where something never came.

    Attributes
    ----------
    row : int
        Of the trace.
    wanted : int
        Tokens that were asked for.
    due_s : float
        When it was to be sent: by the schedule, when the turn before it had ended and its delay
        was over, or when a client of a closed loop was free.
    sent_s : float
        When it was sent.
    kind : Kind
    why : str
        What went wrong, if something did.
    status : int
        Of HTTP.
    first_s, last_s, end_s : float
        When its first chunk with tokens came, its last, and when its connection was done.
    tokens, prompt_tokens : int
        By the server's usage; else chunks that came, and the trace's.
    told : bool
        Whether they are by usage.
    chunk_s : array of float64
        When each chunk with tokens came.
    """

    row: int
    wanted: int
    due_s: float
    sent_s: float = 0.0
    kind: Kind = Kind.INTERRUPTED
    why: str = ""
    status: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    end_s: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    told: bool = False
    chunk_s: array[float] = field(default_factory=lambda: array("d"))

    @property
    def complete(self) -> bool:
        """Whether all of it came."""
        return self.kind is Kind.COMPLETE

    @property
    def late_s(self) -> float:
        """Seconds that the client sent it too late."""
        return self.sent_s - self.due_s

    @property
    def ttft_s(self) -> float:
        """Seconds from when it was due to the first token."""
        return self.first_s - self.due_s

    @property
    def e2e_s(self) -> float:
        """Seconds from when it was due to the last token."""
        return self.last_s - self.due_s

    @property
    def tpot_s(self) -> float:
        """Seconds per token after the first; NaN for a request of one token."""
        if self.tokens < 2:
            return float("nan")
        return (self.last_s - self.first_s) / (self.tokens - 1)
