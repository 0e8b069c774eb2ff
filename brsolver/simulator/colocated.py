"""What the engine needs of prefill on the decode ranks, and of moves, made ready for kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster._state_kernels import NONE
from brsolver.errors import TraceError
from brsolver.simulator import _layout as lay

if TYPE_CHECKING:
    from brsolver.simulator.migration import Migration
    from brsolver.simulator.prefill import Prefill
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]

SCHEDULERS = {"v1": lay.V1, "sglang": lay.SGLANG}
DELAYERS = {
    "none": lay.AT_ONCE,
    "sglang": lay.BY_SGLANG,
    "atom": lay.BY_ATOM,
    "trtllm": lay.BY_TRTLLM,
}
LONGEST = {"sglang": "max_delay_passes", "atom": "ttft_ticks", "trtllm": "timeout_iters"}
"""What each delayer calls the most steps that it holds prefill back."""


def empty_queues(workers: int) -> IntArray:
    """Return the own queues of workers that have nothing, shape (WORKER_QUEUE_ROWS, workers)."""
    queues: IntArray = np.zeros((lay.WORKER_QUEUE_ROWS, workers), np.int64)
    queues[[lay.Q_HEAD, lay.Q_TAIL, lay.P_HEAD, lay.P_TAIL, lay.C_OLDEST, lay.C_NEWEST]] = -1
    return queues


def schedule_by(prefill: Prefill, cursor: lay.Cursor) -> None:
    """Let the ranks' own schedulers compute prefill, if it is theirs."""
    cursor["interval"] = prefill.interval
    if prefill.colocated:
        cursor["scheduler"] = SCHEDULERS[prefill.scheduler]
        cursor["budget"] = prefill.budget
        cursor["threshold"] = prefill.threshold
        _delay_by(prefill, cursor)


def _delay_by(prefill: Prefill, cursor: lay.Cursor) -> None:
    cursor["delayer"] = DELAYERS[prefill.delayer]
    if prefill.delayer != "none":
        cursor["longest_hold"] = getattr(prefill, LONGEST[prefill.delayer])
    cursor["attempts"] = prefill.attempts if prefill.delayer == "sglang" else 0
    cursor["watermark"] = prefill.watermark
    cursor["fill_target"] = prefill.fill_target
    cursor["partial_hold"] = prefill.partial_ticks
    cursor["stall"] = prefill.stall
    cursor["batching_wait"] = prefill.batching_wait_iters
    if prefill.colocated and prefill.cache:
        cursor["cache"] = prefill.cache
        cursor["block"] = prefill.block


def move_by(migration: Migration, cursor: lay.Cursor) -> None:
    """Let running requests move between workers, if they do."""
    cursor["move_every"] = migration.every
    cursor["move_setup_s"] = migration.setup_s
    cursor["move_token_s"] = migration.token_s
    cursor["move_head"] = NONE


def cached_tokens(trace: Trace) -> IntArray:
    """Return how many tokens of each prompt are in a prefix cache, shape (n,).

    The trace's column ``cached_tokens``, zeros if it has none. The last token of a prompt is
    computed whatever is cached, since the first of the output follows from it.

    Raises
    ------
    TraceError
        The column holds something else than 0 to all tokens of the prompt.
    """
    column = trace.columns.get("cached_tokens")
    if column is None:
        return np.zeros(len(trace), np.int64)
    values = np.asarray(column)
    if values.dtype.kind not in "iu" or values.shape != (len(trace),):
        raise TraceError(
            f"{trace.name}: cached_tokens is {values.dtype} of shape {values.shape}, must be whole "
            f"numbers of tokens, one for each of the {len(trace)} requests"
        )
    bad = np.flatnonzero((values < 0) | (values > trace.prompt_tokens))
    if bad.size:
        row = int(bad[0])
        raise TraceError(
            f"{trace.name}: row {row}: cached_tokens is {values[row]}, must be from 0 to the "
            f"{trace.prompt_tokens[row]} tokens of its prompt"
        )
    return np.minimum(values.astype(np.int64), trace.prompt_tokens - 1)
