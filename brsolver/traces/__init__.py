"""Traces: formats, synthetic presets, statistics and export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._lazy import lazy

if TYPE_CHECKING:
    from brsolver.traces.export import sample_trace, write_trace
    from brsolver.traces.load import load_trace
    from brsolver.traces.presets import PRESETS, preset_trace
    from brsolver.traces.read_options import ReadOptions
    from brsolver.traces.readers import FORMATS
    from brsolver.traces.stats import TraceStats, trace_stats
    from brsolver.traces.trace import Trace

# The command line makes options of `ReadOptions` and must not wait for Arrow.
_HOMES = {
    "brsolver.traces.export": ("sample_trace", "write_trace"),
    "brsolver.traces.load": ("load_trace",),
    "brsolver.traces.presets": ("PRESETS", "preset_trace"),
    "brsolver.traces.read_options": ("ReadOptions",),
    "brsolver.traces.readers": ("FORMATS",),
    "brsolver.traces.stats": ("TraceStats", "trace_stats"),
    "brsolver.traces.trace": ("Trace",),
}

__all__ = [
    "FORMATS",
    "PRESETS",
    "ReadOptions",
    "Trace",
    "TraceStats",
    "load_trace",
    "preset_trace",
    "sample_trace",
    "trace_stats",
    "write_trace",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
