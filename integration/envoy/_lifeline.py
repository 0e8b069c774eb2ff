"""Becomes another program that is killed when its parent ends: a script for Linux.

``python -I -S _lifeline.py PARENT PROGRAM ARGUMENT...``, where PARENT is the parent's process
number. What a child does between fork and exec would also do, but then the parent has to fork for
real, which gRPC's threads do not survive.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SIGNAL_OF_PARENT = 1
"""``PR_SET_PDEATHSIG``."""


def main(parent: int, command: list[str]) -> None:
    """Become `command`, unless the parent has gone meanwhile."""
    ctypes.CDLL(None, use_errno=True).prctl(_SIGNAL_OF_PARENT, signal.SIGKILL)
    if os.getppid() == parent:
        os.execv(command[0], command)  # noqa: S606 # no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
