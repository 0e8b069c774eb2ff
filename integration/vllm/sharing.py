"""What several API servers of one deployment tell each other: a table in shared memory.

Every server keeps exact books of its own requests and nobody else's. It writes their sums per
rank into its row of a memory-mapped file; a decision adds up the other rows. Rows have one writer
each, of aligned 8-byte numbers, so that a reader can at worst mix figures that are a moment
apart. A lock around "decide and enter" keeps two servers from giving away the same slot; the
kernel drops it with the process that holds it. The row of a server that has died is passed over.

The file has a name only until all servers have it open, or the last of them has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import tempfile
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.session import FIGURES
from brsolver.errors import ParameterError
from integration.vllm.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from brsolver.cluster.view import IntArray

_WORD = 8
_HEADER = 2
_PID, _HELD = range(_HEADER)
LOCK_PATIENCE_S = 0.002
LOOK_S = 0.25
"""Between two looks at which servers live."""
CONTENDED = 100
"""Decisions without the lock from which on it is no accident."""


class Board:
    """The table, as one server sees it.

    Parameters
    ----------
    path : path
        The file; made if it is not there. The layout is added to its name, so that servers of
        another layout never meet in it.
    servers : int
        API servers of the deployment.
    index : int
        Which of them this is.
    ranks : int
        Ranks G they route to.
    horizon : int
        Steps of projected load that they exchange.

    Attributes
    ----------
    contended : int
        Decisions taken without the lock, because another server kept it too long; `CONTENDED`
        of them are warned of.

    Raises
    ------
    OSError
        The file cannot be made, or is another user's.
    """

    def __init__(
        self, path: Path, *, servers: int, index: int, ranks: int, horizon: int = 0
    ) -> None:
        self.path = path.with_name(f"{path.name}-{servers}-{ranks}-{FIGURES}-{horizon}")
        self.servers = servers
        self.index = index
        self.contended = 0
        self._nameless = False
        self._next_look = self._next_tidying = 0.0
        self._dead: list[int] = []
        self.horizon = horizon
        width = _HEADER + ranks * (FIGURES + horizon + 1)
        self._descriptor = _open_own(self.path)
        try:
            os.ftruncate(self._descriptor, servers * width * _WORD)
            self._memory = mmap.mmap(self._descriptor, servers * width * _WORD)
        except OSError:
            os.close(self._descriptor)
            self.path.unlink(missing_ok=True)
            raise
        table: NDArray[np.int64] = np.frombuffer(self._memory, np.int64).reshape(servers, width)
        self._header = table[:, :_HEADER]
        figures_end = _HEADER + ranks * FIGURES
        self._figures = table[:, _HEADER:figures_end].reshape(servers, FIGURES, ranks)
        self._projected = table[:, figures_end:].reshape(servers, ranks, horizon + 1)
        table[index] = 0
        self._header[index, _PID] = os.getpid()
        # Leaves when the process ends in order, or nobody uses the board any more.
        self._leave = weakref.finalize(
            self, _leave, self._descriptor, table, index, os.getpid(), self.path
        )
        self.tidy()

    def publish(self, figures: IntArray, held: int) -> None:
        """Write this server's sums, shape (FIGURES, G), and the requests it holds back."""
        self._figures[self.index] = figures
        self._header[self.index, _HELD] = held

    def publish_projection(self, projected: IntArray) -> None:
        """Write this server's projected loads, shape (G, H + 1)."""
        steps = projected.shape[1]
        self._projected[self.index, :, :steps] = projected

    def others(self) -> IntArray:
        """Return the sums of all other servers, shape (FIGURES, G)."""
        total: IntArray = self._figures.sum(axis=0)
        total -= self._figures[self.index]
        for row in self._dead_rows():
            total -= self._figures[row]
        return total

    def others_projected(self, steps: int) -> IntArray:
        """Return the projected loads of all other servers, shape (G, steps + 1)."""
        part = self._projected[:, :, : steps + 1]
        total: IntArray = part.sum(axis=0)
        total -= part[self.index]
        for row in self._dead_rows():
            total -= part[row]
        return total

    @property
    def attached(self) -> int:
        """Servers that have attached so far and live."""
        return sum(_lives(pid) for pid in self._header[:, _PID].tolist())

    def tidy(self) -> None:
        """Remove the file's name if all servers have it open; the last to come does."""
        now = time.monotonic()
        if self._nameless or now < self._next_tidying:
            return
        self._next_tidying = now + LOOK_S
        if self.attached == self.servers:
            self._nameless = True
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave: clear this server's row, and remove the file's name if no other server lives."""
        self._leave()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, or go without it after `LOCK_PATIENCE_S`: a late decision is worse."""
        held = self._acquire()
        try:
            yield
        finally:
            if held:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _acquire(self) -> bool:
        give_up = time.perf_counter() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.perf_counter() > give_up:
                    self._contend()
                    return False
                time.sleep(0)
            else:
                return True

    def _contend(self) -> None:
        self.contended += 1
        if self.contended == CONTENDED:
            logger.warning(
                "brsolver: %d decisions did not wait for another API server's, which took more "
                "than %g ms: two servers may have given away the same slot; fewer API servers, or "
                "more processors, would help",
                CONTENDED,
                LOCK_PATIENCE_S * 1000,
            )

    def _dead_rows(self) -> list[int]:
        """Return the rows of servers that died without withdrawing, as of the latest look."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            pids = self._header[:, _PID].tolist()
            self._dead = [row for row, pid in enumerate(pids) if pid and not _lives(pid)]
        return self._dead

    def require_horizon(self, horizon: int) -> None:
        """Raise `ParameterError` if projections that long were never exchanged."""
        if horizon > self.horizon:
            raise ParameterError(
                f"horizon is {horizon}, must be at most {self.horizon}, on which the API servers "
                "have agreed; restart the server to change that"
            )

    def withdraw(self) -> None:
        """Clear this server's row: it keeps no books any more."""
        self._figures[self.index] = 0
        self._projected[self.index] = 0
        self._header[self.index] = 0


def board_path(address: str, first_rank: int) -> Path:
    """Return where the servers of one deployment on this machine meet.

    They are children of one process and share the coordinator's address, which nobody else
    does. Hybrid load balancing has a group of servers per node, told apart by their first rank.
    """
    key = f"{os.getuid()}:{os.getppid()}:{address}:{first_rank}"
    name = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
    shared = Path("/dev/shm")  # noqa: S108 # the file is opened as nobody else's
    folder = shared if shared.is_dir() else Path(tempfile.gettempdir())
    return folder / f"brsolver-{name}"


def _leave(descriptor: int, table: IntArray, index: int, pid: int, path: Path) -> None:
    # A child of a fork has inherited the board, but is not the server.
    if os.getpid() != pid:
        return
    table[index] = 0
    if not any(_lives(other) for other in table[:, _PID].tolist()):
        path.unlink(missing_ok=True)
    os.close(descriptor)


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Tell whether a process is dead, but its parent has not asked what became of it."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[:1] == [b"Z"]


def _open_own(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.fstat(descriptor).st_uid != os.getuid():
        os.close(descriptor)
        raise PermissionError(f"{path} belongs to another user")
    return descriptor
