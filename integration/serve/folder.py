"""The folder that serving keeps its files in, held for as long as it serves."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import OutputError
from integration.serve.preflight import PreflightError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.settings import ServeConfig


@contextlib.contextmanager
def held_folder(config: ServeConfig) -> Iterator[Path]:
    """Yield the folder, locked: what tidies temporary folders leaves it, others keep out of it.

    Raises
    ------
    OutputError
        It cannot be made.
    PreflightError
        Another one serves from it.
    """
    if config.envoy.folder is None:
        with tempfile.TemporaryDirectory(prefix="brsolver-") as name, _locked(Path(name)):
            yield Path(name)
        return
    folder = config.path(config.envoy.folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"[envoy] folder is {str(folder)!r}, must be one that can be written: {error.strerror}"
        ) from error
    with _locked(folder):
        yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # systemd-tmpfiles leaves a folder alone that is locked so, however old what is in it.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PreflightError(
                f"[envoy] folder is {str(folder)!r}, must be one that nothing else serves from"
            ) from error
        except OSError:
            pass  # Not every file system has locks.
        yield
    finally:
        os.close(descriptor)
