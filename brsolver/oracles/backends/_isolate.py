"""Solving in a process of its own, which can be ended at a limit whatever the solver does.

Solvers look at their limits when they come by: in the midst of presolve or of a large node that
is seconds late. A process apart is killed on time; the best solution and bound that it reported
until then remain. What takes it down, be it a segmentation fault or want of memory, takes
nothing else with it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from brsolver.oracles.backends import _worker
from brsolver.oracles.backends._base import INTERRUPTED, MEMORY, TIME, resident_mb
from brsolver.oracles.result import SolverError

if TYPE_CHECKING:
    from types import TracebackType

POLL_S = 0.005
"""Seconds between two looks at limits."""

RETURN, LEAST_RETURN_S = 0.03, 0.01
"""Part of the time limit, and least, that solvers are left to return by themselves."""

START_S = 60.0
"""Seconds for starting the process and importing a solver; not part of any limit."""


class ProcessDiedError(SolverError):
    """A solver took down its process."""


@dataclass(slots=True)
class CallOutcome:
    """What came of a call.

    Attributes
    ----------
    value : object
        What was returned; None if it was ended.
    reason : str
        Why it was ended: empty, or the limit that was reached.
    reports : list
        What it had reported.
    """

    value: Any = None
    reason: str = ""
    reports: list[Any] = field(default_factory=list)


class Isolation:
    """A process that solves, one call after another; started at the first.

    Starting it and importing solvers takes a second, which no time limit covers, so a context
    that makes several calls should keep one:

    >>> with Isolation() as apart:  # doctest: +SKIP
    ...     solve(first, isolate=apart)
    ...     solve(second, isolate=apart)
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: queue.Queue[tuple[str, Any] | None] = queue.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        # The system takes its time to free much memory, and nobody waits for that.
        threading.Thread(target=_bury, args=(process,)).start()

    def call(
        self,
        module: str,
        function: str,
        arguments: tuple[Any, ...],
        *,
        deadline: float = float("inf"),
        memory_limit_mb: float | None = None,
    ) -> CallOutcome:
        """Call ``module.function(*arguments, report=…)`` there; `prepare` comes first.

        Parameters
        ----------
        module, function : str
        arguments : tuple
            Anything that can be pickled.
        deadline : float
            ``time.monotonic()`` at which to end it.
        memory_limit_mb : float, optional
            Resident memory of the process, Python and solver included, in MiB.

        Raises
        ------
        ProcessDiedError
            The process ended by itself: a crash.
        BrsolverError, Exception
            Whatever the function raised.
        """
        self._send(_worker.CALL, _worker.Call(module, function, arguments))
        outcome = CallOutcome()
        while True:
            message, reason = self._next(deadline, memory_limit_mb)
            if reason:
                self.close()
                outcome.reason = reason
                return outcome
            if message is None:
                continue
            kind, value = message
            if kind == _worker.REPORT:
                outcome.reports.append(value)
            elif kind == _worker.DONE:
                outcome.value = value
                return outcome
            elif kind == _worker.RAISED:
                raise value

    def prepare(self, modules: tuple[str, ...]) -> None:
        """Start the process unless it runs, and import modules there.

        Raises
        ------
        ProcessDiedError
            It did not survive that.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = _start()
            self._messages = queue.Queue()
            threading.Thread(
                target=_pump, args=(self._process.stdout, self._messages), daemon=True
            ).start()
        self._send(_worker.PREPARE, modules)
        deadline = time.monotonic() + START_S
        while True:
            message, reason = self._next(deadline, None)
            if reason == INTERRUPTED:
                self.close()
                raise KeyboardInterrupt
            if reason:
                self.close()
                raise ProcessDiedError(f"its process did not start within {START_S:g} s")
            if message is not None and message[0] == _worker.READY:
                return

    def _next(
        self, deadline: float, memory_limit_mb: float | None
    ) -> tuple[tuple[str, Any] | None, str]:
        """Return the next message, if there is one by now, and why to end the process, if so."""
        message = None
        try:
            message = self._messages.get(timeout=POLL_S)
        except queue.Empty:
            pass
        except KeyboardInterrupt:
            return None, INTERRUPTED
        else:
            if message is None:
                raise ProcessDiedError(self._obituary())
            if message[0] == _worker.DONE:
                return message, ""
        return message, self._exceeded(deadline, memory_limit_mb)

    def _exceeded(self, deadline: float, memory_limit_mb: float | None) -> str:
        if time.monotonic() > deadline:
            return TIME
        if memory_limit_mb is None or self._process is None:
            return ""
        return MEMORY if resident_mb(self._process.pid) > memory_limit_mb else ""

    def _send(self, kind: str, value: object) -> None:
        stream = self._process.stdin if self._process is not None else None
        if stream is None:
            raise ProcessDiedError("its process has no standard input")
        try:
            _worker.send(stream, kind, value)
        except BrokenPipeError:
            raise ProcessDiedError(self._obituary()) from None

    def _obituary(self) -> str:
        process = self._process
        code = process.wait() if process is not None else 0
        self.close()
        if code >= 0:
            return f"its process ended with status {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        text = {
            "SIGSEGV": "segmentation fault",
            "SIGABRT": "aborted, perhaps out of memory",
            "SIGKILL": "killed by the system, probably out of memory",
            "SIGBUS": "bus error",
            "SIGFPE": "arithmetic fault",
        }.get(name, name)
        return f"its process died: {text}"


def _start() -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([*(path for path in sys.path if path), str(_package_root())])
    return subprocess.Popen(  # noqa: S603 - this package's own module, by this interpreter
        [sys.executable, "-m", _worker.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # A session of its own: Ctrl-C is the caller's to handle, who then ends this process.
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _package_root() -> Path:
    return Path(__file__).resolve().parents[3]


def _pump(stream: IO[bytes], messages: queue.Queue[tuple[str, Any] | None]) -> None:
    try:
        while (message := _worker.receive(stream)) is not None:
            messages.put(message)
    except (OSError, ValueError):
        pass  # closed while reading: the process was ended
    messages.put(None)


def _bury(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            # What was not written does not matter: the other end is gone.
            with contextlib.suppress(OSError):
                stream.close()


def working_time(limit_s: float | None) -> float | None:
    """Return what a solver is told, so that it returns by itself within its limit."""
    if limit_s is None:
        return None
    return max(limit_s - max(RETURN * limit_s, LEAST_RETURN_S), limit_s / 2)
