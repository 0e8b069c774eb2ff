"""Fail closed: what the adapter does may fail or hang, serving may not."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    T = TypeVar("T")
else:
    T = TypeVar("T")

# A child of vLLM's own logger: its handlers and its format, in all of its processes.
logger = logging.getLogger("vllm.brsolver")

FORGIVEN_AFTER = 1_000
STARVED = 20


class _Failed:
    """The answer of a call that failed."""


FAILED: Final = _Failed()


class DecisionTimeoutError(BaseException):
    """A call ran past its budget.

    Not an `Exception`: a router that catches those must not be able to sit this one out.
    """


class Deadline:
    """Interrupts a call of the main thread that runs past its budget.

    The interval timer's signal is handled by the very thread that makes the call, between two
    of its instructions, so that it cannot strike after the call is over. Off the main thread, or
    where the process has other uses for the signal, nothing is interrupted, and being late only
    shows afterwards. Compiled code is interrupted no sooner than it returns.

    A call that neither used up its budget of processor time nor waits for anything was merely
    kept from running by other processes; it is given up to `STARVED` times its budget. Whether it
    waits is seen from a first look, once the budget is spent, to the next.

    Parameters
    ----------
    budget_s : float
        Seconds that a call may take.
    """

    _current: ClassVar[Deadline | None] = None  # a process has one such signal

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self.interrupts = _claim_signal(Deadline.strike)
        self._began_s = self._began_cpu_s = 0.0
        self._waits: int | None = None

    def start(self) -> None:
        """Begin a call."""
        self._began_s, self._began_cpu_s = time.perf_counter(), time.thread_time()
        Deadline._current = self
        if self.interrupts:
            self._waits = None
            self._arm()
        else:
            self._waits = _waits()

    def stop(self) -> None:
        """End it."""
        Deadline._current = None
        if self.interrupts:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def late(self) -> bool:
        """Tell whether the call has taken too long."""
        taken = time.perf_counter() - self._began_s
        if taken <= self.budget_s:
            return False
        if taken > STARVED * self.budget_s:
            return True
        if time.thread_time() - self._began_cpu_s > self.budget_s:
            return True
        before, self._waits = self._waits, _waits()
        return before is not None and self._waits > before

    @staticmethod
    def strike(_number: int, _frame: FrameType | None) -> None:
        """Interrupt the call that is being made, if it is late."""
        call = Deadline._current
        if call is None:
            return
        if call.late():
            raise DecisionTimeoutError
        call._arm()  # noqa: SLF001 # of its own kind

    def _arm(self) -> None:
        # Repeated, should the call swallow the first, but not so soon that two strikes could
        # come while the first is being dealt with.
        signal.setitimer(signal.ITIMER_REAL, self.budget_s, max(self.budget_s, 1.0))


def _waits() -> int:
    """Return how often this thread has waited for something; 0 where the system cannot tell."""
    thread = getattr(resource, "RUSAGE_THREAD", None) if sys.platform != "win32" else None
    return 0 if thread is None else resource.getrusage(thread).ru_nvcsw


def _claim_signal(handler: Callable[[int, FrameType | None], None]) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGALRM) not in {signal.SIG_DFL, signal.SIG_IGN, handler}:
        return False
    signal.signal(signal.SIGALRM, handler)
    return True


class Guard:
    """Runs what may fail, counts failures, and knows when there were too many.

    Parameters
    ----------
    budget_s : float
        Seconds that a call may take.
    max_failures : int
        Failures, with fewer than `FORGIVEN_AFTER` successes between them, after which it stands
        down.
    failed : callable
        Told the kind of every failure.
    stood_down : callable
        Told when there were too many.
    """

    def __init__(
        self,
        budget_s: float,
        max_failures: int,
        *,
        failed: Callable[[str], None],
        stood_down: Callable[[], None],
    ) -> None:
        self.active = True
        self.failures = 0
        self._max_failures = max_failures
        self._deadline = Deadline(budget_s)
        self._failed = failed
        self._stood_down = stood_down
        self._said: set[str] = set()
        self._successes = 0

    @property
    def interrupts(self) -> bool:
        """Whether a call that hangs is interrupted."""
        return self._deadline.interrupts

    def run(self, kind: str, call: Callable[..., T], *args: Any) -> T | _Failed:
        """Call, and return the answer, or `FAILED` if it raised or took too long."""
        deadline = self._deadline
        try:
            deadline.start()
            try:
                answer = call(*args)
                late = deadline.late()
            finally:
                deadline.stop()
        except DecisionTimeoutError:
            # It may have struck on the way into `stop`, which then did nothing.
            deadline.stop()
            self._late(kind)
            return FAILED
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.fail(kind, f"{type(error).__name__}: {error}")
            return FAILED
        if late:
            self._late(kind)
            return FAILED
        self._succeed()
        return answer

    def fail(self, kind: str, reason: str) -> None:
        """Count a failure; say so the first time of its kind."""
        self.failures += 1
        self._successes = 0
        self.note(kind, reason)
        if self.active and self.failures >= self._max_failures:
            self.stand_down(f"{self.failures} failures, the last: {kind}: {reason}")

    def note(self, kind: str, reason: str) -> None:
        """Count a failure that does not bear on routing; say so the first time of its kind."""
        self._failed(kind)
        if kind not in self._said:
            self._said.add(kind)
            logger.warning(
                "brsolver: %s failed (%s); vLLM goes on without. Further failures of this kind "
                "are only counted.",
                kind,
                reason,
            )

    def stand_down(self, reason: str) -> None:
        """Leave everything to vLLM from now on."""
        if self.active:
            self.active = False
            logger.warning("brsolver: stands down for good (%s); vLLM routes by itself", reason)
            self._stood_down()

    def _late(self, kind: str) -> None:
        self.fail(kind, f"took more than its budget of {self._deadline.budget_s * 1000:g} ms")

    def _succeed(self) -> None:
        self._successes += 1
        if self._successes >= FORGIVEN_AFTER:
            self.failures = 0
            self._successes = 0
