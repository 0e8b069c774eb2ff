"""Writes what was served as a trace in brsolver's own schema."""

from __future__ import annotations

import atexit
import json
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from integration.vllm.requests import Request

FLUSH_ROWS = 256


class Recorder:
    """Appends requests that have ended, in order of arrival, as a trace must be.

    A request that runs long keeps back those that came after it. No text and no token is
    written, only lengths, times, limits, the names of conversation and adapter, and a hash of
    the prompt by which equal prompts are known.

    Parameters
    ----------
    path : path
        A ``.jsonl`` file, overwritten. The parent folder must be there.

    Raises
    ------
    OSError
        It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = path.open("w", encoding="utf-8", buffering=1 << 16)
        self._open: deque[Request] = deque()
        self._ended: set[Request] = set()
        self._first_s: float | None = None
        self._latest_s = 0.0
        self._unflushed = 0
        atexit.register(self.close)

    def arrived(self, request: Request) -> None:
        """Note a request when it comes."""
        self._open.append(request)

    def ended(self, request: Request) -> None:
        """Note its end, and write all that need not wait any more."""
        self._ended.add(request)
        while self._open and self._open[0] in self._ended:
            done = self._open.popleft()
            self._ended.discard(done)
            self._write(done)

    def close(self) -> None:
        """Write what has ended, whoever it was waiting for, and close the file."""
        if self._file is None:
            return
        for request in self._open:
            if request in self._ended:
                self._write(request)
        self._file.close()
        self._file = None
        self._open.clear()
        atexit.unregister(self.close)

    def _write(self, request: Request) -> None:
        # A trace holds requests that generated something.
        if self._file is None or request.generated < 1:
            return
        if self._first_s is None:
            self._first_s = request.arrival_s
        # The wall clock may be set back.
        self._latest_s = max(self._latest_s, request.arrival_s - self._first_s)
        row: dict[str, object] = {
            "prompt_tokens": request.prompt_tokens,
            "output_tokens": request.generated,
            "arrival_s": round(self._latest_s, 6),
            "max_tokens": request.max_tokens,
            "session": request.session,
            "model": request.model,
            "prompt_hash": request.prompt_hash,
        }
        self._file.write(json.dumps(row) + "\n")
        self._unflushed += 1
        if self._unflushed >= FLUSH_ROWS:
            self._file.flush()
            self._unflushed = 0


def path_of(path: str, clients: int, index: int) -> Path:
    """Return where one of several API servers writes: each needs a file of its own."""
    whole = Path(path)
    return whole if clients == 1 else whole.with_suffix(f".{index}{whole.suffix}")
