"""Optimisation-backed routing for data-parallel LLM decode.

A trace replayed through a simulated cluster in five lines:

>>> from brsolver import SimulationParams, load_trace, simulate
>>> trace = load_trace("preset:uniform:n=200,s_high=500,o_high=50")
>>> params = SimulationParams(workers=4, slots=8)
>>> result = simulate(trace, "br-0", params)
>>> result.metrics.finished
200
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._lazy import lazy
from brsolver._version import __version__
from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from brsolver.cluster.state import ClusterState
    from brsolver.cluster.view import ActiveRequests, ClusterView, Waiting
    from brsolver.compare import compare
    from brsolver.policy import BasePolicy, Policy
    from brsolver.predictors import BasePredictor, Forecast, ForecastQuery, Predictor
    from brsolver.registry import make_policy, make_predictor, policy_names, predictor_names
    from brsolver.results.comparison import Comparison
    from brsolver.results.result import SimulationResult
    from brsolver.routers import BR0, BRH, BR0Params, BRHParams, BRRamp, BRRampParams
    from brsolver.simulator import SimulationParams, simulate
    from brsolver.traces import Trace, load_trace, preset_trace, write_trace
    from brsolver.tuning import TuneParams, TuneResult, tune

_HOMES = {
    "brsolver.compare": ("compare",),
    "brsolver.results.comparison": ("Comparison",),
    "brsolver.results.result": ("SimulationResult",),
    "brsolver.cluster.view": ("ActiveRequests", "ClusterView", "Waiting"),
    "brsolver.policy": ("BasePolicy", "Policy"),
    "brsolver.predictors": ("BasePredictor", "Forecast", "ForecastQuery", "Predictor"),
    "brsolver.registry": ("make_policy", "make_predictor", "policy_names", "predictor_names"),
    "brsolver.routers": ("BR0", "BRH", "BR0Params", "BRHParams", "BRRamp", "BRRampParams"),
    "brsolver.simulator": ("SimulationParams", "simulate"),
    "brsolver.cluster.state": ("ClusterState",),
    "brsolver.traces": ("Trace", "load_trace", "preset_trace", "write_trace"),
    "brsolver.tuning": ("TuneParams", "TuneResult", "tune"),
}

__all__ = [
    "BR0",
    "BRH",
    "ActiveRequests",
    "BR0Params",
    "BRHParams",
    "BRRamp",
    "BRRampParams",
    "BasePolicy",
    "BasePredictor",
    "BrsolverError",
    "ClusterState",
    "ClusterView",
    "Comparison",
    "Forecast",
    "ForecastQuery",
    "Policy",
    "Predictor",
    "SimulationParams",
    "SimulationResult",
    "Trace",
    "TuneParams",
    "TuneResult",
    "Waiting",
    "__version__",
    "compare",
    "load_trace",
    "make_policy",
    "make_predictor",
    "policy_names",
    "predictor_names",
    "preset_trace",
    "simulate",
    "tune",
    "write_trace",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
