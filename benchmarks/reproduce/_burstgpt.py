"""The file of BurstGPT lengths that the public code of [BFIO] ships: fetched, and known again."""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.request import urlopen

from brsolver.errors import BrsolverError, TraceError
from brsolver.traces.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FETCH = "fetch"
"""What stands where a file's name may, for it to be fetched."""
URL = (
    "https://github.com/Echoscd/Load-Balancing-Release/raw/"
    "54539d60919911d0d2fe7eb45b854dab0d4ba0bc/burst_data_8000.json"
)
FILE = "burst_data_8000.json"
SHA256 = "f030a60ce355"
"""That its digest begins with."""
STUDIES = ("bfio-slots", "bfio-workers", "bfio-horizon")
"""Those that have a table of its lengths."""
PATIENCE_S = 20.0
MOST_BYTES = 1 << 24


class NotReachedError(BrsolverError):
    """The file cannot be fetched from here."""


def fetched(folder: Path) -> Path:
    """Return the file in a folder, where it is kept once it has been fetched.

    Raises
    ------
    NotReachedError
        It is not there, and cannot be fetched.
    TraceError
        What was fetched is another file; nothing is kept of it.
    """
    path = folder / FILE
    if path.is_file() and _is_known(path.read_bytes()):
        return path
    content = _downloaded()
    if not _is_known(content):
        raise TraceError(
            f"{URL} has SHA-256 {_digest(content)[:12]}…, must begin with {SHA256}: it is not the "
            "file that the page was made of"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(content)
    return path


def _downloaded() -> bytes:
    try:
        with urlopen(URL, timeout=PATIENCE_S) as answer:
            content: bytes = answer.read(MOST_BYTES)
    except (OSError, HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", "") or error).split())
        raise NotReachedError(
            f"{URL} cannot be fetched ({reason or type(error).__name__})"
        ) from error
    return content


def _is_known(content: bytes) -> bool:
    return _digest(content).startswith(SHA256)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def of(names: Sequence[str]) -> tuple[str, ...]:
    """Return those studies that have a table of its lengths."""
    return tuple(name for name in names if name in STUDIES)


def told(error: BrsolverError, names: Sequence[str], folder: Path) -> str:
    """Return one line: which tables are not rebuilt without the file, and how they are."""
    tables = ", ".join(f"{name}-burstgpt" for name in of(names))
    return (
        f"not rebuilt: {tables}: {error}; fetch it elsewhere, put it at {folder / FILE} or give it "
        "by --burstgpt FILE, and call this again"
    )
