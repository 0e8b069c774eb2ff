"""The one way kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile `function` with numba on its first call and cache the machine code on disk.

    Neither fast-math nor threads are used: same inputs, same bits, on any machine.
    """
    return cast("F", numba.njit(cache=True, error_model="numpy")(function))
