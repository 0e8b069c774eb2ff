"""Writes what was served as a trace in brsolver's own schema."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from integration.vllm.log import logger

if TYPE_CHECKING:
    from integration.vllm.requests import Request

FLUSH_ROWS = 256
MOST_KEPT_BACK = 50_000
"""Rows of some 300 bytes each: half an hour behind one request, at 30 requests a second."""


class Recorder:
    """Appends requests that have ended, in order of arrival, as a trace must be.

    A request that runs long keeps back those that came after it. Once `MOST_KEPT_BACK` rows wait
    behind it, it is left out of the trace, and so are others of which that becomes true later:
    such a trace lacks its longest requests, which a warning says once. No text and no token is
    written, only lengths, times, limits, the names of conversation and adapter, and a hash of
    the prompt by which equal prompts are known.

    A file that cannot be written any more, on a full disk say, ends the recording with a warning
    and nothing else: from then on every method does nothing.

    Parameters
    ----------
    path : path
        A ``.jsonl`` file, overwritten. The parent folder must be there.

    Raises
    ------
    OSError
        It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = path.open("w", encoding="utf-8", buffering=1 << 16)
        # In order of arrival, and whether it has ended.
        self._open: OrderedDict[Request, bool] = OrderedDict()
        self._kept_back = 0
        self._left_out = 0
        self._first_s: float | None = None
        self._latest_s = 0.0
        self._unflushed = 0
        atexit.register(self.close)

    def arrived(self, request: Request) -> None:
        """Note a request when it comes."""
        if self._file is not None:
            self._open.setdefault(request, False)

    def ended(self, request: Request) -> None:
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
            logger.warning(
                "brsolver: request %s is left out of the trace %s: %d others have ended since it "
                "came, and wait for it. Further ones are left out without a word.",
                request.name,
                self.path,
                self._kept_back,
            )

    def _give_up(self, error: OSError) -> None:
        logger.warning(
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


def obstacle(path: str) -> str | None:
    """Say why no trace could be written there, or None if nothing stands in the way."""
    file = Path(path)
    if not file.parent.is_dir():
        return f"record: {path} cannot be written: there is no folder {file.parent}"
    if file.exists():
        writable = os.access(file, os.W_OK) and not file.is_dir()
    else:
        writable = os.access(file.parent, os.W_OK | os.X_OK)
    return None if writable else f"record: {path} cannot be written: not permitted, or a folder"
