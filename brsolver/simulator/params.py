"""Parameters of a simulation, one validated dataclass per component."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from brsolver.errors import ParameterError


def require(condition: bool, message: str) -> None:
    """Raise `ParameterError` with `message` unless `condition` holds."""
    if not condition:
        raise ParameterError(message)


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
        require(
            self.model in ("affine", "max-mean", "table"),
            f"step-time model is {self.model!r}, must be affine, max-mean or table",
        )
        for name in ("base", "per_token", "per_mean_token"):
            value = getattr(self, name)
            require(
                math.isfinite(value) and value >= 0,
                f"step time {name} is {value}, must be a finite number of seconds, at least 0",
            )
        if self.model == "table":
            self._check_table()
        else:
            require(
                self.base + self.per_token + self.per_mean_token > 0,
                "step time base and per_token are all 0: steps would take no time",
            )

    def _check_table(self) -> None:
        require(
            len(self.loads) == len(self.seconds) >= 2,
            f"step-time table has {len(self.loads)} loads and {len(self.seconds)} durations, "
            "must have the same number of both, at least 2",
        )
        require(
            all(a < b for a, b in zip(self.loads, self.loads[1:], strict=False)),
            "step-time table loads must strictly increase",
        )
        require(
            all(math.isfinite(s) and s > 0 for s in self.seconds),
            "step-time table durations must be positive",
        )


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
        require(
            self.mode in ("pool", "timestamps", "rate", "utilization"),
            f"arrivals mode is {self.mode!r}, must be pool, timestamps, rate or utilization",
        )
        if self.mode == "pool":
            require(
                self.pool is None or self.pool >= 1,
                f"pool is {self.pool}, must be at least 1 request",
            )
        if self.mode == "rate":
            _require_positive("rate", self.rate, "requests per second")
        if self.mode == "utilization":
            _require_positive("utilization", self.utilization, "of the slots, e.g. 0.9")


def _require_positive(name: str, value: float | None, unit: str) -> None:
    require(
        value is not None and math.isfinite(value) and value > 0,
        f"{name} is {value}, must be a positive number {unit}",
    )


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
        require(
            self.mode in ("none", "delay", "tier"),
            f"prefill mode is {self.mode!r}, must be none, delay or tier",
        )
        require(
            math.isfinite(self.delay_s) and self.delay_s >= 0,
            f"prefill delay_s is {self.delay_s}, must be at least 0 seconds",
        )
        require(
            self.tokens_per_s > 0,
            f"prefill tokens_per_s is {self.tokens_per_s}, must be positive",
        )
        require(self.workers >= 1, f"prefill workers is {self.workers}, must be at least 1")


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
        require(self.steps >= 0, f"stale steps is {self.steps}, must be at least 0")
        require(
            math.isfinite(self.ms) and self.ms >= 0,
            f"stale ms is {self.ms}, must be at least 0 milliseconds",
        )
        require(not (self.steps and self.ms), "give stale steps or stale ms, not both")
        require(
            self.mode in ("delay", "periodic"),
            f"stale mode is {self.mode!r}, must be delay or periodic",
        )

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
        require(self.kind in ("fail", "join"), f"event kind is {self.kind!r}, must be fail or join")
        require(self.worker >= 0, f"event worker is {self.worker}, must be at least 0")
        require(
            (self.at_step is None) != (self.at_s is None),
            f"{self.kind} of worker {self.worker}: give exactly one of at_step and at_s",
        )
        require((self.at_step or 0) >= 0, f"event at_step is {self.at_step}, must be at least 0")
        require((self.at_s or 0.0) >= 0, f"event at_s is {self.at_s}, must be at least 0")


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
    refresh_steps: int = 32
    seed: int = 0
    warmup_steps: int = 0
    drain: Literal["exclude", "include"] = "exclude"
    max_steps: int | None = None
    clients: int = 1

    def __post_init__(self) -> None:
        require(self.workers >= 1, f"workers is {self.workers}, must be at least 1")
        for name, values in (("slots", self.slots_each()), ("capacity", self.capacity_each())):
            low = min((v for v in values if v is not None), default=1)
            require(low >= 1, f"{name} is {low}, must be at least 1")
        require(
            self.routing in ("pooled", "immediate"),
            f"routing is {self.routing!r}, must be pooled or immediate",
        )
        require(
            self.refresh_steps >= 1, f"refresh_steps is {self.refresh_steps}, must be at least 1"
        )
        require(self.seed >= 0, f"seed is {self.seed}, must be at least 0")
        require(self.warmup_steps >= 0, f"warmup_steps is {self.warmup_steps}, must be at least 0")
        require(
            self.drain in ("exclude", "include"),
            f"drain is {self.drain!r}, must be exclude or include",
        )
        require(
            self.max_steps is None or self.max_steps >= 1,
            f"max_steps is {self.max_steps}, must be at least 1",
        )
        require(self.clients >= 1, f"clients is {self.clients}, must be at least 1")
        require(
            self.arrivals.mode != "pool" or self.prefill.mode == "none",
            "prefill needs arrivals by time (timestamps, rate or utilization): "
            "a pool holds requests whose prefill is done",
        )

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
        """Build from nested dictionaries; unknown names are refused."""
        params: SimulationParams = _build(cls, values, "simulation")
        return params

    @classmethod
    def from_toml(cls, path: str | Path) -> SimulationParams:
        """Load from a TOML file with one table per component."""
        try:
            with Path(path).open("rb") as stream:
                return cls.from_dict(tomllib.load(stream))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ParameterError(f"{path}: cannot be read as TOML: {error}") from error


def _each(name: str, value: int | tuple[int, ...], workers: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * workers
    require(
        len(value) == workers,
        f"{name} has {len(value)} entries for {workers} workers, must have one each",
    )
    return tuple(value)


_NESTED: dict[str, type] = {
    "arrivals": Arrivals,
    "prefill": Prefill,
    "step_time": StepTime,
    "staleness": Staleness,
}


def _build(cls: type, values: dict[str, Any], owner: str) -> Any:
    from brsolver.errors import UnknownNameError

    known = list(cls.__dataclass_fields__)  # type: ignore[attr-defined] # dataclasses only
    prepared: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise UnknownNameError.suggest(f"{owner} parameter", key, known)
        prepared[key] = _nested(key, value)
    try:
        return cls(**prepared)
    except TypeError as error:
        raise ParameterError(f"{owner}: {error}") from error


def _nested(key: str, value: Any) -> Any:
    if key in _NESTED and isinstance(value, dict):
        return _build(_NESTED[key], value, key)
    if key == "events":
        return tuple(_build(WorkerEvent, item, "event") for item in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    return value
