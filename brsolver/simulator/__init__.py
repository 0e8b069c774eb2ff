"""The simulator: barrier-synchronised data-parallel decode, step by step.

Parameters are light, and so is this package until `simulate` is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._lazy import lazy
from brsolver.hardware.step_time import StepTime
from brsolver.simulator.components import Arrivals, Staleness, WorkerEvent
from brsolver.simulator.migration import Migration
from brsolver.simulator.params import SimulationParams
from brsolver.simulator.prefill import Prefill

if TYPE_CHECKING:
    from brsolver.results.logs import LoadSamples, RequestLog, RequestStatus, StepLog
    from brsolver.results.metrics import Metrics
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.run import simulate

_HOMES = {
    "brsolver.results.logs": ("LoadSamples", "RequestLog", "RequestStatus", "StepLog"),
    "brsolver.results.metrics": ("Metrics",),
    "brsolver.results.result": ("SimulationResult",),
    "brsolver.simulator.run": ("simulate",),
}

__all__ = [
    "Arrivals",
    "LoadSamples",
    "Metrics",
    "Migration",
    "Prefill",
    "RequestLog",
    "RequestStatus",
    "SimulationParams",
    "SimulationResult",
    "Staleness",
    "StepLog",
    "StepTime",
    "WorkerEvent",
    "simulate",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
