"""Output files that are either complete or not there."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import OutputError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file beside `path` and rename it to `path` once the block ends.

    If the block raises, `path` is as it was and nothing is left behind.

    Parameters
    ----------
    path : str or path
        Where the file shall be. An existing file is replaced.

    Yields
    ------
    Path
        An empty file in the same folder, to be written to.

    Raises
    ------
    OutputError
        If the file cannot be written there.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise OutputError(f"{path}: is a folder, must be a file to write to")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: is not a regular file, cannot be replaced")
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.touch(exist_ok=False)
        yield part
        part.replace(target)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        _discard(part)


def _discard(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        # The folder is gone or not ours: nothing was created there either.
        return
