"""How long a step lasts, in plain Python: what the kernels are held to."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from brsolver.hardware._step_kernels import StepParts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brsolver.hardware.step_time import StepTime


def step_parts(
    model: StepTime,
    sequences: Sequence[int],
    kv_tokens: Sequence[int],
    prefill_tokens: Sequence[int] | None = None,
    prefill_context: Sequence[int] | None = None,
) -> StepParts:
    """Return how long a step lasts, and what the barrier cost of it by load.

    Parameters
    ----------
    model : StepTime
    sequences, kv_tokens, prefill_tokens, prefill_context : sequence of int, length G
        Of every live rank; None is no prefill.

    Returns
    -------
    StepParts
        In seconds.
    """
    nothing = [0] * len(sequences)
    ranks = [sequences, kv_tokens, prefill_tokens or nothing, prefill_context or nothing]
    loads = [tuple(row) for row in zip(*ranks, strict=True)]
    means = [sum(row) / len(loads) for row in ranks]
    if model.model == "table":
        return _by_table(model, loads, means)
    return _by_coefficients(model, loads, means)


def _by_coefficients(
    model: StepTime, loads: list[tuple[int, ...]], means: list[float]
) -> StepParts:
    bound = _bound(model)
    most = max(n for n, *_ in loads)
    pads = bool(model.graph_sizes) and means[2] == 0
    paid = next((size for size in model.graph_sizes if size >= most), most)
    counted = [(paid, *rest) if pads else (n, *rest) for n, *rest in loads]
    times = [_weighted(bound, each) for each in counted]
    slowest = times.index(max(times))
    over = [x - mean for x, mean in zip(loads[slowest], means, strict=True)]
    shared = _weighted(_shared(model), [paid, *means[1:]] if pads else means)
    everything = sum(n + prefill for n, _, prefill, _ in loads)
    shared += model.all_experts * (1 - (1 - model.expert_share) ** everything)
    lost, padding = bound[0] * over[0], 0.0
    if pads:
        each = model.per_sequence + model.per_mean_sequence
        lost, padding = each * (most - means[0]), each * (paid - most)
    return StepParts(
        seconds=model.base + times[slowest] + shared,
        lost_sequences=lost,
        lost_kv=bound[1] * over[1],
        lost_prefill=bound[2] * over[2] + bound[3] * over[3],
        lost_padding=padding,
        outside=False,
    )


def _bound(model: StepTime) -> list[float]:
    return [
        model.per_sequence, model.per_token, model.per_prefill_token, model.per_prefill_context,
    ]  # fmt: skip


def _shared(model: StepTime) -> list[float]:
    return [
        model.per_mean_sequence, model.per_mean_token,
        model.per_mean_prefill_token, model.per_mean_prefill_context,
    ]  # fmt: skip


def _weighted(weights: Sequence[float], loads: Sequence[float]) -> float:
    total = 0.0
    for weight, load in zip(weights, loads, strict=True):
        # One by one: `sum` makes up for rounding in newer Pythons, kernels do not.
        total += weight * load
    return total


def _by_table(model: StepTime, loads: list[tuple[int, ...]], means: list[float]) -> StepParts:
    if model.sequences or model.prefill_tokens:
        times = [measured(model, n, tokens, prefill) for n, tokens, prefill, _ in loads]
        slowest = times.index(max(times))
    else:
        tokens = [row[1] for row in loads]
        slowest = tokens.index(max(tokens))
    n, kv, prefill, _ = loads[slowest]
    lasts = measured(model, n, kv, prefill)
    evenly = measured(model, n, kv, means[2])
    level = measured(model, n, means[1], means[2])
    mean = measured(model, means[0], means[1], means[2])
    axes = ((model.sequences, n), (model.loads, kv), (model.prefill_tokens, prefill))
    outside = any(axis and not axis[0] <= x <= axis[-1] for axis, x in axes)
    return StepParts(lasts, level - mean, evenly - level, lasts - evenly, 0.0, outside)


def measured(model: StepTime, sequences: float, kv_tokens: float, prefill: float) -> float:
    """Return a rank's duration by the table, in seconds."""
    rows, columns = max(len(model.loads), 1), max(len(model.prefill_tokens), 1)

    def over_prefill(i: int, j: int) -> float:
        start = (i * rows + j) * columns
        return _along(model.prefill_tokens, prefill, lambda k: model.seconds[start + k])

    def over_tokens(i: int) -> float:
        return _along(model.loads, kv_tokens, lambda j: over_prefill(i, j))

    return _along(model.sequences, sequences, over_tokens)


def _along(axis: Sequence[float], x: float, value: Callable[[int], float]) -> float:
    if not axis or x <= axis[0]:
        return value(0)
    at = min(max(bisect_left(axis, x), 1), len(axis) - 1)
    below, above = value(at - 1), value(at)
    found = below + (above - below) / (axis[at] - axis[at - 1]) * (x - axis[at - 1])
    return max(found, above) if x > axis[at] else found
