"""What the books do with every batch of outputs, compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._jit import kernel
from brsolver._state_kernels import NONE, R_WORKER, generate

if TYPE_CHECKING:
    from brsolver.policy import IntArray


@kernel
def generate_all(workers: IntArray, requests: IntArray, ring: IntArray, many: IntArray) -> None:
    """Let requests generate tokens: rows handle, tokens. Those that are gone are passed over."""
    for i in range(many.shape[1]):
        handle = many[0, i]
        if handle != NONE and requests[R_WORKER, handle] != NONE:
            generate(workers, requests, ring, handle, many[1, i])
