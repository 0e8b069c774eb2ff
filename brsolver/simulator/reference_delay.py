"""When ranks may prefill, by the engines' own rules, in plain Python.

Under data parallelism all ranks step together, so that a rank that prefills makes all others wait.
Each engine has grown a rule by which the ranks agree, before every step, on whether to prefill now
or to let those that decode go on until more ranks can prefill along. The rules are written here
from what the engines do, for tests to hold the kernels to, and to be read.

A rank *can prefill* if a prompt is under way there, or the first that waits there gets a slot and
KV tokens. What a rule answers is "all" (every rank prefills as it likes), "under way" (prompts
that have been begun go on, none is begun) or "none".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.simulator.prefill import Prefill

Verdict = Literal["all", "under way", "none"]

HIGH_WATERMARK = 0.9


@dataclass(kw_only=True)
class Outlook:
    """What a live rank tells the others before a step.

    Attributes
    ----------
    can_prefill : bool
    under_way : bool
        Whether a prompt is under way there.
    running : int
        Requests that decode.
    slots : int
        Requests that could.
    usage : float
        Share of its KV tokens that is held.
    pending : int
        Prefill tokens that are there, at most a step's budget.
    largest : int
        Prompts of the largest of its last attempts at prefill.
    """

    can_prefill: bool
    under_way: bool
    running: int
    slots: int
    usage: float
    pending: int
    largest: int = 0


@dataclass
class SGLang:
    """SGLang's ``PrefillDelayer`` (sglang/srt/managers/prefill_delayer.py).

    While some ranks can prefill and others cannot, no prompt is begun, for less than
    `max_delay_passes` steps (pull request 16363); nor is any while all can, but the rank with
    fewest slots has less of them than the largest of the last attempts had prompts (17456, bounded
    by the same number of steps in 32880, over the last attempts in 34284). A rank that could
    prefill and holds a share of its KV tokens below `watermark` ends the hold. Prompts under way
    go on, and their ranks count as able to prefill (31835 and after).
    """

    max_delay_passes: int
    watermark: float
    held: int = 0

    def verdict(self, ranks: Sequence[Outlook]) -> Verdict:
        """Say what may be prefilled in this step."""
        able = [rank for rank in ranks if rank.can_prefill]
        largest = max((rank.largest for rank in ranks), default=0)
        slots = min((rank.slots - rank.running for rank in ranks), default=0)
        waits = 0 < len(able) < len(ranks) or (able and slots < largest)
        if any(rank.usage < self.watermark for rank in able):
            waits = False
        if not any(rank.running or rank.under_way for rank in ranks):
            # Passes in which no rank does anything take no time: the hold is over at once.
            waits = False
        if not waits or self.held + 1 >= self.max_delay_passes:
            self.held = 0
            return "all"
        self.held += 1
        return "under way"


@dataclass
class Atom:
    """The prefill coalescer of ROCm ATOM (atom/model_engine/prefill_delayer.py).

    All prefill is held back, that of prompts under way included, until every rank can prefill and
    there is `fill_target` of what all could compute in a step, or that has not grown for `stall`
    steps (pull request 1611). Before that it is released after `ttft_ticks` steps, after
    `partial_ticks` if a prompt is under way, if nobody decodes, or if a rank that can prefill
    holds a share of its KV tokens below `watermark` or of at least `HIGH_WATERMARK`.
    """

    budget: int
    fill_target: float
    ttft_ticks: int
    partial_ticks: int
    stall: int
    watermark: float
    held: int = 0
    stalled: int = 0
    pending: int = 0

    def verdict(self, ranks: Sequence[Outlook]) -> Verdict:
        """Say what may be prefilled in this step."""
        if self._must(ranks) or self._may(ranks):
            self.held = self.stalled = self.pending = 0
            return "all"
        self.held += 1
        return "none"

    def _must(self, ranks: Sequence[Outlook]) -> bool:
        able = [rank for rank in ranks if rank.can_prefill]
        patience = self.ttft_ticks
        if any(rank.under_way for rank in ranks):
            patience = min(patience, self.partial_ticks)
        return (
            not able
            or not any(rank.running for rank in ranks)
            or any(r.usage < self.watermark or r.usage >= HIGH_WATERMARK for r in able)
            or self.held >= patience
        )

    def _may(self, ranks: Sequence[Outlook]) -> bool:
        if not all(rank.can_prefill for rank in ranks):
            return False
        pending = sum(rank.pending for rank in ranks)
        if pending / (len(ranks) * self.budget) >= self.fill_target:
            return True
        self.stalled = self.stalled + 1 if pending <= self.pending else 0
        self.pending = pending
        return self.stalled >= self.stall


@dataclass
class TensorRT:
    """Attention-DP balance of TensorRT-LLM (RequestScheduler, ``_balance_adp_context_requests``).

    All prefill is held back, that of prompts under way included, until every rank can prefill
    (which takes a slot) or `timeout_iters` steps have gone by (pull request 6061). Then, if all
    ranks decode, it is held back for `batching_wait_iters` steps more, so that more come together;
    these are counted on through steps in which not all could. A rank that decodes nothing ends the
    hold. Steps count towards the time-out when no rank can prefill, too.
    """

    timeout_iters: int
    batching_wait_iters: int
    waited: int = 0
    batched: int = 0

    def verdict(self, ranks: Sequence[Outlook]) -> Verdict:
        """Say what may be prefilled in this step."""
        everybody_decodes = all(rank.running for rank in ranks)
        if all(rank.can_prefill for rank in ranks):
            self.waited = 0
            return self._batch() if everybody_decodes else "all"
        self.waited += 1
        if everybody_decodes and self.waited < self.timeout_iters:
            return "none"
        self.waited = 0
        return "all"

    def _batch(self) -> Verdict:
        if self.batched < self.batching_wait_iters:
            self.batched += 1
            return "none"
        self.batched = 0
        return "all"


Delayer = SGLang | Atom | TensorRT


def delayer_of(prefill: Prefill) -> Delayer | None:
    """Return the rule that parameters name, with nothing held back yet; None if they name none."""
    if prefill.delayer == "sglang":
        return SGLang(prefill.max_delay_passes, prefill.watermark)
    if prefill.delayer == "atom":
        return Atom(
            prefill.budget,
            prefill.fill_target,
            prefill.ttft_ticks,
            prefill.partial_ticks,
            prefill.stall,
            prefill.watermark,
        )
    if prefill.delayer == "trtllm":
        return TensorRT(prefill.timeout_iters, prefill.batching_wait_iters)
    return None


@dataclass
class Attempts:
    """How many prompts a rank's last attempts at prefill had; those held back count, too.

    Attributes
    ----------
    sizes : deque of int
        The last ones; there are none with a length of 0.
    """

    sizes: deque[int] = field(default_factory=deque)

    @classmethod
    def of(cls, prefill: Prefill) -> Attempts:
        """Return no attempts yet, to remember as many as parameters say."""
        return cls(deque(maxlen=prefill.attempts if prefill.delayer == "sglang" else 0))

    @property
    def largest(self) -> int:
        """The largest of the last attempts, 0 if there was none."""
        return max(self.sizes, default=0)

    def note(self, computed: int, waiting: int, slots: int) -> None:
        """Add an attempt that has computed so many prompts, or that was held back.

        SGLang counts what waits there then, at most the slots that nobody decodes in.
        """
        self.sizes.append(computed or min(waiting, slots))
