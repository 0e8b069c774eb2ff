"""Parameters of a simulation's components: when requests come, how old information is, who fails.

What each field says of itself, and which fields a choice uses, stands with it: the command line,
TOML and reports follow from that (`brsolver.options`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from brsolver._limits import (
    MAX_COUNT,
    MAX_SLOTS,
    MAX_STALE_STEPS,
    MAX_TIME_S,
    require,
    require_flag,
    require_number,
    require_one_of,
    require_whole,
)
from brsolver.errors import ParameterError
from brsolver.options import (
    ARRIVALS,
    CLUSTER,
    FORECASTS,
    Choices,
    Option,
    option,
    shown,
)
from brsolver.simulator.config import component_from
from brsolver.specs import parse_spec

_EVENT = re.compile(
    r"(?P<worker>\d{1,18})@(?P<time>\d{1,18}(\.\d*)?([eE][+-]?\d{1,3})?)(?P<unit>s?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When requests become known.

    Attributes
    ----------
    mode : {"pool", "closed", "timestamps", "rate", "utilization"}
        ``pool``: the waiting queue is topped up to `pool` requests at every step, in trace
        order, as in [BFIO]. ``closed``: `concurrency` clients, each of which sends the trace's
        next request when its last one has ended, as benchmark clients do. ``timestamps``: the
        trace's own times. ``rate``: the trace's times scaled to `rate` requests per second
        (Poisson if it has none). ``utilization``: the same, at the rate that keeps about this
        fraction of all slots busy.
    pool : int or None
        Requests kept waiting; None means ``4·G``.
    concurrency : int or None
        Requests in flight at most.
    rate : float or None
        Requests per second.
    utilization : float or None
        Fraction of slots, e.g. 0.9; above 1 is overload.
    """

    CHOICES: ClassVar[Choices] = Choices(
        selector="mode",
        uses={
            "pool": ("pool",),
            "closed": ("concurrency",),
            "timestamps": (),
            "rate": ("rate",),
            "utilization": ("utilization",),
        },
        options={"timestamps": Option(help="At the trace's own times.", panel=ARRIVALS)},
    )

    mode: Literal["pool", "closed", "timestamps", "rate", "utilization"] = field(
        default="pool", metadata=option("When requests become known.", label="arrivals")
    )
    pool: int | None = field(
        default=None,
        metadata=option(
            "Keep N requests waiting, in trace order.",
            label="waiting pool",
            unit="requests",
            unset="4·G",
            metavar="N",
            panel=ARRIVALS,
            bounded=True,
        ),
    )
    concurrency: int | None = field(
        default=None,
        metadata=option(
            "A closed loop of N clients: the next request comes when one has ended.",
            label="requests in flight",
            unit="requests",
            metavar="N",
            panel=ARRIVALS,
        ),
    )
    rate: float | None = field(
        default=None,
        metadata=option(
            "R requests per second.",
            label="arrival rate",
            unit="requests per s",
            metavar="R",
            panel=ARRIVALS,
        ),
    )
    utilization: float | None = field(
        default=None,
        metadata=option(
            "The rate that keeps about U of all slots busy.",
            unit="of the slots",
            metavar="U",
            panel=ARRIVALS,
        ),
    )

    def __post_init__(self) -> None:
        require_one_of("mode", self.mode, *self.CHOICES.uses)
        if self.pool is not None:
            require_whole("pool", self.pool, 1, MAX_COUNT, " requests")
        self._check_concurrency()
        self._check_pace("rate", self.rate, 1e-9, 1e12, "requests per second")
        self._check_pace("utilization", self.utilization, 1e-6, 1e3, "of the slots, e.g. 0.9")

    @property
    def by_events(self) -> bool:
        """Whether requests come as the cluster takes them, and not at times of their own."""
        return self.mode in {"pool", "closed"}

    def _check_concurrency(self) -> None:
        if (self.concurrency is None) != (self.mode != "closed"):
            if self.mode != "closed":
                raise self.CHOICES.refuse("concurrency", self.mode)
            raise ParameterError("concurrency is None, must be a whole number of requests")
        if self.concurrency is not None:
            require_whole("concurrency", self.concurrency, 1, MAX_COUNT, " requests")

    def _check_pace(
        self, mode: str, value: float | None, low: float, high: float, unit: str
    ) -> None:
        if value is None:
            require(self.mode != mode, f"{mode} is None, must be a positive number {unit}")
            return
        if self.mode != mode:
            raise self.CHOICES.refuse(mode, self.mode)
        if isinstance(value, float):
            require(
                math.isfinite(value) and value > 0,
                f"{mode} is {value}, must be a positive number {unit}",
            )
        require_number(mode, value, low, high, f" {unit}")


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
    local_departures : bool
        Take off what has ended since, which whoever passes tokens on sees.
    """

    steps: int = field(
        default=0,
        metadata=option(
            "Age of the information that policies decide on, in steps.",
            label="age of information",
            unit="steps",
            metavar="N",
            panel=FORECASTS,
            flag="stale-steps",
            instead_of="ms",
            bounded=True,
        ),
    )
    ms: float = field(
        default=0.0,
        metadata=option(
            "Or its age in milliseconds.",
            label="age of information",
            unit="ms",
            metavar="D",
            panel=FORECASTS,
            flag="stale-ms",
            instead_of="steps",
            bounded=True,
        ),
    )
    mode: Literal["delay", "periodic"] = field(
        default="delay",
        metadata=option(
            "Always that old, or a snapshot that often.",
            label="how it ages",
            panel=FORECASTS,
            flag="stale-mode",
            bounded=True,
        ),
    )
    local_correction: bool = field(
        default=False,
        metadata=option(
            "Add what the router has placed since.",
            label="corrected by the router's own placements",
            panel=FORECASTS,
            bounded=True,
        ),
    )
    local_departures: bool = field(
        default=False,
        metadata=option(
            "Take off what has ended since.",
            label="corrected by the ends of requests",
            panel=FORECASTS,
            bounded=True,
        ),
    )

    def __post_init__(self) -> None:
        require_whole("steps", self.steps, 0, MAX_STALE_STEPS)
        require_number("ms", self.ms, 0, MAX_TIME_S, " milliseconds")
        require(
            not (self.steps and self.ms),
            f"steps is {self.steps} and ms {self.ms:g}, one must be 0: give one, not both",
        )
        require_one_of("mode", self.mode, "delay", "periodic")
        require_flag("local_correction", self.local_correction)
        require_flag("local_departures", self.local_departures)

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

    CHOICES: ClassVar[Choices] = Choices(
        selector="kind",
        uses={
            "fail": ("worker", "at_step", "at_s"),
            "join": ("worker", "at_step", "at_s", "slots", "capacity"),
        },
        options={
            "fail": Option(
                help="Worker W fails at T, e.g. 3@12.5s or 3@400 (steps). Repeatable.",
                metavar="W@T",
                panel=CLUSTER,
            ),
            "join": Option(
                help="Worker W joins at T; a new one may say slots=B,capacity=K. Repeatable.",
                metavar="W@T[:k=v,...]",
                panel=CLUSTER,
            ),
        },
    )

    kind: Literal["fail", "join"] = field(metadata=option("Whether it fails or joins."))
    worker: int = field(metadata=option("Its index.", metavar="W"))
    at_step: int | None = field(
        default=None, metadata=option("Decode step before which it happens.", metavar="N")
    )
    at_s: float | None = field(
        default=None, metadata=option("Time from which it happens.", metavar="S", unit="s")
    )
    slots: int | None = field(
        default=None, metadata=option("Slots of a new worker.", unset="worker 0's", metavar="B")
    )
    capacity: int | None = field(
        default=None,
        metadata=option("KV tokens of a new worker.", unset="worker 0's", metavar="K"),
    )

    def __post_init__(self) -> None:
        require_one_of("kind", self.kind, *self.CHOICES.uses)
        require_whole("worker", self.worker, 0, MAX_COUNT)
        require(
            (self.at_step is None) != (self.at_s is None),
            f"at_step is {self.at_step} and at_s {self.at_s}, exactly one must be given",
        )
        for name, low, high in (
            ("at_step", 0, MAX_COUNT),
            ("slots", 1, MAX_SLOTS),
            ("capacity", 1, MAX_COUNT),
        ):
            if (value := getattr(self, name)) is not None:
                require_whole(name, value, low, high)
        if self.at_s is not None:
            require_number("at_s", self.at_s, 0, MAX_TIME_S, " seconds")

    @classmethod
    def parse(cls, kind: str, text: str) -> Self:
        """Read ``W@T[:KEY=VALUE,...]``, T in steps, or in seconds: ``"3@12.5s"``, ``"3@400"``."""
        place, colon, rest = text.strip().partition(":")
        match = _EVENT.fullmatch(place)
        in_seconds = match is not None and match["unit"] == "s"
        if match is None or not (in_seconds or match["time"].isdigit()):
            raise ParameterError(
                f"{kind} is {text!r}, must be WORKER@TIME, e.g. 3@12.5s (seconds) or 3@400 (steps)"
            )
        when = {"at_s": match["time"]} if in_seconds else {"at_step": match["time"]}
        more = parse_spec(f"{kind}:{rest}")[1] if colon else {}
        given = {"kind": kind, "worker": match["worker"], **when}
        for name in set(more) & {*given, "at_s", "at_step"}:
            raise ParameterError(f"{kind} is {text!r}, must say {name} before the colon alone")
        return component_from(cls, {**given, **more}, kind, convert_texts=True)

    def __str__(self) -> str:
        """Write it as `parse` reads it, after its kind."""
        time = f"{self.at_s}s" if self.at_step is None else str(self.at_step)
        more = {"slots": self.slots, "capacity": self.capacity}
        settings = ",".join(f"{key}={shown(v)}" for key, v in more.items() if v is not None)
        return f"{self.kind} {self.worker}@{time}" + (f":{settings}" if settings else "")
