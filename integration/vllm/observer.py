"""Steps as an API server sees them, put together from what its engines report.

An engine's batch of outputs says when its step ended, by the engine's own clock, how many
requests it was about, and which of them got their first token: the prompts of these were computed
in it. What decodes reads the KV tokens that the books have. The step's duration is the time between
an engine's successive batches; engines that meet at a barrier end a step within a fraction of it.

Left out are steps whose loads are not sure: what part of a prompt was computed in which step, where
prompts are longer than a step's budget of tokens, and what a preempted request computes again.
vLLM's iteration details (``--enable-logging-iteration-details``), where it sends them, say it of
every step. Left out as well are steps after an engine had nothing to do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.cluster._state_kernels import W_ACTIVE, W_LOAD
from brsolver.hardware.online import LOADS, OnlineStepTime

if TYPE_CHECKING:
    from integration.vllm.accounting import Books

SAME_STEP = 0.5
"""Of a step's duration: ranks whose batches are farther apart ended another step."""


class Seen:
    """What one rank did in one step.

    Attributes
    ----------
    at_s : float
        When it ended, by the rank's clock, set to this server's.
    duration_s : float
        Since the rank's step before; NaN if it had nothing to do between.
    sequences, kv_tokens, prefill_tokens : int
        Decoding sequences, KV tokens that they read, prompt tokens computed.
    longest : int
        The longest of the prompts that were computed.
    begun : int
        Prompts that were computed to their end.
    open : int
        Requests that ran and are not at their first token yet.
    told : bool
        Whether vLLM itself said what was computed.
    consistent : bool
        Whether the books agree about who runs.
    goes_on : bool
        Whether the rank has anything to do next.
    """

    __slots__ = (
        "at_s",
        "begun",
        "consistent",
        "duration_s",
        "goes_on",
        "kv_tokens",
        "longest",
        "open",
        "prefill_tokens",
        "sequences",
        "told",
    )

    def __init__(self, at_s: float, duration_s: float) -> None:
        self.at_s, self.duration_s = at_s, duration_s
        self.sequences = self.kv_tokens = self.prefill_tokens = 0
        self.longest = self.begun = self.open = 0
        self.told = self.consistent = self.goes_on = False


class _Rank:
    __slots__ = ("behind_s", "clear", "last")

    def __init__(self) -> None:
        self.behind_s = math.inf
        self.last: Seen | None = None
        self.clear = False


class StepObserver:
    """Identifies the step time from what the engines report.

    Parameters
    ----------
    budget : int
        Tokens that a rank computes in a step at most (``--max-num-batched-tokens``); 0 if vLLM
        does not say, and then steps with prefill are taken in only where it tells what they
        computed.
    chunk : int
        Prompt tokens of one request in a step at most; 0 for no other limit than the budget.

    Attributes
    ----------
    fit : OnlineStepTime
    """

    def __init__(self, budget: int, chunk: int = 0) -> None:
        self.fit = OnlineStepTime()
        self._budget, self._chunk = budget, chunk or budget
        self._ranks: dict[int, _Rank] = {}
        self._step: dict[int, tuple[Seen, bool]] = {}

    def reported(self, rank: int, batch: Any, books: Books, now_s: float) -> None:
        """Take in a batch of a rank's outputs, which the books have entered but not released.

        Parameters
        ----------
        rank : int
        batch : EngineCoreOutputs
        books : Books
        now_s : float
            This server's clock.
        """
        known = self._ranks.get(rank)
        if known is None:
            known = self._ranks[rank] = _Rank()
        seen = _seen(rank, batch, books, known, now_s)
        before, clear = known.last, known.clear
        known.last = seen
        sure = before is None or self._sure(before, seen)
        known.clear = sure
        if before is not None:
            self._add(rank, before, books, clear=clear and sure)

    def _sure(self, before: Seen, seen: Seen) -> bool:
        """Tell whether no prompt was computed in part in the one step and in part in the other."""
        if before.told and seen.told:
            return True
        if not (before.consistent and seen.consistent) or before.open > seen.begun:
            return False
        if not seen.prefill_tokens:
            return True
        computed = before.sequences + before.prefill_tokens + seen.prefill_tokens
        return computed <= self._budget and seen.longest <= self._chunk

    def _add(self, rank: int, seen: Seen, books: Books, *, clear: bool) -> None:
        """Put a rank's step beside those of the others, and take in the step that they end."""
        step = self._step
        if step:
            first = next(iter(step.values()))[0]
            apart = seen.at_s - first.at_s
            limit = SAME_STEP * min(_known(first.duration_s), _known(seen.duration_s))
            if apart < -limit:
                return  # The last of a rank that has had nothing to do since.
            if rank in step or apart > limit:
                self._observe(books)
        step[rank] = (seen, clear)

    def _add_idle(self) -> None:
        """Put beside them the last steps of ranks that have had nothing to do since."""
        step = self._step
        first = next(iter(step.values()))[0]
        for rank, known in self._ranks.items():
            last = known.last
            if rank in step or last is None or last.goes_on:
                continue
            limit = SAME_STEP * min(_known(first.duration_s), _known(last.duration_s))
            if abs(last.at_s - first.at_s) <= limit:
                step[rank] = (last, known.clear)

    def _observe(self, books: Books) -> None:
        self._add_idle()
        step, workers = self._step, books.state.workers
        seconds = min(_known(seen.duration_s) for seen, _ in step.values())
        sure = math.isfinite(seconds) and all(clear for _, clear in step.values())
        # Who runs anything and has not reported, computes what nobody tells.
        count = workers.shape[1]
        if sure and all(rank in step or not workers.item(W_ACTIVE, rank) for rank in range(count)):
            loads = np.zeros((count, len(LOADS)))
            for rank, (seen, _) in step.items():
                loads[rank] = seen.sequences, seen.kv_tokens, seen.prefill_tokens
            self.fit.observe(loads, seconds)
        step.clear()


def _seen(rank: int, batch: Any, books: Books, known: _Rank, now_s: float) -> Seen:
    ended_s = float(getattr(batch, "timestamp", 0.0) or now_s)
    # Clocks of other machines differ; the batch that took least time on its way tells by how much.
    known.behind_s = min(known.behind_s, now_s - ended_s)
    at_s, last = ended_s + known.behind_s, known.last
    goes_on = last is not None and last.goes_on
    seen = Seen(at_s, at_s - last.at_s if goes_on and last is not None else math.nan)
    _count(seen, rank, batch, books)
    return seen


def _count(seen: Seen, rank: int, batch: Any, books: Books) -> None:
    workers, (unseen, unseen_tokens) = books.state.workers, books.unseen(rank)
    begun = books.begun
    running = workers.item(W_ACTIVE, rank) - unseen
    prompts = sum(request.prompt_tokens + request.generated for request in begun)
    computed = [request.prompt_tokens - request.cached_tokens for request in begun]
    seen.begun, seen.prefill_tokens = len(begun), sum(computed)
    seen.longest = max(computed, default=0)
    seen.sequences = running - seen.begun
    # The token that each has just generated is in the cache from the next step on.
    seen.kv_tokens = workers.item(W_LOAD, rank) - unseen_tokens - prompts - seen.sequences
    reported = len(batch.outputs)
    seen.consistent = reported == running
    stats, left = batch.scheduler_stats, reported - len(batch.finished_requests or ())
    if stats is None:
        seen.open, seen.goes_on = unseen, left + unseen > 0
        return
    runs = int(getattr(stats, "num_running_reqs", 0) or 0)
    waits = int(getattr(stats, "num_waiting_reqs", 0) or 0)
    seen.open, seen.goes_on = max(0, runs - left), runs + waits > 0
    details = getattr(stats, "iteration_details", None)
    if details is not None and not getattr(details, "is_dummy", False):
        seen.told = True
        seen.prefill_tokens = int(details.num_ctx_tokens)
        seen.sequences = int(details.num_generation_requests)


def _known(seconds: float) -> float:
    return math.inf if math.isnan(seconds) else seconds
