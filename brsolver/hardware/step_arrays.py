"""A `StepTime` as kernels take it, and one step by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.hardware import _step_kernels as sk
from brsolver.hardware.step_time import BOUND, EXPERTS, SHARED

if TYPE_CHECKING:
    from brsolver.hardware.step_time import StepTime

FloatArray = NDArray[np.float64]


def step_time_arrays(step_time: StepTime) -> tuple[sk.StepTimeRecord, FloatArray]:
    """Return the model as kernels take it: a record, and its lists of numbers one after another."""
    record: sk.StepTimeRecord = np.zeros(1, sk.STEP_TIME)
    record["table"] = step_time.model == "table"
    record["envelope_only"] = step_time.model in {"affine", "max-mean"}
    for name in ("base", *BOUND, *SHARED, *EXPERTS):
        record[name] = getattr(step_time, name)
    record["graphs"] = len(step_time.graph_sizes)
    lists = [step_time.graph_sizes]
    for name in ("sequences", "loads", "prefill_tokens"):
        record[name] = len(getattr(step_time, name))
        lists.append(getattr(step_time, name))
    figures = np.array([each for of in (*lists, step_time.seconds) for each in of], np.float64)
    return record, figures


def balanced_seconds(
    step_time: StepTime,
    sequences: float,
    kv_tokens: float,
    workers: int,
    *,
    prefill_tokens: float = 0.0,
    prefill_context: float = 0.0,
) -> float:
    """Return how long a step lasts in which each of the ranks does as much, in seconds."""
    record, figures = step_time_arrays(step_time)
    if step_time.model == "table":
        tokens = float(round(kv_tokens))
        return float(sk.measured(record, figures, sequences, tokens, prefill_tokens))
    sizes = (size for size in step_time.graph_sizes if size >= sequences)
    paid = next(sizes, sequences) if prefill_tokens == 0 else sequences
    each = step_time.per_sequence + step_time.per_mean_sequence
    lasts = step_time.base + step_time.per_token * round(kv_tokens) + each * paid
    experts: float = 1 - (1 - step_time.expert_share) ** (workers * (sequences + prefill_tokens))
    lasts = lasts + step_time.per_mean_token * kv_tokens + step_time.all_experts * experts
    token = step_time.per_prefill_token + step_time.per_mean_prefill_token
    context = step_time.per_prefill_context + step_time.per_mean_prefill_context
    return lasts + token * prefill_tokens + context * prefill_context
