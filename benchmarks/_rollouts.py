"""Rollout batches in virtual time: who places them, and the servers that they run at.

A batch comes at once. Each message between router and servers takes `LATENCY_S`. Servers are the
simulator's ranks (`brsolver.simulator.live`), all behind one barrier or each by itself.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from brsolver.cluster.state import ClusterState
from brsolver.hardware.model import step_time_of
from brsolver.simulator.live import LiveRanks
from brsolver.simulator.prefill import Prefill
from integration.fronts import FrontSettings, prompt_body
from integration.picker import Core, End, Placed, Reader, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LATENCY_S = 0.003
BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A rollout batch: `groups` prompts, `each` responses to every one.

    Attributes
    ----------
    prompt_tokens, output_tokens : ndarray of int64, shape (groups * each,)
    group : ndarray of int64, shape (groups * each,)
        Requests of one prompt.
    """

    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    group: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.group)

    @classmethod
    def drawn(
        cls,
        rng: np.random.Generator,
        *,
        groups: int,
        each: int,
        prompt_median: float = 500.0,
        output_median: float = 400.0,
        sigma: float = 1.0,
        shared: float = 0.5,
        most: int = 8192,
    ) -> Batch:
        """Draw lognormal lengths; `shared` of outputs' log variance is that of their prompt."""
        prompts = rng.lognormal(np.log(prompt_median), 0.8, groups)
        hard = rng.normal(0.0, sigma * np.sqrt(shared), groups)
        group = np.repeat(np.arange(groups), each)
        noise = rng.normal(0.0, sigma * np.sqrt(1.0 - shared), groups * each)
        outputs = np.exp(np.log(output_median) + hard[group] + noise)
        return cls(
            prompt_tokens=np.clip(prompts, 16, 8192).astype(np.int64)[group],
            output_tokens=np.clip(outputs, 2, most).astype(np.int64),
            group=group,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm:
    """Servers.

    Attributes
    ----------
    servers : int
    barrier : bool
        Whether they step together, as data-parallel ranks of one engine do.
    slots, budget : int
        Requests that each runs at once, and tokens of a step.
    capacity : int or None
        KV tokens.
    hardware : str
    slower : float
        How many times as long as the hardware says a step lasts.
    cache : bool
        Whether a server that was sent a prompt before need not compute it again.
    """

    servers: int = 8
    barrier: bool = True
    slots: int = 64
    budget: int = 8192
    capacity: int | None = None
    hardware: str = "minimax-m2.7-h200-dp4"
    slower: float = 1.0
    cache: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a batch.

    Attributes
    ----------
    makespan_s, most_s : float
        When the last response had ended, and 90 % of them.
    lost_share : float
        Time lost at the barrier over all steps; without a barrier the share of servers' time in
        which they had nothing to do.
    cached_share : float
        Prompt tokens that need not be computed.
    """

    makespan_s: float
    most_s: float
    lost_share: float
    cached_share: float


class Rule(Protocol):
    """Who places requests: told of the batch, then of ends, asked when time passes."""

    def begin(self, batch: Batch) -> None:
        """Take the batch in."""

    def ended(self, request: int) -> None:
        """Take in that a response has ended."""

    def advance(self) -> float | None:
        """Do what is due; return in how many seconds to be asked again."""


class Rollout:
    """One batch on one farm under one rule.

    Attributes
    ----------
    now : float
        Virtual seconds.
    """

    def __init__(self, farm: Farm, batch: Batch) -> None:
        self.farm, self.batch = farm, batch
        self.now = 0.0
        self._coming: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._engines = [
            _Engine(self, ranks)
            for ranks in ([farm.servers] if farm.barrier else [1] * farm.servers)
        ]
        self._ends = np.full(len(batch), np.inf)
        self._left = len(batch)
        self.rule: Rule | None = None

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def send(self, request: int, server: int) -> None:
        """Send a request to a server."""
        engine, rank = (0, server) if self.farm.barrier else (server, 0)
        self.after(LATENCY_S, self._engines[engine].take, request, rank)

    def after(self, seconds: float, call: Callable[..., None], *given: Any) -> None:
        """Have something called."""
        heapq.heappush(self._coming, (self.now + seconds, next(self._order), call, given))

    def run(self, rule: Rule) -> Outcome:
        """Let the batch run."""
        self.rule = rule
        rule.begin(self.batch)
        while self._left:
            delay = rule.advance()
            wanted = self.now + (np.inf if delay is None else delay)
            if self._coming and self._coming[0][0] <= wanted:
                self.now, _, call, given = heapq.heappop(self._coming)
                call(*given)
            else:
                self.now = wanted + 1e-9
        return self._outcome()

    def ended(self, request: int) -> None:
        """Take in that a response has come back."""
        self._ends[request] = self.now
        self._left -= 1
        assert self.rule is not None  # noqa: S101 # it runs
        self.rule.ended(request)

    def _outcome(self) -> Outcome:
        ends, engines = self._ends, self._engines
        makespan = float(ends.max())
        if self.farm.barrier:
            lost = engines[0].lost_s / engines[0].busy_s
        else:
            lost = 1.0 - sum(each.busy_s for each in engines) / (makespan * len(engines))
        cached = sum(each.cached for each in engines) / int(self.batch.prompt_tokens.sum())
        return Outcome(
            makespan_s=makespan,
            most_s=float(np.quantile(ends, 0.9)),
            lost_share=lost,
            cached_share=cached,
        )


class _Engine:
    """Ranks behind one barrier, in virtual time."""

    def __init__(self, rollout: Rollout, ranks: int) -> None:
        farm = rollout.farm
        state = ClusterState([farm.slots] * ranks, capacity=[farm.capacity] * ranks)
        prefill = Prefill(mode="colocated", budget=farm.budget)
        self._ranks = LiveRanks(state, step_time_of(farm.hardware), prefill=prefill)
        self._rollout = rollout
        self._stepping = False
        self._seen: list[set[int]] = [set() for _ in range(ranks)]
        self.busy_s = self.lost_s = 0.0
        self.cached = 0

    def take(self, request: int, rank: int) -> None:
        batch = self._rollout.batch
        prompt, group = int(batch.prompt_tokens[request]), int(batch.group[request])
        cached = prompt // BLOCK * BLOCK if group in self._seen[rank] else 0
        cached = min(cached, prompt - 1) if self._rollout.farm.cache else 0
        self._seen[rank].add(group)
        self.cached += cached
        tokens = int(batch.output_tokens[request])
        self._ranks.send(request, rank, prompt, output_tokens=tokens, cached_tokens=cached)
        if not self._stepping:
            self._stepping = True
            self._step()

    def _step(self) -> None:
        if not self._ranks.busy:
            self._stepping = False
            return
        step = self._ranks.step()
        slower = self._rollout.farm.slower
        lasts = slower * step.duration_s
        self.busy_s += lasts
        self.lost_s += slower * sum(step.lost_s)
        for request in step.ended:
            self._rollout.after(lasts + LATENCY_S, self._rollout.ended, request)
        self._rollout.after(lasts, self._step)


class LeastInFlight:
    """verl's rule: the server with the fewest requests in flight, at once; ties at random."""

    def __init__(self, rollout: Rollout, rng: np.random.Generator) -> None:
        self._rollout, self._rng = rollout, rng
        self._inflight = np.zeros(rollout.farm.servers, np.int64)
        self._where: dict[int, int] = {}

    def begin(self, batch: Batch) -> None:
        """Place all."""
        for request in range(len(batch)):
            least = np.flatnonzero(self._inflight == self._inflight.min())
            server = int(self._rng.choice(least))
            self._inflight[server] += 1
            self._where[request] = server
            self._rollout.send(request, server)

    def ended(self, request: int) -> None:
        """Count it off."""
        self._inflight[self._where.pop(request)] -= 1

    def advance(self) -> float | None:
        """Do nothing."""
        return None


class TwoChoices:
    """Ray Serve's rule: of two servers at random the one with fewer requests, if it has room.

    In order of arrival, by at most two tasks for each server and 50 in all, each of which waits
    for 25 ms after its second miss, and twice as long after every further one, 500 ms at most.

    Parameters
    ----------
    limit : int
        ``max_ongoing_requests``.
    """

    def __init__(self, rollout: Rollout, rng: np.random.Generator, *, limit: int) -> None:
        self._rollout, self._rng, self._limit = rollout, rng, limit
        self._inflight = np.zeros(rollout.farm.servers, np.int64)
        self._where: dict[int, int] = {}
        self._waiting: deque[int] = deque()

    def begin(self, batch: Batch) -> None:
        """Begin to place them."""
        self._waiting.extend(range(len(batch)))
        for _ in range(min(50, 2 * self._rollout.farm.servers)):
            self._task(0)

    def ended(self, request: int) -> None:
        """Count it off."""
        self._inflight[self._where.pop(request)] -= 1

    def advance(self) -> float | None:
        """Do nothing: tasks wake by themselves."""
        return None

    def _task(self, missed: int) -> None:
        while self._waiting:
            pair = self._rng.choice(len(self._inflight), 2, replace=False)
            server = int(min(pair, key=lambda each: self._inflight[each]))
            if self._inflight[server] >= self._limit:
                wait_s = min(0.025 * 2.0 ** (missed - 1), 0.5) if missed else 0.0
                self._rollout.after(wait_s, self._task, missed + 1)
                return
            missed = 0
            request = self._waiting.popleft()
            self._inflight[server] += 1
            self._where[request] = server
            self._rollout.send(request, server)


class Session:
    """A front's core, which hears of ends and of nothing else."""

    def __init__(self, rollout: Rollout, **settings: object) -> None:
        farm = rollout.farm
        made = FrontSettings.read(
            {
                "hardware": farm.hardware,
                "slots": farm.slots,
                "capacity": farm.capacity,
                "budget": farm.budget,
                "budget_ms": 60_000.0,
                "start_max_s": 0.0,
                **settings,
            },
            "settings",
        )
        self._rollout = rollout
        names = [f"s{index}" for index in range(farm.servers)]
        specs = [WorkerSpec(name=name, address=f"{name}:1") for name in names]
        self.core = Core(made.picker, specs, clock=rollout.clock)
        self._reader = Reader(made.picker)
        self.core.listeners.append(self._reader)

    def begin(self, batch: Batch) -> None:
        """Ask for all."""
        for request in range(len(batch)):
            # The same ids for the same prompt, no two prompts beginning alike.
            start, length = int(batch.group[request]) << 20, int(batch.prompt_tokens[request])
            body = prompt_body(range(start, start + length))
            self.core.request(self._reader.ask(body, str(request)), self._answer(request))

    def ended(self, request: int) -> None:
        """Tell of an end."""
        self.core.ended(str(request), End.FINISHED)

    def advance(self) -> float | None:
        """Let the core do what is due."""
        return self.core.advance()

    def _answer(self, request: int) -> Callable[[Any], None]:
        def answer(given: Any) -> None:
            assert isinstance(given, Placed)  # noqa: S101 # nobody is refused here
            self.core.started(str(request), given.worker)
            self._rollout.send(request, given.worker)

        return answer
