"""Functions that tests have carried out as parts: of a module that processes can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brsolver.simulator.held_out import HeldOut


def counted(held: HeldOut, folder: str, number: int) -> int:
    """Say in a file that this one was begun; returns something of the trace."""
    with Path(folder, f"begun-{number}").open("a") as stream:
        stream.write("x")
    return number * len(held.trace)


def dies_once(held: HeldOut, folder: str, number: int) -> int:
    """Kill this process the first time that the second one is carried out."""
    first = not Path(folder, f"begun-{number}").exists()
    found = counted(held, folder, number)
    if first and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return found


def raises(held: HeldOut, folder: str, number: int) -> int:
    found = counted(held, folder, number)
    if number == 1 and not Path(folder, "mended").exists():
        raise ZeroDivisionError("division\nby zero")
    return found
