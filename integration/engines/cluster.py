"""The ranks of a fake engine: tasks go in, tokens come out, step by step; no transport."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from brsolver.cluster.state import ClusterState
from brsolver.hardware._step_kernels import N_PREFILL, N_SEQUENCES
from brsolver.hardware.model import step_time_of
from brsolver.simulator.live import LiveRanks
from integration.engines.faults import Faults
from integration.engines.figures import Figures

if TYPE_CHECKING:
    from brsolver.simulator.live import LiveStep
    from integration.engines.params import EngineParams

LISTEN_S = 0.1
"""How often vLLM's front end hears how many requests wait and run at the ranks."""
WAITING_WEIGHS = 4
"""One that waits counts as so many that run, for vLLM's front end."""


class Listener(Protocol):
    """Who is told of a task's tokens."""

    def tokens(self, first: int, end: int) -> None:
        """Take tokens `first` to `end`, the latter left out."""
        ...

    def lost(self) -> None:
        """Take in that the rank died."""
        ...


@dataclass(slots=True, eq=False)
class Task:
    """One choice of an answer, at a rank.

    Attributes
    ----------
    prompt_tokens, output_tokens, cached_tokens : int
    listener : Listener
    rank : int
    identity : int
        For the ranks.
    sent : int
        Tokens that the listener has been told of.
    told_s : float
        When that was, or when the task was sent, in seconds of the machine.
    """

    prompt_tokens: int
    output_tokens: int
    listener: Listener
    rank: int
    cached_tokens: int = 0
    identity: int = -1
    sent: int = 0
    told_s: float = 0.0


@dataclass(slots=True)
class Heard:
    """What vLLM's front end knows of a rank."""

    waiting: int = 0
    running: int = 0

    @property
    def score(self) -> int:
        """By which it chooses."""
        return WAITING_WEIGHS * self.waiting + self.running


@dataclass(slots=True)
class Kept:
    """KV of a computed prompt that waits to be fetched."""

    rank: int
    tokens: int
    until_s: float


class Cluster:
    """Ranks behind one barrier.

    A step is begun by `begin`, which says how long it lasts, and told of by `finish` when that
    is over. In between requests come and go; what comes waits for the next step.

    Attributes
    ----------
    ranks : LiveRanks
    faults : Faults
    figures : list of Figures
        By rank.
    clock_s : float
        Seconds of all steps that are over.
    """

    def __init__(self, params: EngineParams) -> None:
        self.params = params
        capacity = [params.capacity] * params.ranks
        self.state = ClusterState([params.slots] * params.ranks, capacity=capacity)
        step_time = step_time_of(params.hardware)
        self.ranks = LiveRanks(self.state, step_time, prefill=params.prefill)
        self.faults = Faults(params.ranks)
        self.figures = [Figures() for _ in range(params.ranks)]
        self.clock_s = 0.0
        self._tasks: dict[int, Task] = {}
        self._decoding: dict[int, Task] = {}
        self._identities = 0
        self._step: LiveStep | None = None
        self._lasts = 0.0
        self._heard = [Heard() for _ in range(params.ranks)]
        self._heard_at = 0.0
        self._kept: dict[str, Kept] = {}

    @property
    def busy(self) -> bool:
        """Whether there is anything to step for."""
        return self.ranks.busy

    def warm_up(self) -> None:
        """Let the kernels compile, on ranks that are thrown away."""
        ranks = LiveRanks(self.state.copy(), self.ranks.step_time, prefill=self.ranks.prefill)
        ranks.send(0, 0, 1, output_tokens=2)
        while ranks.busy:
            ranks.step()

    def choose(self) -> int:
        """Return the rank that vLLM's own front end sends the next request to."""
        rank = min(range(self.params.ranks), key=lambda g: (self._heard[g].score, g))
        self._heard[rank].waiting += 1
        return rank

    def submit(self, task: Task) -> None:
        """Send a task to its rank."""
        task.identity = self._identities
        task.told_s = monotonic()
        self._identities += 1
        self.ranks.send(
            task.identity,
            task.rank,
            task.prompt_tokens,
            output_tokens=task.output_tokens,
            cached_tokens=task.cached_tokens,
        )
        self._tasks[task.identity] = task

    def abort(self, task: Task) -> None:
        """Take a task off its rank, if it is there still."""
        self._tasks.pop(task.identity, None)
        self._decoding.pop(task.identity, None)
        if task.identity in self.ranks:
            self.ranks.leave(task.identity)
            self.figures[task.rank].aborted += 1

    def kill(self, rank: int) -> None:
        """Let a rank lose all that it has."""
        self.ranks.drop(rank)
        for task in [task for task in self._tasks.values() if task.rank == rank]:
            del self._tasks[task.identity]
            self._decoding.pop(task.identity, None)
            task.listener.lost()

    def begin(self) -> float:
        """Begin a step; return how many seconds it lasts, 0 if there is nothing to do."""
        self._step = step = self.ranks.step()
        for identity in step.first:
            task = self._tasks[identity]
            self._decoding[identity] = task
            self.figures[task.rank].prompt_tokens += task.prompt_tokens
        self._lasts = step.duration_s * self.faults.slowness
        return self._lasts

    def finish(self) -> None:
        """Hand out the tokens of the step that was begun."""
        step, self._step = self._step, None
        if step is None:
            return
        self.clock_s += self._lasts
        self._count(step)
        self.deliver()
        self._listen()
        self._forget_kept()

    def deliver(self) -> None:
        """Hand out the tokens that there are, but for ranks that hang."""
        now = monotonic()
        for task in list(self._decoding.values()):
            if self.faults.any and self.faults.hangs(task.rank):
                continue
            at_rank = task.identity in self.ranks
            have = self.ranks.generated(task.identity) if at_rank else task.output_tokens
            first, task.sent = task.sent, have
            if not at_rank:
                self._end(task)
            if have > first:
                figures = self.figures[task.rank]
                figures.generation_tokens += have - first
                # As vLLM does, once for each time that there are further tokens.
                (figures.gap_s if first else figures.first_s).add(now - task.told_s)
                task.told_s = now
                task.listener.tokens(first, have)

    def keep(self, name: str, rank: int, tokens: int) -> None:
        """Keep the KV of a prompt until somebody fetches it."""
        self._kept[name] = Kept(rank, tokens, self.clock_s + self.params.keep_kv_s)
        self._limit(rank)

    def fetch(self, name: str) -> bool:
        """Let the KV of a prompt go; tell whether it was there."""
        kept = self._kept.pop(name, None)
        if kept is not None:
            self._limit(kept.rank)
        return kept is not None

    def kept_tokens(self, rank: int) -> int:
        """Return the KV tokens that a rank keeps for others."""
        return sum(kept.tokens for kept in self._kept.values() if kept.rank == rank)

    def kv_usage(self, rank: int) -> float:
        """Return the share of a rank's KV tokens in use; 0 if they have no limit."""
        if self.params.capacity is None:
            return 0.0
        held = self.ranks.held_tokens(rank) + self.kept_tokens(rank)
        return min(held / self.params.capacity, 1.0)

    def _end(self, task: Task) -> None:
        del self._tasks[task.identity]
        del self._decoding[task.identity]
        self.figures[task.rank].finished += 1

    def _count(self, step: LiveStep) -> None:
        for rank, figures in enumerate(self.figures):
            tokens = int(step.loads[N_SEQUENCES, rank] + step.loads[N_PREFILL, rank])
            if tokens > 0:
                figures.step_tokens.add(tokens)

    def _listen(self) -> None:
        if self.clock_s - self._heard_at < LISTEN_S:
            return
        self._heard_at = self.clock_s
        for rank in range(self.params.ranks):
            self._heard[rank] = Heard(self.ranks.waiting(rank), self.ranks.running(rank))

    def _limit(self, rank: int) -> None:
        """Leave the rank the KV tokens that it does not keep for others."""
        if self.params.capacity is not None:
            left = max(self.params.capacity - self.kept_tokens(rank), 1)
            self.state.set_capacity(rank, left)

    def _forget_kept(self) -> None:
        for name in [name for name, kept in self._kept.items() if kept.until_s <= self.clock_s]:
            self.fetch(name)
