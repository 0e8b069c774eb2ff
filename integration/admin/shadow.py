"""Shadow routers: what other policies would have cost on the traffic that is served.

Every shadow has a cluster session with a policy of its own and `LiveRanks` as its ranks, the model
that the picker itself has. It lives through the requests that came, at the times at which they
came, on a clock of its own that follows behind: a request is replayed when its length is known,
which is when it has ended. The clock waits for the oldest request that has not, but no longer
than `patience_s`; then that request is replayed without a length and leaves the shadow at its
own, or, if it has had that many tokens there before, as soon as its end is known.

While it runs by timers, a shadow sleeps as long as nobody asks what it has found, and begins anew
when somebody does: it costs nothing where nobody looks.

What shadows say is to be compared with each other, the one of the policy that routes among them:
all have the same requests and the same model, and what the model has wrong they have in common.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from integration.admin.buckets import N_TOKENS
from integration.admin.recorder import Seen
from integration.admin.replay import Changed, Replay, Replayed
from integration.picker.events import Ended, Refusal, Requested, WorkerChanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from integration.admin.params import ShadowParams
    from integration.picker.core import Core
    from integration.picker.events import Event
    from integration.picker.params import PickerParams

PAUSE_S = 0.05
AWAKE_S = 120.0
"""For how long they go on after somebody has asked."""
IDLE_SHARE = 0.5
"""Of a processor, while no request is in progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowFigures:
    """What a shadow router has found, over its window.

    Attributes
    ----------
    policy, mode : str
    routes : bool
        Whether it is the policy that routes.
    requests : int
        That have ended in the window.
    tpot_s, ttft_s : float or None
        Means over these of time per token after the first, and to the first.
    tokens_per_s : float or None
        Output tokens per second in which the ranks stepped.
    lost_share : float or None
        Share of step time lost at the barrier.
    behind_s : float
        How far its clock is behind.
    note : str
        What is to be known besides; empty if nothing is.
    """

    policy: str
    mode: str
    routes: bool
    requests: int
    tpot_s: float | None
    ttft_s: float | None
    tokens_per_s: float | None
    lost_share: float | None
    behind_s: float
    note: str = ""


class _Shadow:
    """A replay of all traffic by one policy."""

    def __init__(self, replay: Replay, policy: str, mode: str, *, routes: bool) -> None:
        self.replay, self.policy, self.mode, self.routes = replay, policy, mode, routes
        self.stopped = ""
        self.skipped = 0

    def live_on(self, until_s: float) -> bool:
        """Live through a moment, if one is due by then; tell whether there was one."""
        if self.stopped:
            return False
        try:
            if self.replay.next_s > until_s:
                self.replay.skip_to(until_s)
                return False
            self.replay.live_on()
        except Exception as error:  # noqa: BLE001 # a shadow may fail, serving may not
            self.stopped = f"stopped: {type(error).__name__}"
        return True

    def figures(self, now_s: float) -> ShadowFigures:
        """Return what it has found."""
        window = self.replay.window
        rows = window.ended.since(self.replay.now_s - window.params.length_s)
        numbers = window.buckets.numbers(-1)
        spent = window.buckets.spent(numbers).sum(axis=1)
        steps_s = float(spent[:-1].sum())
        tokens = int(window.buckets.counts(numbers)[N_TOKENS].sum())
        return ShadowFigures(
            policy=self.policy,
            mode=self.mode,
            routes=self.routes,
            requests=len(rows),
            tpot_s=_mean(rows["tpot_s"]),
            ttft_s=_mean(rows["ttft_s"]),
            tokens_per_s=tokens / steps_s if steps_s > 0 else None,
            lost_share=float(spent[1:-1].sum()) / steps_s if steps_s > 0 else None,
            behind_s=max(now_s - self.replay.now_s, 0.0),
            note=self._note(),
        )

    def _note(self) -> str:
        if self.stopped:
            return self.stopped
        replay = self.replay
        told = (
            (replay.refused, "refused"),
            (replay.overrun, "with more tokens than in truth"),
            (self.skipped, "times begun anew, too far behind"),
        )
        return ", ".join(f"{number} {what}" for number, what in told if number)


class Shadows:
    """Listens to a core and replays its requests under other policies.

    Parameters
    ----------
    params : ShadowParams
    core : Core
        Whose parameters, workers and pace the shadows have, but for policy and mode.
    clock : callable
        Its clock, seconds.
    folder : Path, optional
        What relative paths in its parameters are seen from.
    timer : callable, optional
        Seconds by which the time that shadows use is measured.

    Raises
    ------
    BrsolverError
        There is no such policy, or it cannot be made.
    """

    def __init__(
        self,
        params: ShadowParams,
        core: Core,
        *,
        clock: Callable[[], float],
        folder: Path = Path(),
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.params, self._core, self._clock, self._timer = params, core, clock, timer
        self._open: OrderedDict[str, Seen] = OrderedDict()
        self._known: set[str] = set()
        self._overdue: dict[str, Seen] = {}
        self._timer_handle: asyncio.TimerHandle | None = None
        self._running = False
        self._asleep = False
        self._asked_s = -AWAKE_S
        self._shadows = [
            self._made(policy, mode, folder, routes=routes)
            for policy, mode, routes in self._lineup(core.params)
        ]

    def _lineup(self, picker: PickerParams) -> list[tuple[str, str, bool]]:
        others = [(policy, self.params.mode, False) for policy in self.params.policies]
        own = (picker.policy, picker.mode, True)
        return [own, *(each for each in others if each[:2] != own[:2])]

    def _made(self, policy: str, mode: Any, folder: Path, *, routes: bool) -> _Shadow:
        picker = replace(self._core.params, policy=policy, mode=mode)
        replay = Replay(
            picker,
            [worker.spec for worker in self._core.workers],
            start_s=self._clock(),
            window_s=self.params.window_s,
            folder=folder,
        )
        return _Shadow(replay, policy, mode, routes=routes)

    def event(self, event: Event) -> None:
        """Take in what the core that is listened to does."""
        if isinstance(event, WorkerChanged):
            self._changed(event)
        elif self._asleep:
            return
        elif isinstance(event, Requested):
            self._open[event.name] = Seen(ask=event.ask, at_s=event.at_s)
        elif isinstance(event, Ended):
            self._ended(event)
        elif isinstance(event, Refusal):
            self._open.pop(event.name, None)

    def figures(self) -> list[ShadowFigures]:
        """Return what all have found, the policy that routes first."""
        self._asked_s = now = self._clock()
        if self._asleep:
            self._wake(now)
        return [shadow.figures(now) for shadow in self._shadows]

    def run(self, budget_s: float) -> bool:
        """Live on for so long; tell whether there is more to do.

        A step of one shadow takes tens of microseconds to a few milliseconds, and is not cut
        short: by so much it may take longer.
        """
        until_s = self._frontier_s()
        self._follow_pace()
        self._begin_anew_far_behind()
        ends = self._timer() + budget_s
        busy = list(self._shadows)
        while busy:
            # All at about the same time of theirs, so that they have had the same requests.
            shadow = min(busy, key=lambda each: each.replay.now_s)
            if not shadow.live_on(until_s):
                busy.remove(shadow)
            if self._timer() >= ends:
                return bool(busy)
        return False

    def start(self) -> None:
        """Run slices by the timers of the running event loop, while somebody looks."""
        self._running = True
        self._fall_asleep()

    def stop(self) -> None:
        """Run no more."""
        self._running = False
        if self._timer_handle is not None:
            self._timer_handle.cancel()
            self._timer_handle = None

    def _fall_asleep(self) -> None:
        self._asleep = True
        self._open.clear()
        self._known.clear()
        self._overdue.clear()

    def _wake(self, now: float) -> None:
        """Begin anew with what comes from now on."""
        self._asleep = False
        for shadow in self._shadows:
            shadow.replay.begin_anew(now)
            shadow.skipped = 0
        if self._running:
            self._later(PAUSE_S)

    def _later(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer_handle = loop.call_later(delay_s, self._slice)

    def _slice(self) -> None:
        if self._asked_s + AWAKE_S <= self._clock():
            self._timer_handle = None
            self._fall_asleep()
            return
        began = time.thread_time()
        more = self.run(self.params.slice_ms / 1000)
        used_s = time.thread_time() - began
        # What one slice took too long is made up for by a longer pause.
        pause_s = used_s * (1 / self._share() - 1)
        self._later(pause_s if more else max(pause_s, PAUSE_S))

    def _share(self) -> float:
        # Nobody is held up while there is nobody.
        idle = not self._open and not self._overdue
        return max(IDLE_SHARE, self.params.share) if idle else self.params.share

    def _ended(self, event: Ended) -> None:
        late = self._overdue.pop(event.name, None)
        seen = late or self._open.get(event.name)
        if seen is None:
            return
        seen.end(event)
        tokens = seen.output_tokens
        if late is not None:
            for shadow in self._shadows:
                shadow.replay.tell_length(event.name, max(tokens, 1))
        elif tokens < 1:
            # It never ran, so nobody knows how long it would have.
            del self._open[event.name]
        else:
            self._known.add(event.name)

    def _changed(self, event: WorkerChanged) -> None:
        spec = self._core.workers[event.worker].spec
        self._hand_over(self._clock())
        item = Changed(at_s=self._clock(), worker=event.worker, what=event.what, spec=spec)
        for shadow in self._shadows:
            shadow.replay.feed(item)

    def _frontier_s(self) -> float:
        """Hand over what is known; return until when everything is."""
        now = self._clock()
        self._hand_over(now - self.params.patience_s)
        if self._open:
            return min(next(iter(self._open.values())).at_s, now)
        return now

    def _hand_over(self, before_s: float) -> None:
        while self._open:
            name, seen = next(iter(self._open.items()))
            known = name in self._known
            if not known and seen.at_s > before_s:
                return
            del self._open[name]
            self._known.discard(name)
            if not known:
                self._overdue[name] = seen
            length = seen.output_tokens if known else None
            item = Replayed(ask=seen.ask, at_s=seen.at_s, output_tokens=length)
            for shadow in self._shadows:
                shadow.replay.feed(item)

    def _follow_pace(self) -> None:
        for shadow in self._shadows:
            shadow.replay.core.follow(self._core.step_scale)

    def _begin_anew_far_behind(self) -> None:
        now = self._clock()
        for shadow in self._shadows:
            if now - shadow.replay.now_s > self.params.behind_s:
                shadow.replay.begin_anew(now)
                shadow.skipped += 1


def _mean(values: NDArray[Any]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
