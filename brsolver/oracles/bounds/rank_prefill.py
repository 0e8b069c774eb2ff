"""What prefill on the decode ranks makes every run do, whoever routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RankPrefill:
    """Prompts are computed on the rank that decodes them, in chunks.

    The step that ends a prompt gives its request's first token, so ``o_i - 1`` decode steps
    follow; the first reads ``s_i + 1`` KV tokens.

    Attributes
    ----------
    budget : int
        Prefill tokens that a rank computes in a step at most. Sequences that decode beside them
        count too, where there are such steps; steps that only decode have as many as slots.
    chunk : int
        Longest piece of a prompt in one step, at most `budget`.
    tokens, context : ndarray of int64, shape (n,)
        Tokens to be computed of every prompt, at least 1, and the sum over these of their
        places in it, ``Σ_{t=s-c+1..s} t``: the same whatever the chunks.
    """

    budget: int
    chunk: int
    tokens: IntArray
    context: IntArray

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ParameterError(f"budget is {self.budget}, must be at least 1 token")
        if not 1 <= self.chunk <= self.budget:
            raise ParameterError(
                f"chunk is {self.chunk}, must be between 1 and the budget, {self.budget}"
            )
        if self.tokens.size and self.tokens.min() < 1:
            i = int(self.tokens.argmin())
            raise ParameterError(f"tokens[{i}] is {self.tokens[i]}, must be at least 1")

    @classmethod
    def of(
        cls,
        trace: Trace,
        budget: int,
        *,
        cached: IntArray | None = None,
        chunk: int | None = None,
    ) -> RankPrefill:
        """Return what the prompts of a trace ask for.

        Parameters
        ----------
        trace : Trace
        budget : int
        cached : ndarray of int64, shape (n,), optional
            Tokens of each prompt that need not be computed; the last one always is.
        chunk : int, optional
            The budget if not given.
        """
        prompt = trace.prompt_tokens
        held = np.zeros_like(prompt) if cached is None else np.minimum(cached, prompt - 1)
        if held.size and held.min() < 0:
            i = int(held.argmin())
            raise ParameterError(f"cached[{i}] is {held[i]}, must be at least 0")
        return cls(
            budget=budget,
            chunk=budget if chunk is None else min(chunk, budget),
            tokens=prompt - held,
            context=(prompt * (prompt + 1) - held * (held + 1)) // 2,
        )

    @property
    def chunks(self) -> IntArray:
        """Steps that every prompt takes at least, shape (n,)."""
        return -(-self.tokens // self.chunk)

    def least_steps(self, output_tokens: IntArray, workers: int, slots: int) -> dict[str, int]:
        """Return lower bounds of the number of steps K, by what each counts.

        ``slots``: a request holds a slot in every step that computes of its prompt or decodes.
        ``budget``: tokens decoded and prompts fit into K budgets, of as many as slots at least.
        ``longest``: one request's own steps. ``prefilled first``: what decodes at a step was
        prefilled before it.
        """
        decodes, own = output_tokens - 1, self.chunks + output_tokens - 1
        work = int(self.tokens.sum() + decodes.sum())
        return {
            "slots": _ceil(int(own.sum()), workers * slots),
            "budget": _ceil(work, workers * max(self.budget, slots)),
            "longest": int(own.max()),
            "prefilled first": self._ramp(decodes, workers, slots),
        }

    def _ramp(self, decodes: IntArray, workers: int, slots: int) -> int:
        """Return the least K whose steps can hold all decoding that follows its prefill.

        At step k no more sequences decode than prompts fit into k steps' budgets, shortest
        first, nor than there are slots.
        """
        left = int(decodes.sum())
        if not left:
            return 0
        places = workers * slots
        ends = np.cumsum(np.sort(self.tokens[decodes > 0]))
        filled = ends[min(places, ends.size) - 1]
        ramp = np.arange(_ceil(int(filled), workers * self.budget) + 1)
        done = np.searchsorted(ends, ramp * workers * self.budget, side="right")
        held = np.cumsum(np.minimum(done, places))
        if held[-1] >= left:
            return int(np.searchsorted(held, left)) + 1
        most = min(places, ends.size)
        return int(ramp.size) + _ceil(left - int(held[-1]), most)


def _ceil(amount: int, by: int) -> int:
    return -(-amount // by)
