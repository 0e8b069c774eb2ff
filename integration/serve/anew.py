"""The compiler put out of memory: a process that had to compile begins anew with what was kept."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from numba.core.event import install_recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DONE = "BRSOLVER_BEGAN_ANEW"
"""Set in a process that has begun anew, lest it do so for ever where nothing can be kept."""


@contextmanager
def compiling() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether a kernel was compiled in here, not read from where it is kept."""
    with install_recorder("numba:compile") as recorder:
        yield lambda: bool(recorder.buffer)


def begin_anew(prepare: Callable[[], object]) -> None:
    """Replace this process by one of the same command, once: it finds all kernels compiled.

    The compiler leaves two hundred megabytes behind that no process gives back. The identity of the
    process, and what it was given to read and to write, stay as they are.

    Parameters
    ----------
    prepare : callable
        Called right before, to make that true; not called where nothing is replaced.
    """
    if _DONE in os.environ:
        return
    os.environ[_DONE] = "1"
    prepare()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 # this very command
