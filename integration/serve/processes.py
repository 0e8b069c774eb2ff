"""Commands of our own as processes of a demonstration or a test: started, awaited, ended."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import urllib.request
from typing import TYPE_CHECKING, Self

from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

END_S = 20.0
LAST_LINES = 12


class ProcessError(BrsolverError, RuntimeError):
    """A process did not come up, or ended by itself."""


class Running:
    """``brsolver ARGUMENTS`` as a process; leaving the context ends it.

    Parameters
    ----------
    arguments : sequence of str
    ready : callable
        Told every line of its standard output; returns True once the process is up.
    environment : mapping of str to str, optional
        All of it; None is this process's own.
    start_s : float
        Seconds that it may take.

    Attributes
    ----------
    lines : list of str
        What it has printed so far, standard error among it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        ready: Callable[[str], bool],
        environment: Mapping[str, str] | None = None,
        start_s: float = 300.0,
    ) -> None:
        self._command = [sys.executable, "-m", "brsolver", *arguments]
        self._ready, self._start_s = ready, start_s
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._up = threading.Event()
        self._is_up = False
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 # a command of the project's own
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            text=True,
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        self._up.wait(self._start_s)
        if not self._is_up:
            self.end()
            raise ProcessError(f"brsolver {self._command[3]} did not come up: {self.last_words()}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Its process identity.

        Raises
        ------
        ProcessError
            It does not run.
        """
        if self._process is None:
            raise ProcessError(f"brsolver {self._command[3]} does not run")
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait for its end; return its exit status."""
        if self._process is None:
            raise ProcessError(f"brsolver {self._command[3]} does not run")
        return self._process.wait(seconds)

    def end(self) -> None:
        """End it: in order, at once if that takes long, and for good at last."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.send_signal(number)
                process.wait(END_S)
                return

    def last_words(self) -> str:
        """Return the last lines that it printed."""
        return " | ".join(self.lines[-LAST_LINES:])

    def _read(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is None:
            return
        with process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))
                if not self._is_up and self._ready(self.lines[-1]):
                    self._is_up = True
                    self._up.set()
        self._up.set()


def fetch(url: str, timeout_s: float = 10.0) -> str:
    """Return what a URL of this machine answers to a GET.

    Raises
    ------
    OSError
        If it does not answer, or with an error.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout_s) as answer:
        return str(answer.read().decode())
