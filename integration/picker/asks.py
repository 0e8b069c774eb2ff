"""What the picker is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

BAD_REQUEST = 400
POOL_FULL = 429
NO_WORKER = 503


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that wants a worker.

    Attributes
    ----------
    name : str
        Our own id, once in the life of a picker.
    prompt_tokens : int
        As far as they are known.
    max_tokens : int or None
        Limit on generated tokens; None is no limit.
    blocks : tuple of int
        Hashes of the prompt's blocks, each with all before it; see `integration.routing.prefixes`.
    key : str or None
        What its client goes by, for forecasts that learn by client.
    stream : bool
        Whether its tokens are sent as they come.
    model : str
        The model that it names, for forecasts that learn by model; empty if it names none.
    sequences : int
        Slots that it takes, all on one worker: choices times prompts. Of a worker with fewer it
        takes all.
    """

    name: str
    prompt_tokens: int
    max_tokens: int | None = None
    blocks: tuple[int, ...] = ()
    key: str | None = None
    stream: bool = False
    model: str = ""
    sequences: int = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """A worker for a request.

    Attributes
    ----------
    worker : int
        Its index.
    fallbacks : tuple of int
        Others to try if it cannot be reached, best first.
    """

    worker: int
    fallbacks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """No worker for a request.

    Attributes
    ----------
    status : int
        429 where too many are held, or it has been held for too long; 503 without any worker; 400
        of what is no request at all; else what an engine said.
    message : str
        Why, in one line.
    retry_after_s : float or None
        When it may be worth trying again.
    body : bytes or None
        JSON that the client is given as it is: what an engine said. None words the message.
    """

    status: int
    message: str
    retry_after_s: float | None = None
    body: bytes | None = None


Answer = Placed | Refused


@dataclass(frozen=True, slots=True)
class Usage:
    """What an engine says that a request has used; None is not told.

    Attributes
    ----------
    prompt_tokens, completion_tokens : int or None
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the proxy has seen of an answer by some moment; seconds since its request came.

    Attributes
    ----------
    at_s : float
        That moment.
    sent : int
        Bytes of the answer's body that have gone to the client.
    kind : str
        What was asked for, as of `integration.picker.bodies.kind_of`; empty for what is none.
    asked_s : float or None
        When its worker was sent it.
    first_s, last_s : float or None
        When the first, and the last, bytes of the answer's body came from there.
    """

    at_s: float
    sent: int
    kind: str = ""
    asked_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Times of a stream as they were measured, not modelled.

    Attributes
    ----------
    ttft_s : float
        Seconds from when the request came to its first token.
    worker_ttft_s : float or None
        The same from when its worker was sent it.
    decode_s : float or None
        Seconds from its first token to its last.
    decoded : int
        Tokens after the first, in that time; 0 if nobody told.
    """

    ttft_s: float
    worker_ttft_s: float | None = None
    decode_s: float | None = None
    decoded: int = 0

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first."""
        return self.decode_s / self.decoded if self.decode_s and self.decoded else None


class End(StrEnum):
    """How a request ended."""

    FINISHED = "finished"
    DISCONNECTED = "disconnected"
    RESET = "reset"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    WORKER_DIED = "worker-died"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Gauges:
    """What an engine's metrics say of one worker; None is not told.

    Attributes
    ----------
    running, waiting : int or None
        Requests that it runs, and that wait there.
    kv_usage : float or None
        Share of its KV cache in use, 0 to 1.
    capacity : int or None
        KV tokens that this cache holds.
    steps : int or None
        Steps since it started.
    generation_tokens, prompt_tokens : int or None
        Tokens it has generated, and of prompts computed, since it started.
    finished : int or None
        Requests that it has finished since it started, each of several sequences counted; those
        that were cut short are not.
    prefills : int or None
        Prompts that it has computed since it started.
    prefill_s : float or None
        Seconds that these took, from when each was begun to its first token, added up.
    firsts, firsts_s : int or None, float or None
        First tokens since it started, and the seconds that requests waited for them, added up.
    gaps, gaps_s : int or None, float or None
        Intervals between tokens of a request since it started, and their seconds, added up.
    """

    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    capacity: int | None = None
    steps: int | None = None
    generation_tokens: int | None = None
    prompt_tokens: int | None = None
    finished: int | None = None
    prefills: int | None = None
    prefill_s: float | None = None
    firsts: int | None = None
    firsts_s: float | None = None
    gaps: int | None = None
    gaps_s: float | None = None

    @property
    def requests(self) -> int | None:
        """Requests that are there, running and waiting; None if that is not told."""
        if self.running is None:
            return None
        return self.running + (self.waiting or 0)
