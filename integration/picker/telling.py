"""What engines tell of themselves, taken in: paces, further load, ignored pins, lost streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.cluster._state_kernels import W_LOAD, W_QUEUED_TOKENS
from integration.picker.counting import tokens_of
from integration.picker.learning import Learning
from integration.picker.watching import Leaks, Pins

_STALE_S = 15.0
"""After which nothing that an engine told counts any more."""

if TYPE_CHECKING:
    from integration.picker.asks import End, Gauges, Usage
    from integration.picker.books import Books
    from integration.picker.clock import Mark, StepClock
    from integration.picker.foreign import Foreign
    from integration.picker.making import Made
    from integration.picker.params import PickerParams
    from integration.picker.requests import Request
    from integration.picker.workers import Worker, Workers


class Telling:
    """Compares what engines tell with what the books and the step clock say.

    Parameters
    ----------
    params : PickerParams
    workers : Workers
    books : Books
    made : Made
    clock : StepClock
    foreign : Foreign

    Attributes
    ----------
    learning : Learning
        From streams, where engines do not tell how fast they are.
    """

    def __init__(
        self,
        params: PickerParams,
        workers: Workers,
        *,
        books: Books,
        made: Made,
        clock: StepClock,
        foreign: Foreign,
    ) -> None:
        self._base_s = made.costs(1.0).base_s
        self._state = made.session.state
        self._clock = clock
        self._foreign = foreign
        self._books = books
        self.learning = Learning(clock, workers)
        self._pins = Pins(workers)
        self._leaks = Leaks(params.leak_s)
        self._marks: dict[int, tuple[Gauges, Mark]] = {}
        self._told_s: dict[int, float] = {}

    def tokens_of(self, request: Request, end: End, usage: Usage | None) -> tuple[int, int]:
        """Return how many tokens a request has had; see `counting.tokens_of`."""
        return tokens_of(
            request,
            end,
            usage,
            by_bytes=self.learning.streamed,
            by_model=self._books.generated,
        )

    def told(self, worker: Worker, gauges: Gauges, now: float) -> str:
        """Take in what an engine tells; return what is found to be wrong with it, once."""
        worker.gauges = gauges
        self._told_s[worker.index] = now
        rows = self._state.workers
        held = rows.item(W_LOAD, worker.index) + rows.item(W_QUEUED_TOKENS, worker.index)
        self._foreign.told(worker, held)
        self._leaks.told(worker, now)
        self._learn(worker, gauges, now)
        # No step is shorter than one without load.
        step_s = self._base_s * self._clock.pace.scale
        self._clock.prompts.told(worker.index, gauges.prefills, gauges.prefill_s, step_s)
        return self._pins.told(worker)

    def lost_before(self, worker: Worker, now: float) -> tuple[list[Worker], float]:
        """Return ranks whose server runs nothing, and until when streams there are lost."""
        ranks = self._pins.ranks_beside(worker)
        before = self._leaks.lost_before(ranks, now)
        return ([], now) if before is None else (ranks, before)

    def let_go_stale(self, workers: Workers, now: float) -> bool:
        """Begin anew with workers that have told nothing for long; tell whether there are any."""
        stale = [each for each, at_s in self._told_s.items() if at_s + _STALE_S <= now]
        for index in stale:
            self.forget(workers[index])
        return bool(stale)

    def next_s(self) -> float:
        """Return when the next one will be stale; infinity if none will."""
        return min(self._told_s.values(), default=float("inf")) + _STALE_S

    def forget(self, worker: Worker) -> None:
        """Begin anew with a worker."""
        worker.gauges = None
        self._told_s.pop(worker.index, None)
        self._foreign.forget(worker)
        self._pins.forget(worker)
        self._leaks.forget(worker.index)
        self._marks.pop(worker.index, None)
        self._clock.prompts.forget(worker.index)

    def _learn(self, worker: Worker, gauges: Gauges, now: float) -> None:
        known = self._marks.get(worker.index)
        self._marks[worker.index] = gauges, self._clock.mark(now)
        if known is not None:
            before, since = known
            steps = _steps_between(before, gauges)
            if steps is not None and steps > 0:
                self._clock.learn(since, now, steps)


def _steps_between(before: Gauges, after: Gauges) -> float | None:
    """Return how many steps an engine has done; by its tokens if it does not count steps."""
    if before.steps is not None and after.steps is not None:
        return after.steps - before.steps
    if before.generation_tokens is None or after.generation_tokens is None:
        return None
    running = min(before.running or 0, after.running or 0)
    # Those that came and went in between make a mean of others worthless.
    if running == 0 or before.running != after.running:
        return None
    return (after.generation_tokens - before.generation_tokens) / running
