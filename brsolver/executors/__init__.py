"""Where independent calls are carried out: here, in processes of this machine, or on a Ray cluster.

Grids, campaigns and tuning ask an `Executor` for a `Lane` and hand it tasks; what comes back is the
same whichever it is. One module per executor.
"""

from __future__ import annotations

from brsolver.executors._base import Executor, Function, Lane, Lost, carry_out
from brsolver.executors._params import EXECUTORS, ExecutorParams, executor_of

__all__ = [
    "EXECUTORS",
    "Executor",
    "ExecutorParams",
    "Function",
    "Lane",
    "Lost",
    "carry_out",
    "executor_of",
]
