"""When requests came to a fake engine and their tokens left it, for who measures its clients."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import OutputError

if TYPE_CHECKING:
    from integration.engines.replies import Reply


class Journal:
    """A file that takes a line of JSON for each request, once that is over.

    Times are of the machine's monotonic clock, which all its processes share: ``came_s`` when the
    request had been read, ``first_s`` and ``last_s`` right before its first and its last tokens
    were written, null where none were. What was asked for in vain has ``complete`` false.
    ``status`` is what HTTP calls the answer, null where the connection ended before there was one.
    Of a request that was refused, ``came_s`` is when, and what had not been found out is null.

    Parameters
    ----------
    path : str
        Lines are added to what the file holds.

    Raises
    ------
    OutputError
        The file cannot be written.
    """

    def __init__(self, path: str) -> None:
        try:
            # Open as long as the engine; line by line, so that a reader need not wait for its end.
            self._file = Path(path).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error

    def note(self, reply: Reply, prompt_tokens: int) -> None:
        """Write down an answer that is over."""
        self._write(
            rank=reply.rank,
            prompt_tokens=prompt_tokens,
            output_tokens=reply.tokens,
            came_s=reply.came_s,
            first_s=reply.first_s or None,
            last_s=reply.last_s or None,
            complete=reply.complete,
            status=reply.status,
        )

    def refused(self, status: int, rank: int | None) -> None:
        """Write down a request that has just been refused; `rank` is None if no rank did it."""
        self._write(
            rank=rank,
            prompt_tokens=None,
            output_tokens=0,
            came_s=time.monotonic(),
            first_s=None,
            last_s=None,
            complete=False,
            status=status,
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **row: float | bool | None) -> None:
        self._file.write(json.dumps(row) + "\n")
