"""Whether measured steps can tell what each load costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from brsolver.hardware.measurements import FloatArray, Measurements

FEWEST = 6
"""Steps: twice as many as there are coefficients."""
TOGETHER = 0.999
"""Squared correlation from which two loads rise together."""
LEAST_SPREAD = 1.25
"""Of the largest over the smallest value of a load that varies."""
ALL_READ = 0.9
"""Share of experts that are read in the smallest step, from which what they cost is not told."""
UNEQUAL = 0.05
"""By how much the fullest rank must exceed the mean, on average, for shares to be told."""


def require_identified(
    measured: Measurements, decode: Measurements, sequences: tuple[float, float] | None
) -> None:
    """Refuse steps that cannot tell what sequences and KV tokens cost.

    Parameters
    ----------
    measured, decode : Measurements
        All steps, and those that only decode within the range asked for.
    sequences : tuple of float or None
        That range.

    Raises
    ------
    ParameterError
        Says which load does not vary, and what to measure.
    """
    file = measured.origin.file
    if not len(decode):
        raise ParameterError(f"{file}: {_nothing(measured, sequences)}")
    count, tokens = decode.sequences.max(axis=1), decode.kv_tokens.max(axis=1)
    _require_varied(file, "sequences", count, "batch sizes, e.g. 64 and 256")
    _require_varied(file, "kv_tokens", tokens, "context lengths")
    if len(decode) < FEWEST:
        raise ParameterError(
            f"{file}: decode steps are {len(decode)}, must be at least {FEWEST} to fit three "
            "coefficients"
        )
    if _together(count, tokens):
        raise ParameterError(
            f"{file}: kv_tokens is about {float(np.median(tokens / count)):,.0f} per sequence in "
            "every decode step, must vary by itself: measure at least two context lengths at one "
            "batch size"
        )


def require_experts_vary(decode: Measurements, share: float) -> None:
    """Refuse to fit what reading experts costs where every step reads nearly all of them."""
    fewest = float(decode.everybody.min())
    if share and 1 - (1 - share) ** fewest > ALL_READ:
        raise ParameterError(
            f"{decode.origin.file}: experts is {share:g}, must be 0 where every step reads nearly "
            f"all of them: all ranks compute at least {fewest:,.0f} tokens; measure smaller batches"
        )


def _nothing(measured: Measurements, sequences: tuple[float, float] | None) -> str:
    decodes = measured.sequences[measured.prefill_tokens.sum(axis=1) == 0]
    if not decodes.size or decodes.max() == 0:
        return "decode steps are 0, must be some: measure steps without prefill"
    low, high = sequences or (1, np.inf)
    return (
        f"sequences {low:g}:{high:g} holds no decode step, must overlap what was measured, "
        f"{decodes.min():g}:{decodes.max():g}"
    )


def _require_varied(file: str, name: str, values: FloatArray, what: str) -> None:
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise ParameterError(
            f"{file}: {name} is {low:,.0f} in every decode step, must vary: measure at least two "
            f"{what}"
        )
    if high < LEAST_SPREAD * low:
        raise ParameterError(
            f"{file}: {name} is {low:,.0f} to {high:,.0f} in all decode steps, must vary more: "
            f"measure at least two {what}"
        )


def _together(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.corrcoef(a, b)[0, 1] ** 2 > TOGETHER)


def context_varies(prefill: Measurements) -> bool:
    """Return whether steps with prefill tell a token's cost from that of what stands before it."""
    tokens, context = (
        each.sum(axis=1) for each in (prefill.prefill_tokens, prefill.prefill_context)
    )
    if context.min() == context.max() or len(prefill) < FEWEST:
        return False
    # With all tokens equal any context tells; with context in proportion to tokens none does.
    return bool(tokens.min() == tokens.max()) or not _together(tokens, context)


def shares_told_apart(prefill: Measurements) -> bool:
    """Return whether ranks' prefill differs enough to tell what all of them bear."""
    tokens = prefill.prefill_tokens
    if tokens.shape[1] == 1:
        return False
    return bool((1 - tokens.mean(axis=1) / tokens.max(axis=1)).mean() > UNEQUAL)
