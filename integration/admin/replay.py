"""A core that lives through requests on a clock of its own, faster or slower than they came."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from integration.admin.params import WindowParams
from integration.admin.window import Window
from integration.picker.asks import Ask, End, Placed, Usage
from integration.picker.core import Core
from integration.picker.events import Ended, Refusal, Stepped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from integration.picker.asks import Answer
    from integration.picker.events import Event, Listener
    from integration.picker.params import PickerParams, WorkerSpec

INFINITY = float("inf")
NEVER_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A request to live through.

    Attributes
    ----------
    ask : Ask
    at_s : float
        When it came.
    output_tokens : int or None
        With how many tokens it ends, all its sequences together; None is told later.
    """

    ask: Ask
    at_s: float
    output_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A worker that came, went or changed.

    Attributes
    ----------
    at_s : float
    worker : int
    what : str
        As in `integration.picker.events.WorkerChanged`.
    spec : WorkerSpec
    """

    at_s: float
    worker: int
    what: str
    spec: WorkerSpec


class ModelledCore(Core):
    """A core whose engines are its own model of them."""

    def names_of(self, identities: Iterable[int]) -> list[str]:
        """Return whom the steps of the model speak of."""
        return [self._books.by_identity(each).name for each in identities]

    def tokens_of(self, name: str) -> int:
        """Return how many tokens came of each slot of a request that is here."""
        return self._books.generated(self._books.known[name])

    def share_of(self, name: str, tokens: int) -> int:
        """Return how many of a request's tokens come of each of its slots, rounded up."""
        return -(-tokens // self._books.known[name].slots)

    def follow(self, scale: float) -> None:
        """Let steps last `scale` times what the hardware says."""
        self._clock.pace.scale = scale


class Replay:
    """Drives a core: requests come at their times, run by the model, and end by their lengths.

    Parameters
    ----------
    params : PickerParams
        Of the core; what waits for engines to tell something is switched off.
    workers : sequence of WorkerSpec
    start_s : float
        Where its clock begins.
    window_s : float
        Span of the clock that `window` keeps.
    folder : Path
        What relative paths in `params` are seen from.

    Attributes
    ----------
    core : ModelledCore
    now_s : float
        Its clock.
    window : Window
        Its last minutes.
    refused : int
        Requests that its core refused.
    overrun : int
        Requests that had more tokens here than they were to have, their length coming late.
    """

    def __init__(
        self,
        params: PickerParams,
        workers: Sequence[WorkerSpec],
        *,
        start_s: float,
        window_s: float,
        folder: Path,
    ) -> None:
        self.now_s = start_s
        self.core = ModelledCore(_alone(params), workers, clock=lambda: self.now_s, folder=folder)
        self._kept = WindowParams(bucket_s=1.0, buckets=max(2, round(window_s)))
        self._names = [spec.name for spec in workers]
        self._timeline: deque[Replayed | Changed] = deque()
        self._lengths: dict[str, int] = {}
        self._begun: dict[str, int] = {}
        self._due: dict[int, list[str]] = {}
        self._steps = 0
        self._step_ends_s = INFINITY
        self._first: list[str] = []
        self._wake_s = INFINITY
        self.refused = self.overrun = 0
        self.window = self._fresh_window()
        listeners: list[Listener] = [self]
        self.core.listeners.extend(listeners)

    def feed(self, item: Replayed | Changed) -> None:
        """Add something that is yet to be lived through; in order of time."""
        self._timeline.append(item)

    def tell_length(self, name: str, output_tokens: int) -> None:
        """Take in the length of a request that was fed without one."""
        for at, item in enumerate(self._timeline):
            if isinstance(item, Replayed) and item.ask.name == name:
                self._timeline[at] = replace(item, output_tokens=output_tokens)
                return
        if name not in self.window.live:
            return
        self._lengths[name] = output_tokens
        if name in self._begun:
            self.overrun += self._steps - self._begun[name] >= self._share(name)
            self._end_when_due(name)

    @property
    def next_s(self) -> float:
        """When something happens next, as far as is known; infinity if nothing does."""
        came_s = self._timeline[0].at_s if self._timeline else INFINITY
        return max(min(came_s, self._step_ends_s, self._wake_s), self.now_s)

    def live_on(self) -> None:
        """Live through the next moment at which something happens."""
        self.now_s = self.next_s
        if self._step_ends_s <= self.now_s:
            self._finish_step()
        while self._timeline and self._timeline[0].at_s <= self.now_s:
            self._take(self._timeline.popleft())
        self._advance()

    def skip_to(self, now_s: float) -> None:
        """Let the clock go on to a time before which nothing happens."""
        self.now_s = max(self.now_s, min(now_s, self.next_s))

    def begin_anew(self, now_s: float) -> None:
        """Forget all requests, and what was found; workers stay as they are by then."""
        while self._timeline:
            item = self._timeline.popleft()
            if isinstance(item, Changed):
                self._change(item)
        for name in list(self.window.live):
            self.core.ended(name, End.RESET)
        self.now_s = max(now_s, self.now_s)
        self._lengths.clear()
        self._begun.clear()
        self._due.clear()
        self._first.clear()
        self._step_ends_s = INFINITY
        self.refused = self.overrun = 0
        self.window = self._fresh_window()
        self._advance()

    def event(self, event: Event) -> None:
        """Take in what the core does."""
        self.window.event(event)
        if isinstance(event, Stepped):
            self._steps += 1
            self._step_ends_s = event.at_s
            self._first = self.core.names_of(event.step.first)
        elif isinstance(event, Refusal):
            self.refused += 1
        elif isinstance(event, Ended):
            self._begun.pop(event.name, None)
            self._lengths.pop(event.name, None)

    def _fresh_window(self) -> Window:
        return Window(
            [worker.spec.name for worker in self.core.workers],
            clock=lambda: self.now_s,
            params=self._kept,
        )

    def _advance(self) -> None:
        wait_s = self.core.advance()
        self._wake_s = INFINITY if wait_s is None else self.now_s + wait_s

    def _take(self, item: Replayed | Changed) -> None:
        if isinstance(item, Changed):
            self._change(item)
            return
        name = item.ask.name
        if item.output_tokens is not None:
            self._lengths[name] = item.output_tokens

        def answered(answer: Answer) -> None:
            if isinstance(answer, Placed):
                self.core.started(name, answer.worker)

        self.core.request(item.ask, answered)

    def _change(self, item: Changed) -> None:
        core = self.core
        if item.what == "added":
            core.add_worker(item.spec)
        elif item.what == "down":
            core.down(item.worker)
        elif item.what == "up":
            core.up(item.worker)
        elif item.what == "draining":
            core.retire(item.worker)

    def _finish_step(self) -> None:
        """Let the step that is under way end: first tokens are there, some requests are done."""
        first, self._first = self._first, []
        # Of several sequences it may be the first of each.
        for name in dict.fromkeys(first):
            self.core.first_token(name)
            self._begun[name] = self._steps
            if name in self._lengths:
                self._end_when_due(name)
        for name in self._due.pop(self._steps, ()):
            missing = self._share(name) - self.core.tokens_of(name)
            if missing > 0:
                # It was preempted, and waited for its turn again.
                self._due.setdefault(self._steps + missing, []).append(name)
            else:
                self._end(name)
        self._step_ends_s = INFINITY

    def _end_when_due(self, name: str) -> None:
        # With the step under way, or with the next one, whose length comes late.
        soonest = self._steps if self._step_ends_s < INFINITY else self._steps + 1
        at = self._begun[name] + self._share(name) - 1
        self._due.setdefault(max(at, soonest), []).append(name)

    def _share(self, name: str) -> int:
        return self.core.share_of(name, self._lengths[name])

    def _end(self, name: str) -> None:
        self.core.ended(name, End.FINISHED, Usage(None, self._lengths[name]))


def _alone(params: PickerParams) -> PickerParams:
    """Return parameters for a core that no engine tells anything."""
    return replace(
        params, down_s=NEVER_S, lost_s=NEVER_S, start_max_s=0.0, leak_s=0.0, budget_ms=1_000.0
    )
