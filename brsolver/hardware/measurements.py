"""Measured steps: what each rank had to do, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

LOADS = ("sequences", "kv_tokens", "prefill_tokens", "prefill_context")
"""Loads of a rank in a step, in the order of `Measurements.loads`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What was measured, in words; empty where a file does not say.

    Attributes
    ----------
    file : str
    model, system, engine, parallel : str
        Of the server: ``MiniMaxAI/MiniMax-M2.7``, ``h200_sxm``, ``vllm 0.25.1``, ``dep``.
    dp, tp : int
        Degrees of data and tensor parallelism; 0 if unknown.
    notes : tuple of str
        What a reader left out or assumed.
    """

    file: str = ""
    model: str = ""
    system: str = ""
    engine: str = ""
    parallel: str = ""
    dp: int = 0
    tp: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Measurements:
    """Steps and what each rank had to do in them.

    Attributes
    ----------
    sequences, kv_tokens, prefill_tokens, prefill_context : ndarray of float64, shape (K, G)
        Per step and rank: sequences that decode, KV tokens these read, prefill tokens computed,
        and the sum over these of the tokens before each in its prompt. G is 1 where all ranks
        did the same.
    seconds : ndarray of float64, shape (K,)
        Duration of each step.
    origin : Origin
    """

    sequences: FloatArray
    kv_tokens: FloatArray
    prefill_tokens: FloatArray
    prefill_context: FloatArray
    seconds: FloatArray
    origin: Origin

    def __len__(self) -> int:
        return int(self.seconds.size)

    @property
    def loads(self) -> FloatArray:
        """All loads, shape (4, K, G), in the order of `LOADS`."""
        return np.stack([getattr(self, name) for name in LOADS])

    @property
    def ranks(self) -> int:
        """Ranks that are told apart; 1 where all did the same."""
        return int(self.sequences.shape[1])

    @property
    def everybody(self) -> FloatArray:
        """Tokens that all ranks together compute, shape (K,)."""
        mine = (self.sequences + self.prefill_tokens).sum(axis=1)
        return np.asarray(mine * (max(self.origin.dp, 1) if self.ranks == 1 else 1))

    def where(self, kept: NDArray[np.bool_]) -> Measurements:
        """Return the steps of a mask, shape (K,)."""
        arrays = {
            each.name: getattr(self, each.name)[kept]
            for each in fields(self)
            if each.name != "origin"
        }
        return Measurements(**arrays, origin=self.origin)
