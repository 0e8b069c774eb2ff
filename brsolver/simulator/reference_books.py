"""What the plain reference keeps of requests, workers and steps: lists, of which loads are sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from brsolver.cluster.view import NO_LIMIT

if TYPE_CHECKING:
    from brsolver.hardware._step_kernels import StepParts


@dataclass
class Request:
    """One request and what has happened to it."""

    index: int
    prompt: int
    output: int
    ready_s: float | None
    generated: int = 0
    worker: int = -1
    start_step: int = -1
    finish_step: int = -1
    start_s: float | None = None
    finish_s: float | None = None
    preemptions: int = 0
    migrations: int = 0
    since: int = 0
    due: int = 0
    rejected: bool = False
    first_s: float | None = None
    cached: int = 0
    computed: int = 0
    follows: Request | None = None
    delay_s: float = 0.0
    prefill_s: float = 0.0
    arrival_s: float | None = None
    ended_s: float | None = None

    @property
    def kv_tokens(self) -> int:
        """Its load now."""
        return self.prompt + self.generated


@dataclass
class Move:
    """A request under way to a worker: it holds a slot and its KV tokens there."""

    request: Request
    until_s: float


@dataclass
class Worker:
    """One worker: what runs on it and what waits there."""

    slots: int
    capacity: int = NO_LIMIT
    alive: bool = True
    running: list[Request] = field(default_factory=list)
    queue: list[Request] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)

    @property
    def moved(self) -> list[Request]:
        """Requests on their way here from another worker."""
        return [move.request for move in self.moves]

    @property
    def coming(self) -> list[Request]:
        """Requests that are here and do not run yet."""
        return self.queue + self.moved

    @property
    def holding(self) -> int:
        """Slots taken."""
        return len(self.running) + len(self.moves)

    @property
    def load(self) -> int:
        """KV tokens of its running requests."""
        return sum(r.kv_tokens for r in self.running)

    @property
    def held(self) -> int:
        """KV tokens that have their place here."""
        return self.load + sum(r.kv_tokens for r in self.moved)

    @property
    def committed(self) -> int:
        """KV tokens of running requests and of all that come."""
        return self.load + sum(r.kv_tokens for r in self.coming)


@dataclass
class StepRecord:
    """What one step looked like as routed, and after its departures."""

    start_s: float
    duration_s: float
    loads: list[int]
    active: int
    post: list[int]
    prefill: list[int] = field(default_factory=list)
    parts: StepParts | None = None
