"""Parameters of a simulation, one validated dataclass per component."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from brsolver.errors import ParameterError
from brsolver.simulator._limits import (
    MAX_COUNT,
    MAX_FRONT_ENDS,
    MAX_REFRESH_STEPS,
    MAX_SECONDS,
    MAX_SEED,
    MAX_SLOTS,
    MAX_STALE_STEPS,
    MAX_TIME_S,
    MAX_TOTAL_SLOTS,
    MAX_WORKERS,
    finite,
    require,
    require_flag,
    require_kind,
    require_number,
    require_one_of,
    require_whole,
)
from brsolver.simulator.config import params_from_dict, params_from_toml

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """How long one decode step lasts.

    Attributes
    ----------
    model : {"affine", "max-mean", "table"}
        ``affine``: ``base + per_token·max_g L_g`` [BFIO]. ``max-mean``:
        ``base + per_token·max_g L_g + per_mean_token·mean_g L_g`` [DPR]. ``table``: linear
        interpolation of measured (max load, seconds), continued linearly beyond both ends.
    base : float
        Seconds per step at zero load.
    per_token : float
        Seconds per KV token of the heaviest worker.
    per_mean_token : float
        Seconds per KV token of the mean over live workers.
    loads, seconds : tuple of float
        The measured table, by increasing load.
    """

    model: Literal["affine", "max-mean", "table"] = "affine"
    base: float = 0.005
    per_token: float = 1e-7
    per_mean_token: float = 0.0
    loads: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require_one_of("step-time model", self.model, "affine", "max-mean", "table")
        for name in ("base", "per_token", "per_mean_token"):
            require_number(f"step time {name}", getattr(self, name), 0, MAX_SECONDS, " seconds")
        if self.model == "table":
            self._check_table()
        else:
            require(
                self.base + self.per_token + self.per_mean_token > 0,
                "step time base and per_token are all 0: steps would take no time",
            )

    def _check_table(self) -> None:
        for name in ("loads", "seconds"):
            values = _as_tuple(f"step-time table {name}", getattr(self, name))
            object.__setattr__(self, name, values)
        require(
            len(self.loads) == len(self.seconds) >= 2,
            f"step-time table has {len(self.loads)} loads and {len(self.seconds)} durations, "
            "must have the same number of both, at least 2",
        )
        loads = [finite("step-time table load", load) for load in self.loads]
        require(
            all(a < b for a, b in pairwise(loads)),
            "step-time table loads must strictly increase",
        )
        for duration in self.seconds:
            seconds = finite("step-time table duration", duration)
            require(seconds > 0, "step-time table durations must be positive")
            require_number("step-time table duration", seconds, 0, MAX_SECONDS, " seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When requests become known.

    Attributes
    ----------
    mode : {"pool", "timestamps", "rate", "utilization"}
        ``pool``: the waiting queue is topped up to `pool` requests at every step, in trace
        order (formulation §6). ``timestamps``: the trace's own times. ``rate``: the trace's
        times scaled to `rate` requests per second (Poisson if it has none). ``utilization``:
        the same, at the rate that keeps about this fraction of all slots busy.
    pool : int or None
        Requests kept waiting; None means ``4·G``.
    rate : float or None
        Requests per second.
    utilization : float or None
        Fraction of slots, e.g. 0.9; above 1 is overload.
    """

    mode: Literal["pool", "timestamps", "rate", "utilization"] = "pool"
    pool: int | None = None
    rate: float | None = None
    utilization: float | None = None

    def __post_init__(self) -> None:
        require_one_of("arrivals mode", self.mode, "pool", "timestamps", "rate", "utilization")
        if self.pool is not None:
            require_whole("pool", self.pool, 1, MAX_COUNT, " requests")
        self._check_pace("rate", self.rate, 1e-9, 1e12, "requests per second")
        self._check_pace("utilization", self.utilization, 1e-6, 1e3, "of the slots, e.g. 0.9")

    def _check_pace(
        self, mode: str, value: float | None, low: float, high: float, unit: str
    ) -> None:
        if value is None:
            require(self.mode != mode, f"{mode} is None, must be a positive number {unit}")
            return
        require(
            self.mode == mode, f"{mode} is given, but arrivals mode {self.mode!r} does not use it"
        )
        if isinstance(value, float):
            require(
                math.isfinite(value) and value > 0,
                f"{mode} is {value}, must be a positive number {unit}",
            )
        require_number(mode, value, low, high, f" {unit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """What happens between a request's arrival and its becoming routable.

    Attributes
    ----------
    mode : {"none", "delay", "tier"}
        ``delay``: ``delay_s + prompt_tokens/tokens_per_s`` each, without queueing. ``tier``:
        `workers` prefill workers, first come first served, each `tokens_per_s`.
    delay_s : float
        Fixed delay in seconds.
    tokens_per_s : float
        Prefill speed in prompt tokens per second; infinite means no time per token.
    workers : int
        Size P of the prefill tier.
    """

    mode: Literal["none", "delay", "tier"] = "none"
    delay_s: float = 0.0
    tokens_per_s: float = math.inf
    workers: int = 1

    def __post_init__(self) -> None:
        require_one_of("prefill mode", self.mode, "none", "delay", "tier")
        require_number("prefill delay_s", self.delay_s, 0, MAX_TIME_S, " seconds")
        if self.tokens_per_s != math.inf:
            require_number("prefill tokens_per_s", self.tokens_per_s, 1e-9, math.inf)
        require_whole("prefill workers", self.workers, 1, MAX_FRONT_ENDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staleness:
    """How old the information is that policies decide on.

    Attributes
    ----------
    steps : int
        Age in decode steps.
    ms : float
        Age in milliseconds; at most one of `steps` and `ms` may be positive.
    mode : {"delay", "periodic"}
        ``delay``: always that old. ``periodic``: a snapshot is taken that often and used until
        the next (vLLM: every 100 ms).
    local_correction : bool
        Add what the router itself has placed since the snapshot.
    """

    steps: int = 0
    ms: float = 0.0
    mode: Literal["delay", "periodic"] = "delay"
    local_correction: bool = False

    def __post_init__(self) -> None:
        require_whole("stale steps", self.steps, 0, MAX_STALE_STEPS)
        require_number("stale ms", self.ms, 0, MAX_TIME_S, " milliseconds")
        require(not (self.steps and self.ms), "give stale steps or stale ms, not both")
        require_one_of("stale mode", self.mode, "delay", "periodic")
        require_flag("stale local_correction", self.local_correction)

    @property
    def active(self) -> bool:
        """Whether information is stale at all."""
        return self.steps > 0 or self.ms > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEvent:
    """A worker that fails or joins.

    Attributes
    ----------
    kind : {"fail", "join"}
        A failing worker loses its KV cache: its requests go back to the head of the queue and
        bring what they had generated as extra prompt. ``join`` brings back a failed worker or
        adds a new one.
    worker : int
        Its index. A new worker takes the next index, G, G + 1, …
    at_step : int or None
        Decode step before which it happens.
    at_s : float or None
        Time in seconds from which it happens; exactly one of `at_step` and `at_s` is given.
    slots, capacity : int or None
        Of a new worker; None takes worker 0's.
    """

    kind: Literal["fail", "join"]
    worker: int
    at_step: int | None = None
    at_s: float | None = None
    slots: int | None = None
    capacity: int | None = None

    def __post_init__(self) -> None:
        require_one_of("event kind", self.kind, "fail", "join")
        require_whole("event worker", self.worker, 0, MAX_COUNT)
        require(
            (self.at_step is None) != (self.at_s is None),
            f"{self.kind} of worker {self.worker}: give exactly one of at_step and at_s",
        )
        for name, low, high in (
            ("at_step", 0, MAX_COUNT),
            ("slots", 1, MAX_SLOTS),
            ("capacity", 1, MAX_COUNT),
        ):
            if (value := getattr(self, name)) is not None:
                require_whole(f"event {name}", value, low, high)
        if self.at_s is not None:
            require_number("event at_s", self.at_s, 0, MAX_TIME_S, " seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationParams:
    """Everything a simulation needs besides trace and policy.

    Attributes
    ----------
    workers : int
        Decode workers G at the start.
    slots : int or tuple of int
        Slots B per worker, or one number each.
    capacity : int, tuple of int or None
        KV-token capacity K per worker; None is unlimited.
    routing : {"pooled", "immediate"}
        A set of requests per step, or a decision per arrival.
    arrivals, prefill, step_time, staleness
        See `Arrivals`, `Prefill`, `StepTime` and `Staleness`.
    events : tuple of WorkerEvent
        Workers that fail or join.
    transit_steps : int
        Decode steps between a decision and the first step in which the request can run, while
        anything runs; it holds its slot meanwhile, and counts as queued at its worker. In a real
        server it is 1: what is sent once a step has ended finds the next one under way.
    refresh_steps : int
        Decode steps ΔT between batched refreshes of all forecasts.
    seed : int
        Seed of all random streams.
    warmup_steps : int
        Steps left out of averages at the start.
    drain : {"exclude", "include"}
        Whether averages cover the steps after the last admission; [BFIO] leaves them out.
    max_steps : int or None
        Stop after this many steps and report what is unfinished.
    clients : int
        Independent front ends, for rules that count them.
    """

    workers: int = 8
    slots: int | tuple[int, ...] = 32
    capacity: int | tuple[int, ...] | None = None
    routing: Literal["pooled", "immediate"] = "pooled"
    arrivals: Arrivals = field(default_factory=Arrivals)
    prefill: Prefill = field(default_factory=Prefill)
    step_time: StepTime = field(default_factory=StepTime)
    staleness: Staleness = field(default_factory=Staleness)
    events: tuple[WorkerEvent, ...] = ()
    transit_steps: int = 0
    refresh_steps: int = 32
    seed: int = 0
    warmup_steps: int = 0
    drain: Literal["exclude", "include"] = "exclude"
    max_steps: int | None = None
    clients: int = 1

    def __post_init__(self) -> None:
        require_whole("workers", self.workers, 1, MAX_WORKERS)
        self._check_sizes()
        require_one_of("routing", self.routing, "pooled", "immediate")
        self._check_components()
        require_whole("transit_steps", self.transit_steps, 0, MAX_STALE_STEPS)
        require_whole("refresh_steps", self.refresh_steps, 1, MAX_REFRESH_STEPS)
        require_whole("seed", self.seed, 0, MAX_SEED)
        require_whole("warmup_steps", self.warmup_steps, 0, MAX_COUNT)
        require_one_of("drain", self.drain, "exclude", "include")
        if self.max_steps is not None:
            require_whole("max_steps", self.max_steps, 1, MAX_COUNT)
        require_whole("clients", self.clients, 1, MAX_FRONT_ENDS)
        require(
            self.arrivals.mode != "pool" or self.prefill.mode == "none",
            "prefill needs arrivals by time (timestamps, rate or utilization): "
            "a pool holds requests whose prefill is done",
        )

    def _check_sizes(self) -> None:
        for name, high in (("slots", MAX_SLOTS), ("capacity", MAX_COUNT)):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            if value is None and name == "capacity":
                continue
            for each in value if isinstance(value, list | tuple) else (value,):
                require_whole(name, each, 1, high)
        total = sum(self.slots_each())
        require(
            total <= MAX_TOTAL_SLOTS,
            f"slots of all workers add up to {total:,}, must be at most {MAX_TOTAL_SLOTS:,}",
        )
        self.capacity_each()

    def _check_components(self) -> None:
        require_kind("arrivals", self.arrivals, Arrivals)
        require_kind("prefill", self.prefill, Prefill)
        require_kind("step_time", self.step_time, StepTime)
        require_kind("staleness", self.staleness, Staleness)
        object.__setattr__(self, "events", _as_tuple("events", self.events))
        for event in self.events:
            require_kind("event", event, WorkerEvent)

    def slots_each(self) -> tuple[int, ...]:
        """Slots of each worker, length G."""
        return _each("slots", self.slots, self.workers)

    def capacity_each(self) -> tuple[int | None, ...]:
        """KV-token capacity of each worker, length G."""
        if self.capacity is None:
            return (None,) * self.workers
        return _each("capacity", self.capacity, self.workers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, as they stand in reports and TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SimulationParams:
        """Build from nested dictionaries; see `brsolver.simulator.config.params_from_dict`."""
        return params_from_dict(cls, values)

    @classmethod
    def from_toml(cls, path: str | Path) -> SimulationParams:
        """Load from a TOML file with one table per component."""
        return params_from_toml(cls, path)


def _each(name: str, value: int | tuple[int, ...], workers: int) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        return (int(value),) * workers
    require(
        len(value) == workers,
        f"{name} has {len(value)} entries for {workers} workers, must have one each",
    )
    return value


def _as_tuple(name: str, value: object) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ParameterError(f"{name} is {value!r}, must be a tuple")
    return tuple(value)
