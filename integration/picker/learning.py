"""The pace of steps, learned from streams: from some while they run, from all when they end."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from integration.picker.asks import End, Measured
from integration.picker.bodies import CHAT, COMPLETIONS
from integration.picker.sampling import TokenBytes

if TYPE_CHECKING:
    from integration.picker.asks import Seen, Usage
    from integration.picker.clock import Mark, StepClock
    from integration.picker.requests import Request
    from integration.picker.workers import Worker, Workers

TOKENS_FIRST = (CHAT, COMPLETIONS)
"""Kinds of answers whose first bytes come with their first token."""
_ENOUGH_TOKENS = 16
_ENOUGH_STEPS = 8
"""Between two looks that are compared: a stream may be looked at just before, or after, a token."""
_RECENT = 2.5
"""Intervals between two looks at a stream for which what it told counts."""


class _Look(NamedTuple):
    """A stream as it was looked at last."""

    seen: Seen
    mark: Mark


class Learning:
    """What streams tell of the pace of steps.

    An engine that counts its own steps is believed before any stream: of its streams only the
    ends are taken in.

    Parameters
    ----------
    clock : StepClock
    workers : Workers

    Attributes
    ----------
    bytes : TokenBytes
    """

    def __init__(self, clock: StepClock, workers: Workers) -> None:
        self._clock = clock
        self._workers = workers
        self.bytes = TokenBytes()
        self._looks: dict[str, _Look] = {}
        self._paces: dict[str, tuple[float, float]] = {}

    def sampled(self, request: Request, seen: Seen, now: float, *, last: bool = False) -> None:
        """Take in how far a stream has come.

        What counts is the median of what streams tell at about the same time: a client that reads
        slowly, or a stream of longer texts, moves nothing.

        Parameters
        ----------
        request : Request
        seen : Seen
        now : float
            On the core's clock.
        last : bool
            Whether it has ended: what came last is no tokens, and `ended` takes it in.
        """
        if last:
            request.seen = seen
            return
        name, each = request.name, self.bytes.of(_kind(request, seen))
        before, look = self._looks.get(name), _Look(seen, self._clock.mark(now))
        alone = request.ask.stream and request.ask.sequences == 1
        if before is None or not before.seen.sent or each is None or not alone:
            self._looks[name] = look
            return
        real_s, steps = seen.at_s - before.seen.at_s, (seen.sent - before.seen.sent) / each
        if steps < _ENOUGH_STEPS:
            # Too few to tell, or none: what it does next took all the time since.
            return
        self._looks[name] = look
        if real_s <= 0 or _counts(self._workers[request.worker]):
            return
        self._paces[name] = now, real_s / steps
        recent = [pace for at_s, pace in self._paces.values() if at_s >= now - _RECENT * real_s]
        self._clock.learn(before.mark, now, steps, real_s=steps * median(recent))

    def streamed(self, request: Request) -> int | None:
        """Return how many tokens each sequence of a stream has had, by its bytes.

        None if these tell nothing. Whatever a stream has once, one of several sequences has for
        each, but for a line at its end.
        """
        seen = request.seen
        if seen is None or not request.ask.stream:
            return None
        return self.bytes.tokens(_kind(request, seen), seen.sent // request.ask.sequences)

    def ended(
        self,
        request: Request,
        now: float,
        tokens: int,
        end: End,
        usage: Usage | None,
    ) -> Measured | None:
        """Take in that a request has ended; return what was measured of it.

        Parameters
        ----------
        request : Request
        now : float
        tokens : int
            Of each of its sequences.
        end : End
        usage : Usage or None
        """
        # What comes of an error is no token, however soon it comes.
        times = None if end is End.REJECTED else _measured(request, usage)
        self._looks.pop(request.name, None)
        self._paces.pop(request.name, None)
        if end is End.FINISHED:
            self._clock.saw_end(now)
            # Several sequences may run one after another: theirs are not the steps that passed.
            if request.ask.sequences == 1 and not self._by_bytes(request, usage):
                self._learn(request, now, tokens, times)
        return times

    def _by_bytes(self, request: Request, usage: Usage | None) -> bool:
        """Tell whether a stream's tokens are known by its bytes alone: too roughly for a pace."""
        told = usage is not None and usage.completion_tokens is not None
        return not told and self.streamed(request) is not None

    def _learn(self, request: Request, now: float, tokens: int, times: Measured | None) -> None:
        seen = request.seen
        if seen is not None and times is not None and times.decoded:
            self.bytes.learn(_kind(request, seen), times.decoded + 1, seen.sent)
        # By the model's word for its first token, too few tokens tell nothing.
        least = 1 if request.first_s is not None else _ENOUGH_TOKENS
        if request.begun is not None and tokens > least:
            real_s = times.decode_s if times is not None and times.decoded else None
            self._clock.learn(request.begun, now, tokens - 1, real_s=real_s)


def _measured(request: Request, usage: Usage | None) -> Measured | None:
    """Return the times of a stream; None where its first bytes are not those of its first token."""
    ask, seen = request.ask, request.seen
    if seen is None or seen.first_s is None or not ask.stream or seen.kind not in TOKENS_FIRST:
        return None
    first_s, asked_s, last_s = seen.first_s, seen.asked_s, seen.last_s
    told = None if usage is None else usage.completion_tokens
    # Of several sequences nobody says how many tokens each had, and when.
    decoded = max(told - 1, 0) if told is not None and ask.sequences == 1 else 0
    return Measured(
        ttft_s=first_s,
        worker_ttft_s=first_s - asked_s if asked_s is not None and asked_s <= first_s else None,
        decode_s=last_s - first_s if last_s is not None and last_s > first_s else None,
        decoded=decoded,
    )


def _kind(request: Request, seen: Seen) -> tuple[str, str]:
    return request.model, seen.kind


def _counts(worker: Worker) -> bool:
    """Tell whether a worker's engine counts its steps."""
    return worker.gauges is not None and worker.gauges.steps is not None
