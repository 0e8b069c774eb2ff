"""What the picker is told: how to route, and to which workers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from brsolver._limits import (
    MAX_COUNT,
    MAX_REFRESH_STEPS,
    MAX_REQUEST_TOKENS,
    MAX_SEED,
    MAX_SLOTS,
    require,
    require_number,
    require_one_of,
    require_whole,
)
from brsolver.hardware.model import DEFAULT_HARDWARE
from brsolver.simulator.prefill import MAX_BUDGET
from brsolver.specs import build_params
from brsolver.tuned import read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_WAIT_S = 86_400.0
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """A worker: one data-parallel rank of an engine, or an engine.

    Attributes
    ----------
    name : str
        What pages and metrics call it.
    address : str
        ``host:port``.
    rank : int or None
        Which of the ranks behind that address, where one has several.
    slots : int or None
        Sequences that it runs at once; None as `PickerParams` says.
    capacity : int or None
        KV tokens that it holds; None as `PickerParams` says.
    uid : str or None
        What runs there, where addresses and names are used again: a pod's UID. None is not told.
    """

    name: str
    address: str
    rank: int | None = None
    slots: int | None = None
    capacity: int | None = None
    uid: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name is empty, must be what the worker is called")
        found = _ADDRESS.fullmatch(self.address)
        require(
            found is not None and 0 < int(found["port"]) < 65_536,
            f"address is {self.address!r}, must be HOST:PORT",
        )
        if self.rank is not None:
            require_whole("rank", self.rank, 0, MAX_SLOTS)
        if self.slots is not None:
            require_whole("slots", self.slots, 1, MAX_SLOTS, " sequences")
        if self.capacity is not None:
            require_whole("capacity", self.capacity, 1, MAX_COUNT, " KV tokens")

    def is_another_than(self, other: WorkerSpec) -> bool:
        """Tell whether something else runs here than there, as far as both say what."""
        return None not in {self.uid, other.uid} and self.uid != other.uid


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerParams:
    """How the picker routes.

    Attributes
    ----------
    policy : str
        Policy and parameters, as on the command line: ``"br-t:kappa=1"``.
    mode : {"pooled", "immediate"}
        ``pooled`` holds requests until slots are free and then places a set of them;
        ``immediate`` places every request as it comes.
    predictor : str
        Where forecasts come from, for policies that use any; ``"none"`` forecasts nothing.
    hardware : str
        Preset, or path of a file ``….toml``, that says what a step costs. How fast steps are in
        truth is learned while serving; which loads cost how much in proportion is not.
    prefill : bool
        Whether the workers compute prompts; false where they come computed.
    refresh_steps : int
        Decode steps between refreshes of all forecasts.
    request_tokens : int or "auto"
        KV tokens that a request weighs besides those it holds; ``auto`` is what the hardware says.
    slots : int
        Sequences that a worker runs at once (``--max-num-seqs``).
    capacity : int or None
        KV tokens that a worker holds; None is no limit.
    budget : int
        Tokens that a worker computes in a step (``--max-num-batched-tokens``).
    slo_ttft_ms, slo_tpot_ms : float or None
        Promised times to the first token, and per token after it; None promises nothing.
    pool_max : int
        Requests that are held at most; further ones are refused.
    wait_max_s : float
        How long a request is held at most. Then it goes to the least loaded worker with room; if
        none has any, it is refused. From half of that time on, a worker is kept free for a
        request of several sequences (``n``), which needs as many slots on one worker.
    overdue : {"refuse", "place"}
        What then becomes of a request of several sequences for which no worker has slots enough:
        ``refuse`` answers 429; ``place`` gives it the worker with the most free slots, if there is
        one, where the other sequences are counted, too, and wait in the engine.
    retry_after_s : float
        When a refused client is told to try again.
    budget_ms : float
        Time that one decision may take before the least loaded worker is taken instead.
    max_failures : int
        Failures after which the policy is asked no more, for a while.
    rest_s : float
        For how long.
    stall_s : float
        How long a policy may leave slots free into which the oldest held request would fit,
        beyond what it says of itself; longer is a failure.
    overtakes : float
        How often later arrivals may refill all slots, while no worker has room for the oldest
        held request, before that is given a slot whatever its KV tokens, or has a worker kept
        free for it if it needs several.
    settle_ms : float
        How long a freed slot waits for others that free with it.
    fallbacks : int
        Further workers named with each decision, for retries that the picker is not asked about.
    down_after : int
        Failures in a row, of requests or of probes, after which a worker is taken to be down.
    down_s : float
        After how long without a further failure it is tried again, with one request.
    lost_s : float
        After how long the streams of a worker that is down are taken to be lost.
    start_max_s : float
        After how long a request that no worker has taken is taken to be lost; 0 never.
    leak_s : float
        How long an engine must say that it runs nothing before streams that the books have there
        are taken to be lost; 0 never.
    block_tokens : int
        Tokens of a block of the engines' prefix caches; 0 looks at no prefixes.
    cached_blocks : int
        Blocks that are remembered for a worker.
    tokenizer : str or None
        ``tokenizer.json`` of the model, to count prompts by; None learns characters per token.
    seed : int
        For policies that draw at random.
    """

    policy: str = "br-t"
    mode: Literal["pooled", "immediate"] = "pooled"
    predictor: str = "survival"
    hardware: str = DEFAULT_HARDWARE
    prefill: bool = True
    refresh_steps: int = 32
    request_tokens: int | Literal["auto"] = "auto"
    slots: int = 256
    capacity: int | None = None
    budget: int = 8192
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    pool_max: int = 4096
    wait_max_s: float = 30.0
    overdue: Literal["refuse", "place"] = "refuse"
    retry_after_s: float = 1.0
    budget_ms: float = 25.0
    max_failures: int = 5
    rest_s: float = 60.0
    stall_s: float = 1.0
    overtakes: float = 4.0
    settle_ms: float = 2.0
    fallbacks: int = 2
    down_after: int = 3
    down_s: float = 10.0
    lost_s: float = 30.0
    start_max_s: float = 60.0
    leak_s: float = 5.0
    block_tokens: int = 16
    cached_blocks: int = 16_384
    tokenizer: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_one_of("mode", self.mode, "pooled", "immediate")
        require_one_of("overdue", self.overdue, "refuse", "place")
        if self.request_tokens != "auto":
            require_whole("request_tokens", self.request_tokens, 0, MAX_REQUEST_TOKENS)
        if self.capacity is not None:
            require_whole("capacity", self.capacity, 1, MAX_COUNT, " KV tokens")
        for name, (least, most) in _WHOLE.items():
            require_whole(name, getattr(self, name), least, most)
        for name, (low, high) in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None:
                require_number(name, value, low, high)
        require(
            not self.prefill or self.budget >= self.slots,
            f"budget is {self.budget}, must be at least {self.slots}, the slots of a worker: each "
            "running request takes a token of it",
        )

    @classmethod
    def from_table(cls, values: Mapping[str, object], owner: str = "picker") -> PickerParams:
        """Build from a TOML table.

        Raises
        ------
        ParameterError
            A key is unknown, or has a value it cannot have.
        """
        return build_params(cls, values, owner, convert_texts=False)

    @classmethod
    def from_toml(cls, path: str | Path) -> PickerParams:
        """Load a TOML file that holds nothing else.

        Raises
        ------
        ParameterError
            It cannot be read, or holds something that cannot be.
        """
        return cls.from_table(read_toml(path), str(path))


_WHOLE = {
    "refresh_steps": (1, MAX_REFRESH_STEPS),
    "slots": (1, MAX_SLOTS),
    "budget": (1, MAX_BUDGET),
    "pool_max": (1, 1_000_000),
    "max_failures": (1, 1_000_000),
    "fallbacks": (0, 64),
    "down_after": (1, 1_000_000),
    "block_tokens": (0, MAX_BUDGET),
    "cached_blocks": (0, 10_000_000),
    "seed": (0, MAX_SEED),
}
_NUMBERS = {
    "slo_ttft_ms": (0.001, 86_400_000.0),
    "slo_tpot_ms": (0.001, 86_400_000.0),
    "wait_max_s": (0.0, MAX_WAIT_S),
    "retry_after_s": (0.0, MAX_WAIT_S),
    "budget_ms": (0.1, 60_000.0),
    "stall_s": (0.01, 3600.0),
    "rest_s": (0.0, MAX_WAIT_S),
    "overtakes": (0.0, 1e6),
    "settle_ms": (0.0, 1000.0),
    "down_s": (0.0, MAX_WAIT_S),
    "lost_s": (0.0, MAX_WAIT_S),
    "start_max_s": (0.0, MAX_WAIT_S),
    "leak_s": (0.0, MAX_WAIT_S),
}
