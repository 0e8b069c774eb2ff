"""What goes into a run, checked and made ready for kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.view import NO_LIMIT
from brsolver.errors import CapacityError, ParameterError

if TYPE_CHECKING:
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace


def check_capacity(trace: Trace, params: SimulationParams) -> None:
    """Raise `CapacityError` if a request can never be finished by any worker."""
    largest = max((NO_LIMIT if c is None else c) for c in params.capacity_each())
    needed = trace.prompt_tokens + trace.output_tokens - 1
    bad = np.flatnonzero(needed > largest)
    if bad.size:
        row = int(bad[0])
        raise CapacityError(
            f"{trace.name}: {trace.place(row)}: the request grows to {needed[row]:,} KV tokens "
            f"({trace.prompt_tokens[row]:,} prompt + {trace.output_tokens[row]:,} output), must be "
            f"at most {largest:,}, the largest worker's capacity; --drop-oversized, or "
            "drop_above in load_trace, leaves such requests out"
        )


def check_events(params: SimulationParams) -> None:
    """Raise `ParameterError` if an event names a worker that never is or can be there."""
    known = params.workers
    for index in sorted(event.worker for event in params.events if event.kind == "join"):
        if index > known:
            raise too_far(index, known)
        known = max(known, index + 1)
    for event in params.events:
        if event.worker >= known:
            raise ParameterError(
                f"worker that fails is {event.worker}, must be at most {known - 1}: there are "
                f"{known}, numbered from 0"
            )


def too_far(worker: int, known: int) -> ParameterError:
    """Say that a worker cannot join under this number."""
    return ParameterError(
        f"worker that joins is {worker}, must be at most {known}, the next new worker's number"
    )
