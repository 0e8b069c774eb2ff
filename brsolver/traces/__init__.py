"""Traces: formats, synthetic presets, statistics and export."""

from brsolver.traces.export import sample_trace, write_trace
from brsolver.traces.load import load_trace
from brsolver.traces.presets import PRESETS, preset_trace
from brsolver.traces.readers import FORMATS
from brsolver.traces.stats import TraceStats, trace_stats
from brsolver.traces.trace import Trace

__all__ = [
    "FORMATS",
    "PRESETS",
    "Trace",
    "TraceStats",
    "load_trace",
    "preset_trace",
    "sample_trace",
    "trace_stats",
    "write_trace",
]
