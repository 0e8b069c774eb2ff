"""A search for the router and the settings of a server, on its own traffic.

`tune` is the whole of it; `write_tuned` writes what came out as the file that simulations, the vLLM
adapter and the picker load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._lazy import lazy

if TYPE_CHECKING:
    from brsolver.tuning.candidate import Candidate
    from brsolver.tuning.entry import TuneParams, tune
    from brsolver.tuning.flags import engine_line, start_line
    from brsolver.tuning.goals import GOALS, Gain, Goal
    from brsolver.tuning.layouts import Layout
    from brsolver.tuning.result import GapLeft, TuneResult, Validated
    from brsolver.tuning.study import Tried
    from brsolver.tuning.wording import failures_told, sentences
    from brsolver.tuning.write import tuned_text, write_tuned

_HOMES = {
    "brsolver.tuning.candidate": ("Candidate",),
    "brsolver.tuning.entry": ("TuneParams", "tune"),
    "brsolver.tuning.flags": ("engine_line", "start_line"),
    "brsolver.tuning.goals": ("GOALS", "Gain", "Goal"),
    "brsolver.tuning.layouts": ("Layout",),
    "brsolver.tuning.result": ("GapLeft", "TuneResult", "Validated"),
    "brsolver.tuning.wording": ("failures_told", "sentences"),
    "brsolver.tuning.study": ("Tried",),
    "brsolver.tuning.write": ("tuned_text", "write_tuned"),
}

__all__ = [
    "GOALS",
    "Candidate",
    "Gain",
    "GapLeft",
    "Goal",
    "Layout",
    "Tried",
    "TuneParams",
    "TuneResult",
    "Validated",
    "engine_line",
    "failures_told",
    "sentences",
    "start_line",
    "tune",
    "tuned_text",
    "write_tuned",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
