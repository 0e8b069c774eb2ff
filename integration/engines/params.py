"""Parameters of a fake engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from brsolver._limits import (
    MAX_COUNT,
    MAX_SEED,
    MAX_SLOTS,
    MAX_TIME_S,
    require,
    require_number,
    require_one_of,
    require_whole,
)
from brsolver.hardware.model import DEFAULT_HARDWARE, step_time_of
from brsolver.simulator.prefill import Prefill

MAX_PORT = 65535
MAX_RANKS = 1024
MAX_SPEED = 1e6


@dataclass(frozen=True, kw_only=True)
class EngineParams:
    """What a fake engine is.

    Attributes
    ----------
    ranks : int
        Data-parallel ranks G, which share one barrier.
    hardware : str
        Preset or file that says what a step lasts.
    slots, capacity : int, int or None
        Requests that a rank runs at once, and KV tokens that it holds; None is unlimited.
    budget, threshold, interval : int
        Of prefill on the ranks; see `Prefill`.
    role : {"both", "prefill", "decode"}
        Tier. ``prefill`` keeps a prompt's KV until it is fetched, where a request says so, and
        takes none that was computed elsewhere; with ``decode`` it is the other way round.
    speed : float
        How much faster than the hardware it runs.
    model : str
        The model's name.
    host : str
        Address to listen on.
    port : int
        Of all ranks together, which ``X-data-parallel-rank`` chooses from; 0 takes a free one.
    ports_per_rank : int or None
        Port of rank 0 alone, those of the others following; 0 takes free ones, None has none.
    ignore_pin : bool
        Do not look at ``X-data-parallel-rank``.
    max_model_len : int
        Longest prompt plus output, in tokens.
    characters_per_token : float
        Length of a prompt's token, of prompts that are text.
    mean_output : float
        Mean output length of requests that may end before their `max_tokens`.
    keep_kv_s : float
        How long the KV of a prompt is kept that nobody fetches, in the engine's seconds.
    seed : int
        Of output lengths.
    log : str or None
        File that takes a line of JSON for each request; see `Journal`.

    Raises
    ------
    ParameterError
        A value is out of range.
    """

    ranks: int = 1
    hardware: str = DEFAULT_HARDWARE
    slots: int = 256
    capacity: int | None = None
    budget: int = 8192
    threshold: int = 0
    interval: int = 1
    role: Literal["both", "prefill", "decode"] = "both"
    speed: float = 1.0
    model: str = "fake"
    host: str = "127.0.0.1"
    port: int = 8000
    ports_per_rank: int | None = None
    ignore_pin: bool = False
    max_model_len: int = 131_072
    characters_per_token: float = 4.0
    mean_output: float = 128.0
    keep_kv_s: float = 480.0
    seed: int = 0
    log: str | None = None

    def __post_init__(self) -> None:
        require_whole("ranks", self.ranks, 1, MAX_RANKS)
        require_whole("slots", self.slots, 1, MAX_SLOTS)
        if self.capacity is not None:
            require_whole("capacity", self.capacity, 1, MAX_COUNT, " KV tokens")
        require_one_of("role", self.role, "both", "prefill", "decode")
        require_number("speed", self.speed, 1e-6, MAX_SPEED)
        require(self.model != "", "model is '', must be a name")
        require(self.host != "", "host is '', must be an address")
        self._check_ports()
        require_whole("max_model_len", self.max_model_len, 2, MAX_COUNT, " tokens")
        require_number("characters_per_token", self.characters_per_token, 0.1, 1000)
        require_number("mean_output", self.mean_output, 1, MAX_COUNT, " tokens")
        require_number("keep_kv_s", self.keep_kv_s, 0, MAX_TIME_S, " seconds")
        require_whole("seed", self.seed, 0, MAX_SEED)
        self.prefill.check_slots(self.slots)
        step_time_of(self.hardware)

    def _check_ports(self) -> None:
        require_whole("port", self.port, 0, MAX_PORT)
        first = self.ports_per_rank
        if first is None:
            return
        require_whole("ports_per_rank", first, 0, MAX_PORT)
        last = first + self.ranks - 1 if first else 0
        require_whole("port of the last rank", last, 0, MAX_PORT)
        require(
            not first <= self.port <= last or self.port == 0,
            f"port is {self.port}, must not be one of {first} to {last}, those of the ranks",
        )

    @property
    def prefill(self) -> Prefill:
        """Where and when prompts are computed."""
        return Prefill(
            mode="colocated",
            budget=self.budget,
            threshold=self.threshold,
            interval=self.interval,
        )

    @property
    def longest(self) -> int:
        """Longest prompt plus output that a rank can hold."""
        return min(self.max_model_len, self.capacity or self.max_model_len)
