"""Traces of what was served, in brsolver's own schema: what the adapter's and the door's need."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Generic, TextIO, TypeVar, cast

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from pathlib import Path

R = TypeVar("R")

FLUSH_ROWS = 256
LAST_BYTES = 8 << 20
"""Of a file, in which its last row is looked for; one of a million tokens has a sixth of that."""
MIB = 1 << 20
MOST_KEPT_BACK = 50_000
"""Rows of some 300 bytes each: half an hour behind one request, at 30 requests a second."""


class TraceRecorder(Generic[R]):
    """Appends requests that have ended, in order of arrival, as a trace must be.

    A request that runs long keeps back those that came after it. Once `MOST_KEPT_BACK` rows wait
    behind it, it is left out of the trace, and so are others of which that becomes true later:
    such a trace lacks its longest requests, which a warning says once. No text and no token is
    written, only what `row_of` returns.

    A file that cannot be written any more, on a full disk say, ends the recording with a warning
    and nothing else: from then on every method does nothing.

    Parameters
    ----------
    path : path
        A ``.jsonl`` file. Without a bound, one that is there is put aside, ``served.1.jsonl`` and
        on: a server that is started again must not erase what it recorded before. With one, it is
        gone on with. The parent folder must be there.
    logger : Logger
        Warned of what is missing from the trace.
    row_of : callable
        Returns a request's row, ``arrival_s`` on any clock, or None if it has no place in a trace.
    name_of : callable
        Returns what a warning calls a request.
    rotate_bytes : int or None, optional
        Size from which on the file becomes ``served.jsonl.1``, in place of the one before, and a
        new one is begun. Times go on from file to file, and where a server is started again, so
        that both together are one trace.

    Raises
    ------
    OSError
        The file cannot be opened, or one that is there not be put aside.
    """

    def __init__(
        self,
        path: Path,
        *,
        logger: logging.Logger,
        row_of: Callable[[R], dict[str, object] | None],
        name_of: Callable[[R], str],
        rotate_bytes: int | None = None,
    ) -> None:
        self.path = path
        self._logger, self._row_of, self._name_of = logger, row_of, name_of
        self._rotate_bytes = rotate_bytes
        self._latest_s = _put_aside(path) if rotate_bytes is None else _gone_on(path)
        self._file: TextIO | None = _opened(path, "w" if rotate_bytes is None else "a")
        self._bytes = 0 if rotate_bytes is None else self._file.tell()
        # In order of arrival, and whether it has ended.
        self._open: OrderedDict[R, bool] = OrderedDict()
        self._kept_back = 0
        self._left_out = 0
        self._first_s: float | None = None
        self._unflushed = 0
        atexit.register(self.close)

    def arrived(self, request: R) -> None:
        """Note a request when it comes."""
        if self._file is not None:
            self._open.setdefault(request, False)

    def ended(self, request: R) -> None:
        """Note its end, and write all that need not wait any more."""
        if self._open.get(request, True):
            return
        self._open[request] = True
        self._kept_back += 1
        try:
            self._write_ended()
            while self._kept_back > MOST_KEPT_BACK:
                self._leave_out()
                self._write_ended()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what has ended, whoever it was waiting for, and close the file."""
        if self._file is None:
            return
        try:
            for request, over in self._open.items():
                if over:
                    self._write(request)
            self._file.close()
        except OSError as error:
            self._give_up(error)
        else:
            self._forget()

    def _write_ended(self) -> None:
        while self._open and self._open[request := next(iter(self._open))]:
            del self._open[request]
            self._kept_back -= 1
            self._write(request)

    def _leave_out(self) -> None:
        request, _ = self._open.popitem(last=False)
        self._left_out += 1
        if self._left_out == 1:
            self._logger.warning(
                "brsolver: request %s is left out of the trace %s: %d others have ended since it "
                "came, and wait for it. Further ones are left out without a word.",
                self._name_of(request),
                self.path,
                self._kept_back,
            )

    def _give_up(self, error: OSError) -> None:
        self._logger.warning(
            "brsolver: the trace %s ends here (%s); serving goes on, nothing more is recorded",
            self.path,
            error.strerror or error,
        )
        if self._file is not None:
            # It may try to write once more.
            with contextlib.suppress(OSError):
                self._file.close()
        self._forget()

    def _forget(self) -> None:
        self._file = None
        self._open.clear()
        self._kept_back = 0
        atexit.unregister(self.close)

    def _write(self, request: R) -> None:
        row = self._row_of(request)
        if self._file is None or row is None:
            return
        text = json.dumps({**row, "arrival_s": self._since_the_first(row["arrival_s"])}) + "\n"
        if self._rotate_bytes is not None and self._bytes >= self._rotate_bytes:
            self._file = self._next_file(self._file)
        self._file.write(text)
        self._bytes += len(text)
        self._unflushed += 1
        if self._unflushed >= FLUSH_ROWS:
            self._file.flush()
            self._unflushed = 0

    def _since_the_first(self, clock: object) -> float:
        assert isinstance(clock, float)  # noqa: S101 # as `row_of` promises
        if self._first_s is None:
            self._first_s = clock - self._latest_s
        # The wall clock may be set back.
        self._latest_s = max(self._latest_s, clock - self._first_s)
        return round(self._latest_s, 6)

    def _next_file(self, full: TextIO) -> TextIO:
        full.close()
        # Whoever has taken it away meanwhile has done so already.
        if self.path.is_file():
            self.path.replace(before(self.path))
        self._bytes = self._unflushed = 0
        return _opened(self.path, "w")


def before(path: Path) -> Path:
    """Return where a file goes that has become too large."""
    return path.with_name(f"{path.name}.1")


def _put_aside(path: Path) -> float:
    """Rename what is there, the older file first; return when times begin.

    Each gets the first number before its suffix that is free.

    Raises
    ------
    OSError
        It cannot be renamed.
    """
    for there in (before(path), path):
        if _holds_something(there):
            names = (path.with_suffix(f".{number}{path.suffix}") for number in count(1))
            there.replace(next(name for name in names if not name.exists()))
    return 0.0


def _gone_on(path: Path) -> float:
    """Return where the times of what is there end; what is no trace is put aside.

    Raises
    ------
    OSError
        It cannot be read, or not be renamed.
    """
    for there in (path, before(path)):
        last_s = _last_s(there) if _holds_something(there) else None
        if last_s is not None:
            return last_s
        if _holds_something(there):
            return _put_aside(path)
    return 0.0


def _last_s(path: Path) -> float | None:
    """Return the time of a file's last whole row, None if it has none; cut off what is no row."""
    with path.open("r+b") as file:
        begin = max(0, file.seek(0, os.SEEK_END) - LAST_BYTES)
        file.seek(begin)
        tail = file.read()
        end = tail.rfind(b"\n") + 1
        if end < len(tail):
            # Whoever wrote it was killed.
            file.truncate(begin + end)
    try:
        last_s = float(json.loads(tail[:end].splitlines()[-1])["arrival_s"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return last_s if math.isfinite(last_s) else None


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _opened(path: Path, mode: str) -> TextIO:
    return cast("TextIO", path.open(mode, encoding="utf-8", buffering=1 << 16))
