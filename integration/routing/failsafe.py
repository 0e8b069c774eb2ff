"""Fail closed: what routes may fail or hang, serving may not."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from brsolver.errors import BrsolverError

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    T = TypeVar("T")
else:
    T = TypeVar("T")

FORGIVEN_AFTER = 1_000
STARVED = 20


def in_a_line(error: Exception) -> str:
    """Tell an error in one line; what is ours needs no name of its class."""
    name = "" if isinstance(error, BrsolverError) else f"{type(error).__name__}: "
    return name + " ".join(str(error).split())


def named(why: str | Exception) -> str:
    """Tell what went wrong; an error with the name of its class."""
    return why if isinstance(why, str) else f"{type(why).__name__}: {why}"


class Words(NamedTuple):
    """Where a failsafe says what goes wrong, and what becomes of routing then.

    Attributes
    ----------
    logger : logging.Logger
    goes_on : str
        What happens where one call failed.
    alone : str
        What happens once there were too many.
    how_long : str
        For how long that stays so.
    """

    logger: logging.Logger = logging.getLogger("brsolver")
    goes_on: str = "serving goes on without"
    alone: str = "whoever serves routes by itself"
    how_long: str = "for good"


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

    Time in which a call could have run but other processes had the processors is none of its
    own, and it is given up to `STARVED` times its budget. The system's scheduler tells of that
    time. Asking it costs more than most calls take, so it is asked when the budget is spent, and
    again a quarter of it later: a call that has mostly waited for something since is late, and
    so is one whose budget is used up by what it computed before and all that was its own since.
    Where the scheduler does not tell, a call that has waited at all since is late.

    Parameters
    ----------
    budget_s : float
        Seconds that a call may take.
    """

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self.interrupts = _claim_signal(Deadline.strike)
        self._began_s = self._began_cpu_s = 0.0
        self._kept = _KeptWaiting()
        self._first: _Look | None = None

    def start(self) -> None:
        """Begin a call."""
        self._began_s, self._began_cpu_s = time.perf_counter(), time.thread_time()
        _making.call = self
        if self.interrupts:
            self._first = None
            self._arm(self.budget_s)
        else:
            self._first = self._look()

    def stop(self) -> None:
        """End it."""
        _making.call = None
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
        look = self._look()
        if self._first is None:
            self._first = look
            return False
        own_s = self._first.cpu_s - self._began_cpu_s + look.own_s(self._first)
        return own_s > self.budget_s or look.waited(self._first)

    def _look(self) -> _Look:
        kept_s = self._kept.seconds()
        return _Look(
            wall_s=time.perf_counter(), cpu_s=time.thread_time(), kept_s=kept_s, waits=_waits()
        )

    @staticmethod
    def strike(_number: int, _frame: FrameType | None) -> None:
        """Interrupt the call that is being made, if it is late."""
        call = _making.call
        if call is None:
            return
        if call.late():
            raise DecisionTimeoutError
        call._arm(call.budget_s / 4)  # noqa: SLF001 # of its own kind

    def _arm(self, seconds: float) -> None:
        # Repeated, should the call swallow the first, but not so soon that two strikes could
        # come while the first is being dealt with.
        signal.setitimer(signal.ITIMER_REAL, seconds, max(self.budget_s, 1.0))


class _Look(NamedTuple):
    """How a thread stood at one moment.

    Attributes
    ----------
    wall_s, cpu_s : float
        The clock, and the processor time it has used.
    kept_s : float or None
        How long it was ready to run while others had the processors; None where nobody tells.
    waits : int
        How often it has waited for something.
    """

    wall_s: float
    cpu_s: float
    kept_s: float | None
    waits: int

    def own_s(self, before: _Look) -> float:
        """Return the seconds since `before` that were its own; 0 where nobody tells."""
        if self.kept_s is None or before.kept_s is None:
            return 0.0
        return self.wall_s - before.wall_s - (self.kept_s - before.kept_s)

    def waited(self, before: _Look) -> bool:
        """Tell whether it mostly waited since `before`; whether at all, where nobody tells."""
        if self.kept_s is None or before.kept_s is None:
            return self.waits > before.waits
        waited_s = self.own_s(before) - (self.cpu_s - before.cpu_s)
        return waited_s > 0.5 * (self.wall_s - before.wall_s)


class _Making:
    """The call that is being made, of which a process has one: it has one such signal.

    An attribute of a class would do as well, but whenever one is set, Python forgets where it
    found the methods of that class; that is most of a microsecond per decision.
    """

    __slots__ = ("call",)

    def __init__(self) -> None:
        self.call: Deadline | None = None


_making = _Making()


class _KeptWaiting:
    """Tells how long the thread was ready to run while others had the processors.

    Linux's scheduler counts it, thread by thread. Reading it takes some microseconds even while the
    file stays open, which is that of the thread that opened it, in whatever process it is read.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._of = (0, 0)

    def seconds(self) -> float | None:
        """Return the seconds so far; None where the system does not tell."""
        mine = os.getpid(), threading.get_ident()
        if mine != self._of:
            self.close()
            self._of = mine
            with contextlib.suppress(OSError):
                self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        if self._file is None:
            return None
        try:
            return int(os.pread(self._file, 96, 0).split()[1]) * 1e-9
        except (OSError, IndexError, ValueError):
            self.close()
            return None

    def close(self) -> None:
        """Close the file, if one is open."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()


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


class Failsafe:
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
    words : Words, optional
    """

    def __init__(
        self,
        budget_s: float,
        max_failures: int,
        *,
        failed: Callable[[str], None],
        words: Words = Words(),  # noqa: B008 # immutable
    ) -> None:
        self.active = True
        self._words = words
        self.failures = 0
        self._max_failures = max_failures
        self._deadline = Deadline(budget_s)
        self._failed = failed
        self._when_down: list[Callable[[], None]] = []
        self._said: set[str] = set()
        self._successes = 0

    @property
    def interrupts(self) -> bool:
        """Whether a call that hangs is interrupted."""
        return self._deadline.interrupts

    def when_down(self, call: Callable[[], None]) -> None:
        """Have something called, after what was named before, when there were too many failures."""
        self._when_down.append(call)

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
        except Exception as error:  # noqa: BLE001 # whatever it is, serving must go on
            self.fail(kind, error)
            return FAILED
        if late:
            self._late(kind)
            return FAILED
        self._succeed()
        return answer

    def fail(self, kind: str, why: str | Exception) -> None:
        """Count a failure; say so the first time of its kind."""
        self.failures += 1
        self._successes = 0
        self.note(kind, why)
        if self.active and self.failures >= self._max_failures:
            self.stand_down(f"{self.failures} failures, the last: {kind}: {named(why)}")

    def note(self, kind: str, why: str | Exception) -> None:
        """Count a failure that does not bear on routing; say so the first time of its kind."""
        self._failed(kind)
        if kind not in self._said:
            self._said.add(kind)
            self._words.logger.warning(
                "brsolver: %s failed (%s); %s. Further failures of this kind are only counted.",
                kind,
                named(why),
                self._words.goes_on,
            )

    def stand_down(self, reason: str) -> None:
        """Leave everything to whoever serves from now on."""
        if self.active:
            self.active = False
            words = self._words
            words.logger.warning(
                "brsolver: stands down %s (%s); %s", words.how_long, reason, words.alone
            )
            for call in self._when_down:
                call()

    def stand_up(self) -> None:
        """Have calls made again after it stood down, for whoever lets it try again."""
        self.active = True
        self.failures = self._successes = 0
        self._said.clear()

    def _late(self, kind: str) -> None:
        self.fail(kind, f"took more than its budget of {self._deadline.budget_s * 1000:g} ms")

    def _succeed(self) -> None:
        self._successes += 1
        if self._successes >= FORGIVEN_AFTER:
            self.failures = 0
            self._successes = 0
