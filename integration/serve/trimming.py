"""Memory that is needed to start, given back once that is over."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path
from typing import NamedTuple

COMPILER = "libllvmlite"
"""File of the compiler: once all kernels are loaded, nobody reads it any more."""
_DONT_NEED = 4
"""Linux's ``MADV_DONTNEED``: what a file holds is read again if it is wanted after all."""


def freeze_objects() -> None:
    """Keep the garbage collector off what is there by now: modules and kernels, which stay.

    Looking through them holds the event loop up for a tenth of a second, again and again.
    """
    gc.collect()
    gc.freeze()


class _Mapping(NamedTuple):
    begin: int
    end: int


def forget_compiler() -> int:
    """Let go of the compiler's code, some sixty megabytes; return how many bytes that maps.

    It stays usable. Where the system knows no such thing, nothing is done.
    """
    if sys.platform != "linux":
        return 0
    done = 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for each in _code(Path("/proc/self/maps").read_text(), COMPILER):
            if madvise(each.begin, each.end - each.begin, _DONT_NEED) == 0:
                done += each.end - each.begin
    return done


def _code(maps: str, name: str) -> list[_Mapping]:
    """Return where a file's code lies: as it is in the file, which data need not be."""
    found = []
    for line in maps.splitlines():
        at, access, *rest = line.split(maxsplit=5)
        if access.startswith("r-x") and rest and name in rest[-1].rpartition("/")[2]:
            begin, end = (int(each, 16) for each in at.split("-"))
            found.append(_Mapping(begin, end))
    return found
