"""What a simulation leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.results.logs import LoadSamples, RequestLog, StepLog
    from brsolver.results.metrics import Metrics
    from brsolver.simulator.params import SimulationParams

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SimulationResult:
    """A finished simulation.

    Attributes
    ----------
    policy : str
        Name or class of the policy.
    policy_params : mapping of str to object
        Its parameters.
    predictor : str
        Where forecasts came from; ``"none"`` if the policy uses none.
    sees_future : bool
        True if the predictor is an oracle.
    trace_name : str
        Name of the trace, surrogates labelled.
    trace_fingerprint : str
    params : SimulationParams
    metrics : Metrics
    requests : RequestLog
    steps : StepLog
    samples : LoadSamples
    dispatch_us : ndarray of float64, shape (decisions,)
        Latency of every routing call in microseconds.
    training_rows : int
        Leading requests of the trace that trained the predictor and are not part of the run.
    notes : tuple of str
        What a reader of the figures must know: surrogate trace, oracle, skipped rows, requests
        that did not finish.
    """

    policy: str
    policy_params: Mapping[str, object]
    predictor: str
    sees_future: bool
    trace_name: str
    trace_fingerprint: str
    params: SimulationParams
    metrics: Metrics
    requests: RequestLog
    steps: StepLog
    samples: LoadSamples
    dispatch_us: FloatArray
    training_rows: int = 0
    notes: tuple[str, ...] = ()
