"""Memory that is needed to start, given back once that is over."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

SPARED = "scipy.linalg"
"""What numba looks for as it begins, lest a kernel should want it: none of those in here does."""
_DONT_NEED = 4
"""Linux's ``MADV_DONTNEED``: what a file holds is read again if it is wanted after all."""


def spare_linear_algebra() -> None:
    """Let numba begin without linear algebra, some fifteen megabytes.

    A kernel that multiplies matrices loads it then. A numba that has no such module begins as it
    would by itself.
    """
    if SPARED in sys.modules:
        return
    sys.modules[SPARED] = None  # type: ignore[assignment] # how an import is refused
    try:
        with contextlib.suppress(ImportError):
            import_module("numba.np.arraymath")
    finally:
        del sys.modules[SPARED]


def freeze_objects() -> None:
    """Keep the garbage collector off what is there by now: modules and kernels, which stay.

    Looking through them holds the event loop up for a tenth of a second, again and again.
    """
    gc.collect()
    gc.freeze()


def forget_files() -> int:
    """Let go of what files hold and only the start has read; return how many bytes that maps.

    Programs for the most part: kernels' compiler alone is eighty megabytes. It stays usable: what
    is wanted is read again. Where the system knows no such thing, nothing is done.
    """
    if sys.platform != "linux":
        return 0
    done = 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for each in _unchanged(Path("/proc/self/smaps").read_text()):
            if madvise(each.begin, each.end - each.begin, _DONT_NEED) == 0:
                done += each.end - each.begin
    return done


class _Mapping(NamedTuple):
    begin: int
    end: int


def _unchanged(maps: str) -> list[_Mapping]:
    """Return where files lie as they are, and cannot be written to."""
    found: list[_Mapping] = []
    candidate: _Mapping | None = None
    for line in maps.splitlines():
        name, _, rest = line.partition(":")
        if "-" in name:
            candidate = _read_only(line)
        elif name == "Anonymous" and rest.split()[0] != "0":
            # Relocated code is no longer what the file holds.
            candidate = None
        elif candidate is not None and name == "Swap" and rest.split()[0] == "0":
            # Nor is it once it is swapped out, when it does not count as anonymous.
            found.append(candidate)
    return found


def _read_only(line: str) -> _Mapping | None:
    at, access, *rest = line.split(maxsplit=5)
    if "w" in access or len(rest) < 4 or not rest[-1].startswith("/"):
        return None
    begin, end = (int(each, 16) for each in at.split("-"))
    return _Mapping(begin, end)
