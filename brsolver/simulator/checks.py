"""What goes into a run, checked and made ready for kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import CapacityError, ParameterError, PolicyError
from brsolver.policy import NO_LIMIT, Decision, Policy
from brsolver.simulator import _layout as lay

if TYPE_CHECKING:
    from brsolver.simulator.params import SimulationParams, StepTime
    from brsolver.traces.model import Trace

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def check_capacity(trace: Trace, params: SimulationParams) -> None:
    """Raise `CapacityError` if a request can never be finished by any worker."""
    largest = max((NO_LIMIT if c is None else c) for c in params.capacity_each())
    needed = trace.prompt_tokens + trace.output_tokens - 1
    bad = np.flatnonzero(needed > largest)
    if bad.size:
        row = int(bad[0])
        raise CapacityError(
            f"{trace.name}: request {row} grows to {needed[row]} KV tokens "
            f"({trace.prompt_tokens[row]} prompt + {trace.output_tokens[row]} output), "
            f"more than the KV capacity {largest} of any worker"
        )


def check_events(params: SimulationParams) -> None:
    """Raise `ParameterError` if an event names a worker that never is or can be there."""
    known = params.workers
    for index in sorted(event.worker for event in params.events if event.kind == "join"):
        if index > known:
            raise ParameterError(
                f"worker {index} cannot join: the next new worker is number {known}"
            )
        known = max(known, index + 1)
    for event in params.events:
        if event.worker >= known:
            raise ParameterError(
                f"worker {event.worker} cannot fail: there are {known}, numbered from 0"
            )


def step_time_arrays(step_time: StepTime) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the step-time model as arrays for kernels."""
    kind = lay.MODEL_TABLE if step_time.model == "table" else lay.MODEL_LINEAR
    per_mean = step_time.per_mean_token if step_time.model == "max-mean" else 0.0
    model = np.array([kind, step_time.base, step_time.per_token, per_mean])
    return model, np.array(step_time.loads, np.float64), np.array(step_time.seconds, np.float64)


def as_pairs(decision: Decision, policy: Policy) -> IntArray:
    """Return a decision as an array of shape (k, 2).

    Raises
    ------
    PolicyError
        It is not made of pairs of integers.
    """
    if (
        isinstance(decision, np.ndarray)
        and decision.dtype == np.int64
        and decision.ndim == 2
        and decision.shape[1] == 2
        and decision.flags.c_contiguous
    ):
        return decision
    pairs = np.asarray(decision if len(decision) else np.empty((0, 2), np.int64))
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise PolicyError(
            f"{name_of(policy)} returned {pairs.dtype} of shape {pairs.shape}; a decision is pairs "
            "(index into waiting, worker)"
        )
    return np.ascontiguousarray(pairs, np.int64)


def name_of(policy: Policy) -> str:
    """Return what messages call a policy."""
    return f"policy {type(policy).__name__}"
