"""Who goes on with a study: one process at a time, which says so in the study itself.

Files can be locked, but a study may be in a database that several machines use. Whoever takes the
lease, or gives a sign of life, writes itself down only if nobody else has since it looked: of two
that begin in the same moment one is there. Clocks of two machines may be far apart, so that a
holder that seems to be silent is watched for some beats before it is taken for dead.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError
from brsolver.tuning._swap import swapped, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.study import Study

KEPT = "brsolver_lease"
"""Name by which it is kept with the study."""
BEAT_S = 10.0
"""Seconds between two signs of life."""
STALE_S = 60.0
"""Seconds without one, by the machines' clocks, after which a lease may be taken over."""
LOOKS, LOOK_S = 3, BEAT_S
"""How often its holder is looked at before that, and seconds between: one that lives has written
by then, whatever its clock says."""
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that goes on with a study.

    Attributes
    ----------
    host, space : str
        Its machine, and that one's start and namespace of processes: a container has one of its
        own.
    process : int
    mark : str
        What tells it from any other.
    seen_s : float
        When it gave its last sign of life, in seconds of the clock on the wall.
    """

    host: str
    space: str
    process: int
    mark: str
    seen_s: float

    @classmethod
    def me(cls) -> Holder:
        """Return this process, with a mark of its own."""
        space = ""
        with suppress(OSError):
            # Machines may have one name, and their first namespaces have one number everywhere.
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            space = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        return cls(
            host=socket.gethostname(), space=space, process=os.getpid(), mark=uuid.uuid4().hex,
            seen_s=time.time(),
        )  # fmt: skip

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def ended(self, me: Holder) -> bool:
        """Tell whether it is a process of this machine that has ended."""
        return (self.host, self.space) == (me.host, me.space) and not _alive(self.process)

    def silent(self, me: Holder) -> bool:
        """Tell whether nothing has been heard of it for long, or its clock is another."""
        return abs(me.seen_s - self.seen_s) > STALE_S


class Lease:
    """The right to go on with a study, and what tells others that it is used.

    Parameters
    ----------
    study : Study
    me : Holder
    """

    def __init__(self, study: Study, me: Holder) -> None:
        self._study, self._me = study, me
        self._ended = threading.Event()

    def check(self) -> None:
        """Raise `BrsolverError` if another process has taken it over."""
        theirs = _holder(text_of(self._study, KEPT))
        if theirs is not None and theirs.mark != self._me.mark:
            raise BrsolverError(
                f"study {self._study.study_name!r} has been taken over by {theirs}, as nothing had "
                f"been heard of this process for {STALE_S:.0f} s; what was tried is kept there"
            )

    def take(self) -> None:
        """Take it; raise `BrsolverError`, which names the holder, if another has it."""
        found = text_of(self._study, KEPT)
        theirs = _holder(found)
        if theirs is not None and not theirs.ended(self._me):
            if not theirs.silent(self._me):
                raise self._refused(theirs, time.time() - theirs.seen_s)
            self._watch(found)
        if not swapped(self._study, KEPT, found, asdict(self._me)):
            raise self._refused(_holder(text_of(self._study, KEPT)), 0.0)

    def _watch(self, found: str) -> None:
        """Raise `BrsolverError` if what is there changes while it is looked at."""
        for _ in range(LOOKS):
            self._ended.wait(LOOK_S)
            now = text_of(self._study, KEPT)
            if now != found:
                raise self._refused(_holder(now), 0.0)

    def keep(self) -> None:
        """Give signs of life until `end`; runs in a thread."""
        while not self._ended.wait(BEAT_S):
            # What is wrong with the storage, the search itself finds out.
            with suppress(Exception):
                self._sign(time.time())

    def end(self) -> None:
        """Give no more signs of life."""
        self._ended.set()

    def release(self) -> None:
        """Leave the study to others, once no more signs of life are under way."""
        with suppress(Exception):
            self._write_if_mine(None)

    def _sign(self, now_s: float) -> None:
        self._write_if_mine({**asdict(self._me), "seen_s": now_s})

    def _write_if_mine(self, value: dict[str, Any] | None) -> None:
        found = text_of(self._study, KEPT)
        holder = _holder(found)
        if holder is not None and holder.mark == self._me.mark:
            swapped(self._study, KEPT, found, value)

    def _refused(self, theirs: Holder | None, age_s: float) -> BrsolverError:
        who = theirs or "another process"
        return BrsolverError(
            f"study {self._study.study_name!r} is gone on with by {who}, heard of "
            f"{max(0.0, age_s):.0f} s ago, must be by one process at a time: wait for that one, or "
            f"give another --study; {STALE_S:.0f} s after it was last heard of it can be taken over"
        )


@contextmanager
def leased(study: Study, *, shared: bool) -> Iterator[Lease]:
    """Hold a study's lease while the block runs.

    Parameters
    ----------
    study : Study
    shared : bool
        Whether others can reach it at all: what is in memory they cannot.

    Yields
    ------
    Lease

    Raises
    ------
    BrsolverError
        Another process goes on with it; names it.
    """
    lease = Lease(study, Holder.me())
    if not shared:
        yield lease
        return
    lease.take()
    keeper = threading.Thread(target=lease.keep, name="brsolver-lease", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        lease.end()
        keeper.join(_JOIN_S)
        lease.release()


def _holder(text: str) -> Holder | None:
    """Return who holds a study; None if nobody does, or nobody of ours."""
    kept: Any = json.loads(text)
    try:
        return Holder(**kept)
    except TypeError:
        return None


def _alive(process: int) -> bool:
    if os.name == "nt":  # there a signal of 0 is none that asks
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
