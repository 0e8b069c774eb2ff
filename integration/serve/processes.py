"""Commands of our own as processes of a demonstration or a test: started, awaited, ended."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Self

from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

POLL_S = 0.05
END_S = 20.0


class ProcessError(BrsolverError, RuntimeError):
    """A process did not come up, or ended by itself."""


class Running:
    """``brsolver ARGUMENTS`` as a process; leaving the context ends it.

    Parameters
    ----------
    arguments : sequence of str
    ready : str or None
        URL that answers with 200 once it is up; None does not wait.
    log : Path
        Takes what it prints.
    start_s : float
        Seconds that it may take.

    Attributes
    ----------
    log : Path
    """

    def __init__(
        self, arguments: Sequence[str], *, ready: str | None, log: Path, start_s: float = 300.0
    ) -> None:
        self._command = [sys.executable, "-m", "brsolver", *arguments]
        self._ready, self.log, self._start_s = ready, log, start_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 # a command of the project's own
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            self.await_ready()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process."""
        if self._process is None:
            raise ProcessError(f"{self._name} was not started")
        return self._process

    def await_ready(self) -> None:
        """Wait until it answers.

        Raises
        ------
        ProcessError
            If it ends before, or takes too long; the message has the end of what it printed.
        """
        deadline = time.monotonic() + self._start_s
        while self._ready is not None and not answers(self._ready):
            if self.process.poll() is not None:
                raise ProcessError(f"{self._name} ended while starting: {self.last_words()}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{self._name} did not come up: {self.last_words()}")
            time.sleep(POLL_S)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait for its end; return its exit status."""
        return self.process.wait(seconds)

    def end(self) -> None:
        """End it: in order, at once if that takes long, and for good at last."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
                return

    def last_words(self) -> str:
        """Return the last lines that it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(line for line in lines[-8:] if line.strip())

    @property
    def _name(self) -> str:
        return f"brsolver {self._command[3]}"


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Return whether a URL of this machine answers with 200."""
    try:
        return bool(fetch(url, timeout_s) is not None)
    except OSError:
        return False


def fetch(url: str, timeout_s: float = 10.0) -> str:
    """Return what a URL of this machine answers.

    Raises
    ------
    OSError
        If it does not answer, or with an error.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout_s) as answer:
        return str(answer.read().decode())
