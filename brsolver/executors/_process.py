"""One process of this machine that carries out tasks, and how it is spoken with.

The parent sends tasks, the process answers `READY` once, then `WANTED` for what tasks share and
does not have yet, and `DONE` with each result. All are pickled by whoever sends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from brsolver._code import own_code
from brsolver.errors import BrsolverError, StateError
from brsolver.executors._base import Begun, Lost, attempted
from brsolver.executors._shared import SharedValues
from brsolver.executors._threads import one_thread_each

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext

READY, WANTED, DONE = "ready", "wanted", "done"
CHANGED = "brsolver's own code was changed meanwhile, must stay as it is: start again"
PATIENCE_S = 5.0
"""Seconds that a process may take to end when told to, before it is killed."""


class WorkerProcess:
    """A process as its parent sees it.

    Parameters
    ----------
    context : SpawnContext
    payload : bytes
        Function, names of shared values and `own_code`, pickled.
    """

    def __init__(self, context: SpawnContext, payload: bytes) -> None:
        self.begun: Begun | None = None
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, payload))
        with _inherited():
            self._process.start()
        # Only the process has its end now: if it dies, ours says so.
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    @property
    def killed(self) -> bool:
        """Whether it has ended, and not by itself."""
        self._process.join(PATIENCE_S)
        return (self._process.exitcode or 0) < 0

    def begin(self, begun: Begun) -> None:
        """Hand it a task."""
        begun.attempts += 1
        self.begun = begun
        self.send(pickle.dumps(begun.task, pickle.HIGHEST_PROTOCOL))

    def finish(self) -> Begun:
        """Take back the task that it had."""
        begun, self.begun = self.begun, None
        if begun is None:
            raise StateError("the process has no task, must have one to end it")
        return begun

    def send(self, packed: bytes) -> None:
        """Send bytes; one that has died takes none, which the next look at it shows."""
        with suppress(OSError):
            self.connection.send_bytes(packed)

    def end(self) -> None:
        """Have it end: one without a task by itself, one that has a task at once."""
        self.connection.close()
        if self.begun is not None:
            self._process.terminate()

    def bury(self) -> None:
        """Wait until it has ended."""
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


@contextmanager
def _inherited() -> Iterator[None]:
    """Set what a process must find as it starts, for it imports the calling script first."""
    # Else the first start would launch it in the block below, and take the mask away.
    resource_tracker.ensure_running()
    with one_thread_each(), _interrupts_blocked():
        yield


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C, which a terminal sends to all of the group, for the parent to speak about."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(connection: Connection[Any, Any], payload: bytes) -> None:
    """Carry out tasks until there are no more; runs in the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function, names, code = pickle.loads(payload)  # noqa: S301 # our parent wrote it
    changed = own_code() != code

    def fetch(name: str) -> bytes:
        connection.send((WANTED, name))
        return connection.recv_bytes()

    shared = SharedValues(names, fetch)

    def carry_out(packed: bytes, shared: Mapping[str, Any]) -> Any:
        if changed:
            raise BrsolverError(CHANGED)
        return function(pickle.loads(packed), shared)  # noqa: S301 # our parent wrote it

    # A parent that has no more tasks, or has gone, closes its end.
    with suppress(EOFError, OSError):
        connection.send((READY, None))
        while True:
            result = attempted(carry_out, connection.recv_bytes(), shared)
            connection.send((DONE, _packed(result)))


def _packed(result: object) -> bytes:
    try:
        return pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 # a stranger's object may raise anything
        return pickle.dumps(Lost.raised(error))


def _end_with_parent() -> None:
    # A parent that is killed closes nothing that its other processes hold open as well.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
