"""The simulator: barrier-synchronised data-parallel decode, step by step."""

from brsolver.simulator.params import (
    Arrivals,
    Prefill,
    SimulationParams,
    Staleness,
    StepTime,
    WorkerEvent,
)
from brsolver.simulator.result import (
    LoadSamples,
    Metrics,
    RequestLog,
    RequestStatus,
    SimulationResult,
    StepLog,
)
from brsolver.simulator.run import simulate

__all__ = [
    "Arrivals",
    "LoadSamples",
    "Metrics",
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
