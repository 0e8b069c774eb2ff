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

from importlib import import_module
from typing import TYPE_CHECKING

from brsolver._version import __version__
from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from brsolver.compare import Comparison, compare
    from brsolver.policy import ActiveRequests, ClusterView, Policy, Waiting
    from brsolver.predictors import Forecast, ForecastQuery, Predictor
    from brsolver.registry import make_policy, make_predictor, policy_names, predictor_names
    from brsolver.routers import BR0, BRH, BR0Params, BRHParams
    from brsolver.simulator import SimulationParams, SimulationResult, simulate
    from brsolver.state import ClusterState
    from brsolver.traces import Trace, load_trace, preset_trace, write_trace

_HOMES = {
    "brsolver.compare": ("Comparison", "compare"),
    "brsolver.policy": ("ActiveRequests", "ClusterView", "Policy", "Waiting"),
    "brsolver.predictors": ("Forecast", "ForecastQuery", "Predictor"),
    "brsolver.registry": ("make_policy", "make_predictor", "policy_names", "predictor_names"),
    "brsolver.routers": ("BR0", "BRH", "BR0Params", "BRHParams"),
    "brsolver.simulator": ("SimulationParams", "SimulationResult", "simulate"),
    "brsolver.state": ("ClusterState",),
    "brsolver.traces": ("Trace", "load_trace", "preset_trace", "write_trace"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BR0",
    "BRH",
    "ActiveRequests",
    "BR0Params",
    "BRHParams",
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
    "write_trace",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for; ``brsolver --help`` asks for none."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'brsolver' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
