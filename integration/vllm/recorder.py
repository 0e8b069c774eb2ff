"""Writes what was served as a trace in brsolver's own schema."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from integration.recording import TraceRecorder
from integration.vllm.log import logger

if TYPE_CHECKING:
    from integration.vllm.requests import Request


class Recorder(TraceRecorder["Request"]):
    """Appends requests that have ended; see `integration.recording.TraceRecorder`.

    No text and no token is written, only lengths, times, limits, the names of conversation and
    adapter, and a hash of the prompt by which equal prompts are known.

    Parameters
    ----------
    path : path
        A ``.jsonl`` file. The parent folder must be there.
    rotate_bytes : int or None, optional
        See `integration.recording.TraceRecorder`, what becomes of one that is there too.

    Raises
    ------
    OSError
        It cannot be opened, or one that is there not be put aside.
    """

    def __init__(self, path: Path, *, rotate_bytes: int | None = None) -> None:
        super().__init__(
            path, logger=logger, row_of=_row_of, name_of=_name_of, rotate_bytes=rotate_bytes
        )


def _name_of(request: Request) -> str:
    return request.name


def _row_of(request: Request) -> dict[str, object] | None:
    # A trace holds requests that generated something.
    if request.generated < 1:
        return None
    return {
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.generated,
        "arrival_s": float(request.arrival_s),
        "max_tokens": request.max_tokens,
        "session": request.session,
        "model": request.model,
        "prompt_hash": request.prompt_hash,
    }


def path_of(path: str, clients: int, index: int) -> Path:
    """Return where one of several API servers writes: each needs a file of its own."""
    whole = Path(path)
    return whole if clients == 1 else whole.with_suffix(f".{index}{whole.suffix}")


def obstacle(path: str, *, goes_on: bool = False) -> str | None:
    """Say why no trace could be written there, or None if nothing stands in the way.

    Parameters
    ----------
    path : str
    goes_on : bool, optional
        Whether what is there is gone on with.
    """
    file = Path(path)
    if not file.parent.is_dir():
        return f"record: {path} cannot be written: there is no folder {file.parent}"
    # What holds something is renamed, which is the folder's matter.
    anew = not file.exists() or (file.is_file() and file.stat().st_size > 0)
    if anew:
        writable = os.access(file.parent, os.W_OK | os.X_OK) and (
            not goes_on or not file.exists() or os.access(file, os.R_OK | os.W_OK)
        )
    else:
        writable = os.access(file, os.W_OK) and not file.is_dir()
    return None if writable else f"record: {path} cannot be written: not permitted, or a folder"
