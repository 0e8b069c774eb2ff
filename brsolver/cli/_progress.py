"""A progress bar on standard error for whatever takes longer than a second."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 1.0
LINE_S = 30.0
"""Seconds between two lines where standard error is no terminal, such as a log of a batch job."""


class LateBar:
    """A bar that appears once a second has passed, if standard error is a terminal.

    Parameters
    ----------
    what : str
        What is being done, and the unit of progress.
    lines : bool
        Whether a line now and then says the same where there is no terminal.
    """

    def __init__(self, what: str, *, lines: bool = False) -> None:
        self._what = what
        self._state: tuple[int, int | None] = (0, None)
        self._bar: Any = None
        self._lock = threading.Lock()
        self._ended = False
        self._said = time.monotonic()
        self._lines = lines and not sys.stderr.isatty()
        self._timer = threading.Timer(PATIENCE_S, self._appear)
        self._timer.daemon = True

    def start(self) -> None:
        """Begin to wait."""
        if sys.stderr.isatty():
            self._timer.start()

    def update(self, done: int, total: int) -> None:
        """Report progress."""
        with self._lock:
            self._state = (done, total)
            if self._bar is not None:
                self._show()
            elif self._lines and time.monotonic() - self._said >= LINE_S:
                self._said = time.monotonic()
                sys.stderr.write(f"{self._what}: {done:,} of {total:,}\n")
                sys.stderr.flush()

    def rename(self, what: str) -> None:
        """Say that something else is being done now, of unknown extent yet."""
        with self._lock:
            self._what, self._state = what, (0, None)
            if self._bar is not None:
                self._show()

    def stop(self) -> None:
        """Take the bar away."""
        self._timer.cancel()
        with self._lock:
            self._ended = True
            if self._bar is not None:
                self._bar.stop()

    def _appear(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        with self._lock:
            if self._ended:
                return
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=None)
            self._show()
            self._bar.start()

    def _show(self) -> None:
        done, total = self._state
        self._bar.update(self._task, description=self._what, completed=done, total=total)


@contextmanager
def late_bar(what: str, *, lines: bool = False) -> Iterator[LateBar]:
    """Show a `LateBar` while the block runs."""
    bar = LateBar(what, lines=lines)
    bar.start()
    try:
        yield bar
    finally:
        bar.stop()
