"""Kernels: how long a step lasts, and which of the ranks' loads the time at the barrier went to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Rows of the ranks' loads, one column per worker: sequences that decode (GONE where there is no
# live worker), KV tokens that they read, prefill tokens computed, and the sum over these of the
# tokens before each in its prompt.
N_SEQUENCES, N_TOKENS, N_PREFILL, N_CONTEXT = range(4)
LOAD_ROWS = 4
GONE = -1

STEP_TIME = np.dtype(
    [
        ("table", np.bool_),
        ("envelope_only", np.bool_),
        ("base", np.float64),
        ("per_sequence", np.float64),
        ("per_token", np.float64),
        ("per_prefill_token", np.float64),
        ("per_prefill_context", np.float64),
        ("per_mean_sequence", np.float64),
        ("per_mean_token", np.float64),
        ("per_mean_prefill_token", np.float64),
        ("per_mean_prefill_context", np.float64),
        ("all_experts", np.float64),
        ("expert_share", np.float64),
        ("graphs", np.int64),
        ("sequences", np.int64),
        ("loads", np.int64),
        ("prefill_tokens", np.int64),
    ]
)
"""A `StepTime` as kernels take it.

Coefficients, `envelope_only` if none but those of KV tokens count; then how many numbers of each
kind stand one after the other in the array that goes with it: sizes of graphs, and a table's axes
(0 for one that was not varied), after which its durations follow.
"""
StepTimeRecord = NDArray[Any]
"""An array of one `STEP_TIME`."""


class StepParts(NamedTuple):
    """A step's duration, what of it the barrier cost by load, and if it lay outside a table.

    The parts add up to what the step lasts beyond one of every rank at the mean load; those of
    loads that the slowest rank has less of than the mean are negative.
    """

    seconds: float
    lost_sequences: float
    lost_kv: float
    lost_prefill: float
    lost_padding: float
    outside: bool


@kernel
def envelope_parts(step_time: StepTimeRecord, envelope: int, mean: float) -> StepParts:
    """Return the parts of a step of which KV tokens alone decide."""
    m = step_time[0]
    lasts = m.base + m.per_token * envelope
    if m.per_mean_token > 0.0:
        lasts += m.per_mean_token * mean
    return StepParts(lasts, 0.0, m.per_token * (envelope - mean), 0.0, 0.0, False)


@kernel
def padded(step_time: StepTimeRecord, figures: FloatArray, count: int) -> int:
    """Return a number of sequences rounded up to the next size of a CUDA graph."""
    for j in range(step_time[0].graphs):
        if figures[j] >= count:
            return int(figures[j])
    return count


@kernel
def linear_parts(step_time: StepTimeRecord, figures: FloatArray, loads: IntArray) -> StepParts:
    """Return the parts of a step by coefficients."""
    m = step_time[0]
    alive, most, all_sequences, all_tokens, all_prefill, all_context = 0, 0, 0, 0, 0, 0
    for g in range(loads.shape[1]):
        if loads[N_SEQUENCES, g] != GONE:
            alive += 1
            most = max(most, loads[N_SEQUENCES, g])
            all_sequences += loads[N_SEQUENCES, g]
            all_tokens += loads[N_TOKENS, g]
            all_prefill += loads[N_PREFILL, g]
            all_context += loads[N_CONTEXT, g]
    pads = m.graphs > 0 and all_prefill == 0
    paid = padded(step_time, figures, most) if pads else 0
    longest, slowest = -1.0, 0
    for g in range(loads.shape[1]):
        if loads[N_SEQUENCES, g] != GONE:
            lasts = (
                m.per_sequence * (paid if pads else loads[N_SEQUENCES, g])
                + m.per_token * loads[N_TOKENS, g]
                + m.per_prefill_token * loads[N_PREFILL, g]
                + m.per_prefill_context * loads[N_CONTEXT, g]
            )
            if lasts > longest:
                longest, slowest = lasts, g
    ranks = max(alive, 1)
    sequences, tokens = all_sequences / ranks, all_tokens / ranks
    prefill, context = all_prefill / ranks, all_context / ranks
    lost_padding = 0.0
    lost_sequences = m.per_sequence * (loads[N_SEQUENCES, slowest] - sequences)
    if pads:
        each = m.per_sequence + m.per_mean_sequence
        lost_sequences, lost_padding = each * (most - sequences), each * (paid - most)
    shared = (
        m.per_mean_sequence * (paid if pads else sequences)
        + m.per_mean_token * tokens
        + m.per_mean_prefill_token * prefill
        + m.per_mean_prefill_context * context
    )
    if m.all_experts > 0.0:
        shared += m.all_experts * (1.0 - (1.0 - m.expert_share) ** (all_sequences + all_prefill))
    return StepParts(
        m.base + max(longest, 0.0) + shared,
        lost_sequences,
        m.per_token * (loads[N_TOKENS, slowest] - tokens),
        m.per_prefill_token * (loads[N_PREFILL, slowest] - prefill)
        + m.per_prefill_context * (loads[N_CONTEXT, slowest] - context),
        lost_padding,
        False,
    )


@kernel
def bracket(axis: FloatArray, x: float) -> int:
    """Return which two of an axis's points to interpolate between: the later one."""
    at: int = min(max(np.searchsorted(axis, x), 1), axis.shape[0] - 1)
    return at


@kernel
def between(axis: FloatArray, at: int, x: float, below: float, above: float) -> float:
    """Interpolate between the points before and at `at`; see `StepTime.loads` for beyond."""
    if x <= axis[0]:
        return below
    value: float = below + (above - below) / (axis[at] - axis[at - 1]) * (x - axis[at - 1])
    return max(value, above) if x > axis[at] else value


@kernel
def measured(
    step_time: StepTimeRecord, figures: FloatArray, sequences: float, tokens: float, prefill: float
) -> float:
    """Return a rank's duration by the table."""
    m = step_time[0]
    first = m.graphs
    second = first + m.sequences
    third = second + m.loads
    last = third + m.prefill_tokens
    by_sequences, by_tokens, by_prefill = (
        figures[first:second], figures[second:third], figures[third:last],
    )  # fmt: skip
    i = bracket(by_sequences, sequences) if m.sequences > 0 else 0
    j = bracket(by_tokens, tokens) if m.loads > 0 else 0
    k = bracket(by_prefill, prefill) if m.prefill_tokens > 0 else 0
    rows, columns = max(m.loads, 1), max(m.prefill_tokens, 1)
    over: FloatArray = np.zeros((2, 2))
    for a in range(1 if m.sequences == 0 else 2):
        for b in range(1 if m.loads == 0 else 2):
            row = (max(i - 1, 0) + a) * rows + max(j - 1, 0) + b
            here = last + row * columns + max(k - 1, 0)
            over[a, b] = figures[here]
            if m.prefill_tokens > 0:
                over[a, b] = between(by_prefill, k, prefill, figures[here], figures[here + 1])
        if m.loads > 0:
            over[a, 0] = between(by_tokens, j, tokens, over[a, 0], over[a, 1])
    if m.sequences > 0:
        over[0, 0] = between(by_sequences, i, sequences, over[0, 0], over[1, 0])
    lasts: float = over[0, 0]
    return lasts


@kernel
def beyond(axis: FloatArray, x: float) -> bool:
    """Return whether a load lies outside an axis."""
    outside: bool = axis.shape[0] > 0 and (x < axis[0] or x > axis[-1])
    return outside


@kernel
def table_parts(step_time: StepTimeRecord, figures: FloatArray, loads: IntArray) -> StepParts:
    """Return the parts of a step by measured durations."""
    m = step_time[0]
    alive, all_sequences, all_tokens, all_prefill = 0, 0, 0, 0
    envelope, slowest, longest = -1, 0, -1.0
    alone = m.sequences == 0 and m.prefill_tokens == 0
    for g in range(loads.shape[1]):
        n, tokens, prefill = loads[N_SEQUENCES, g], loads[N_TOKENS, g], loads[N_PREFILL, g]
        if n == GONE:
            continue
        alive += 1
        all_sequences += n
        all_tokens += tokens
        all_prefill += prefill
        if alone:
            if tokens > envelope:
                envelope, slowest = tokens, g
        else:
            lasts = measured(step_time, figures, n, tokens, prefill)
            if lasts > longest:
                longest, slowest = lasts, g
    n, tokens, prefill = (
        loads[N_SEQUENCES, slowest], loads[N_TOKENS, slowest], loads[N_PREFILL, slowest],
    )  # fmt: skip
    ranks = max(alive, 1)
    mean_n, mean_tokens, mean_prefill = (
        all_sequences / ranks, all_tokens / ranks, all_prefill / ranks,
    )  # fmt: skip
    lasts = measured(step_time, figures, n, tokens, prefill)
    evenly = measured(step_time, figures, n, tokens, mean_prefill)
    level = measured(step_time, figures, n, mean_tokens, mean_prefill)
    mean = measured(step_time, figures, mean_n, mean_tokens, mean_prefill)
    first = m.graphs
    second = first + m.sequences
    third = second + m.loads
    outside = (
        beyond(figures[first:second], n)
        or beyond(figures[second:third], tokens)
        or beyond(figures[third : third + m.prefill_tokens], prefill)
    )
    return StepParts(lasts, level - mean, evenly - level, lasts - evenly, 0.0, outside)


@kernel
def step_parts(step_time: StepTimeRecord, figures: FloatArray, loads: IntArray) -> StepParts:
    """Return how long a step with these loads of the ranks lasts, and its parts.

    Parameters
    ----------
    step_time, figures : ndarray
        As of `brsolver.hardware.step_arrays.step_time_arrays`.
    loads : ndarray of int64, shape (LOAD_ROWS, G)
    """
    if step_time[0].table:
        return table_parts(step_time, figures, loads)
    return linear_parts(step_time, figures, loads)
