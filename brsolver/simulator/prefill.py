"""Parameters of prefill: where and when prompts are computed.

What each field says of itself, and which fields a choice uses, stands with it: the command line,
TOML and reports follow from that (`brsolver.options`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from brsolver._limits import (
    MAX_ATTEMPTS,
    MAX_COUNT,
    MAX_FRONT_ENDS,
    MAX_STALE_STEPS,
    MAX_TIME_S,
    require,
    require_number,
    require_one_of,
    require_whole,
)
from brsolver.options import Choices, Search, option, parameter

MAX_BUDGET = 2**20
"""Times the longest context and `MAX_WORKERS` it is still a whole number of 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """Where and when prompts are prefilled.

    Attributes
    ----------
    mode : {"none", "delay", "tier", "colocated"}
        ``delay``: before a request is routable, ``delay_s + prompt_tokens/tokens_per_s`` each,
        without queueing. ``tier``: before it, on `workers` prefill workers, first come first
        served, each `tokens_per_s`. ``colocated``: on the decode rank that it is routed to, by
        that rank's own scheduler; see docs/simulator.md.
    delay_s : float
        Fixed delay in seconds.
    tokens_per_s : float
        Prefill speed in prompt tokens per second; infinite means no time per token.
    workers : int
        Size P of the prefill tier.
    budget : int
        Most tokens that a rank computes in a step. Of ``v1``, decoded tokens are among them
        (``max_num_batched_tokens``); of ``sglang`` they are those of a prefill step
        (``chunked_prefill_size``).
    threshold : int
        Most tokens of one prompt that ``v1`` computes in a step
        (``long_prefill_token_threshold``); 0 is no limit.
    interval : int
        Steps from one in which ``v1`` computes prefill to the next
        (``prefill_schedule_interval``).
    scheduler : {"v1", "sglang"}
        Whose scheduler the ranks have: ``v1`` (vLLM's) computes prefill and decodes in the same
        step, with ``sglang`` nobody decodes while any rank computes prefill.
    delayer : {"none", "sglang", "atom", "trtllm"}
        By whose rule the ranks hold prefill back until more of them can compute some in the same
        step: SGLang's `PrefillDelayer`, the coalescer of ROCm ATOM, TensorRT-LLM's
        ``attention_dp_config.enable_balance``. See docs/simulator.md for the rules.
    max_delay_passes : int
        Of ``sglang``: first step, counted from when it began to hold back, that is released
        whatever the ranks have (``prefill_delayer_max_delay_passes``).
    watermark : float
        Of ``sglang`` and ``atom``: share of its KV tokens in use below which a rank that could
        prefill does not wait (``token_usage_low_watermark``); 0 is none.
    attempts : int
        Of ``sglang``: as many free slots must every rank have as its largest of so many attempts
        at prefill had prompts; 0 asks for none, as it was at first.
    fill_target : float
        Of ``atom``: share of all ranks' `budget` that must be there (``TARGET_FILL``).
    ttft_ticks, partial_ticks : int
        Of ``atom``: most steps that prefill is held back, and most while a prompt is under way
        (``TTFT_MAX_TICKS``, ``PARTIAL_MAX_TICKS``).
    stall : int
        Of ``atom``: steps in which no more has come after which it waits no longer for
        `fill_target` (``STALL_TICKS``).
    timeout_iters : int
        Of ``trtllm``: steps after which prefill goes ahead although some rank has none.
    batching_wait_iters : int
        Of ``trtllm``: steps that prefill is held back although all ranks have some.
    cache : int
        KV tokens that a rank has for running requests and for blocks of earlier prompts together;
        what running requests leave of it is its prefix cache. 0 is none. How many requests run
        is the capacity's to limit; see docs/prefix.md.
    block : int
        Tokens of a block of the trace's ``hash_ids``.
    """

    CHOICES: ClassVar[Choices] = Choices(
        selector="mode",
        uses={
            "none": (),
            "delay": ("delay_s", "tokens_per_s"),
            "tier": ("workers", "delay_s", "tokens_per_s"),
            "colocated": (
                *("budget", "threshold", "interval", "scheduler", "cache", "block", "delayer"),
                *("max_delay_passes", "watermark", "attempts"),
                *("fill_target", "ttft_ticks", "partial_ticks", "stall"),
                *("timeout_iters", "batching_wait_iters"),
            ),
        },
        within={
            "threshold": ("scheduler", ("v1",)),
            "interval": ("scheduler", ("v1",)),
            "max_delay_passes": ("delayer", ("sglang",)),
            "watermark": ("delayer", ("sglang", "atom")),
            "attempts": ("delayer", ("sglang",)),
            "fill_target": ("delayer", ("atom",)),
            "ttft_ticks": ("delayer", ("atom",)),
            "partial_ticks": ("delayer", ("atom",)),
            "stall": ("delayer", ("atom",)),
            "timeout_iters": ("delayer", ("trtllm",)),
            "batching_wait_iters": ("delayer", ("trtllm",)),
        },
    )

    mode: Literal["none", "delay", "tier", "colocated"] = field(
        default="none", metadata=option("Where and when prompts are prefilled.")
    )
    delay_s: float = field(
        default=0.0,
        metadata=option("Fixed delay in seconds.", label="delay", metavar="S", unit="s"),
    )
    tokens_per_s: float = field(
        default=math.inf,
        metadata=option(
            "Prefill speed in prompt tokens per second.",
            label="speed",
            metavar="N",
            unit="tokens per s",
        ),
    )
    workers: int = field(
        default=1, metadata=option("Prefill workers P of the tier.", label="workers P", metavar="P")
    )
    budget: int = field(
        default=8192,
        metadata=option(
            "Most tokens that a rank computes in a step (max_num_batched_tokens of v1, "
            "chunked_prefill_size of sglang).",
            label="budget",
            unit="tokens per step",
            metavar="N",
            search=Search(low=512, high=16_384, log=True, multiple=256),
        ),
    )
    threshold: int = field(
        default=0,
        metadata=option(
            "Most tokens of one prompt in a step of v1 (long_prefill_token_threshold).",
            label="most of one prompt",
            unit="tokens per step, 0 no limit",
            metavar="N",
        ),
    )
    interval: int = field(
        default=1,
        metadata=option(
            "Steps from one with prefill to the next, of v1 (prefill_schedule_interval).",
            label="computed every",
            unit="steps",
            metavar="N",
            search=Search(low=1, high=64, log=True),
        ),
    )
    scheduler: Literal["v1", "sglang"] = field(
        default="v1", metadata=option("Whose scheduler the ranks have.", label="scheduler")
    )
    delayer: Literal["none", "sglang", "atom", "trtllm"] = field(
        default="none",
        metadata=option(
            "By whose rule ranks hold prefill back.",
            label="held back by",
            search=Search(choices=("none", "sglang"), within=("scheduler", ("sglang",))),
        ),
    )
    max_delay_passes: int = field(
        default=30,
        metadata=option(
            "First step that is released, of delayer sglang.",
            label="released in step",
            unit="steps",
            metavar="N",
            search=Search(low=4, high=120, log=True),
        ),
    )
    watermark: float = field(
        default=0.0,
        metadata=option(
            "Share of KV tokens in use below which a rank need not wait, of delayers sglang and "
            "atom.",
            label="not held back below",
            unit="of KV tokens in use",
            metavar="X",
        ),
    )
    attempts: int = field(
        default=MAX_ATTEMPTS,
        metadata=option(
            "Attempts at prefill whose largest every rank must have slots for, of delayer sglang.",
            label="slots for the largest of",
            unit="attempts",
            metavar="N",
        ),
    )
    fill_target: float = field(
        default=0.7,
        metadata=option(
            "Share of all ranks' budget that is waited for, of delayer atom.",
            label="fill target",
            metavar="X",
            search=Search(low=0.2, high=1.0),
        ),
    )
    ttft_ticks: int = field(
        default=30,
        metadata=option(
            "Most steps that prefill is held back, of delayer atom.",
            label="held back at most",
            unit="steps",
            metavar="N",
            search=Search(low=4, high=120, log=True),
        ),
    )
    partial_ticks: int = field(
        default=8,
        metadata=option(
            "Most steps while a prompt is under way, of delayer atom.",
            label="held back with a prompt under way at most",
            unit="steps",
            metavar="N",
        ),
    )
    stall: int = field(
        default=3,
        metadata=option(
            "Steps without more after which it waits no longer, of delayer atom.",
            label="waits without more coming",
            unit="steps",
            metavar="N",
        ),
    )
    timeout_iters: int = field(
        default=50,
        metadata=option(
            "Steps after which prefill goes ahead, of delayer trtllm.",
            label="held back at most",
            unit="steps",
            metavar="N",
            search=Search(low=4, high=200, log=True),
        ),
    )
    batching_wait_iters: int = field(
        default=10,
        metadata=option(
            "Steps held back although all ranks could prefill, of delayer trtllm.",
            label="held back once all could",
            unit="steps",
            metavar="N",
            search=Search(low=0, high=50),
        ),
    )
    cache: int = field(
        default=0,
        metadata=option(
            "KV tokens of a rank for running requests and its prefix cache together.",
            label="running requests and prefix cache",
            unit="tokens per rank, 0 no cache",
            metavar="N",
        ),
    )
    block: int = field(
        default=512,
        metadata=option(
            "Tokens of a block of the trace's hash_ids.",
            label="block of the prefix cache",
            unit="tokens",
            metavar="N",
        ),
    )

    def __post_init__(self) -> None:
        require_one_of("mode", self.mode, *self.CHOICES.uses)
        require_number("delay_s", self.delay_s, 0, MAX_TIME_S, " seconds")
        if self.tokens_per_s != math.inf:
            require_number("tokens_per_s", self.tokens_per_s, 1e-9, math.inf)
        require_whole("workers", self.workers, 1, MAX_FRONT_ENDS)
        require_whole("budget", self.budget, 1, MAX_BUDGET, " tokens")
        require_whole("threshold", self.threshold, 0, MAX_BUDGET, " tokens")
        require_whole("interval", self.interval, 1, MAX_STALE_STEPS, " steps")
        require_one_of("scheduler", self.scheduler, "v1", "sglang")
        require_whole("cache", self.cache, 0, MAX_COUNT, " tokens")
        require_whole("block", self.block, 1, MAX_BUDGET, " tokens")
        self._check_delayer()
        for name in self.CHOICES.within:
            self._refuse_unused(name)

    def _check_delayer(self) -> None:
        require_one_of("delayer", self.delayer, "none", "sglang", "atom", "trtllm")
        require_whole("max_delay_passes", self.max_delay_passes, 1, MAX_STALE_STEPS, " steps")
        require_number("watermark", self.watermark, 0, 1)
        require_whole("attempts", self.attempts, 0, MAX_ATTEMPTS)
        require_number("fill_target", self.fill_target, 0, 1)
        for name in ("ttft_ticks", "partial_ticks", "stall", "timeout_iters"):
            require_whole(name, getattr(self, name), 1, MAX_STALE_STEPS, " steps")
        require_whole("batching_wait_iters", self.batching_wait_iters, 0, MAX_STALE_STEPS, " steps")
        require(
            self.delayer == "none" or self.interval == 1,
            f"interval is {self.interval}, must be 1 with delayer {self.delayer}: both say when "
            "the ranks prefill",
        )

    def _refuse_unused(self, name: str) -> None:
        """Raise `ParameterError` if a field is given that the scheduler or delayer has not."""
        chooser, values = self.CHOICES.within[name]
        chosen, value = getattr(self, chooser), getattr(self, name)
        default = parameter(type(self), name).default
        require(
            chosen in values or value == default,
            f"{name} is {value}, must be {default} with {chooser} {chosen}, which has none",
        )

    @property
    def colocated(self) -> bool:
        """Whether prompts are prefilled on the decode ranks."""
        return self.mode == "colocated"

    def check_slots(self, slots: int) -> None:
        """Raise `ParameterError` if a worker with so many requests could not decode them all."""
        require(
            not self.colocated or self.scheduler != "v1" or self.budget >= slots,
            f"prefill: budget is {self.budget}, must be at least {slots}, the slots of a worker: "
            "each running request takes a token of it",
        )

    def check_capacity(self, unlimited: bool) -> None:
        """Raise `ParameterError` if a share of KV tokens is asked for that have no limit."""
        require(
            not unlimited or self.watermark == 0,
            f"prefill: watermark is {self.watermark:g}, must be 0 where workers have no KV "
            "capacity that it could be a share of",
        )
