"""What a step costs on which hardware: coefficients, presets, and fits to measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver._lazy import lazy
from brsolver.hardware.step_time import StepTime

if TYPE_CHECKING:
    from brsolver.hardware.evidence import Evidence
    from brsolver.hardware.fit import Fit, Limits, fit_steps
    from brsolver.hardware.from_fit import hardware_of
    from brsolver.hardware.measurements import Measurements, Origin
    from brsolver.hardware.model import Hardware, preset_names, read_hardware
    from brsolver.hardware.operators import Operators, operators_of
    from brsolver.hardware.readers import Selection, read_measurements
    from brsolver.hardware.readers.operator_tables import read_tables
    from brsolver.hardware.shape import Shape, read_shape

_HOMES = {
    "brsolver.hardware.evidence": ("Evidence",),
    "brsolver.hardware.fit": ("Fit", "Limits", "fit_steps"),
    "brsolver.hardware.from_fit": ("hardware_of",),
    "brsolver.hardware.measurements": ("Measurements", "Origin"),
    "brsolver.hardware.model": ("Hardware", "preset_names", "read_hardware"),
    "brsolver.hardware.operators": ("Operators", "operators_of"),
    "brsolver.hardware.readers": ("Selection", "read_measurements"),
    "brsolver.hardware.readers.operator_tables": ("read_tables",),
    "brsolver.hardware.shape": ("Shape", "read_shape"),
}

__all__ = [
    "Evidence",
    "Fit",
    "Hardware",
    "Limits",
    "Measurements",
    "Operators",
    "Origin",
    "Selection",
    "Shape",
    "StepTime",
    "fit_steps",
    "hardware_of",
    "operators_of",
    "preset_names",
    "read_hardware",
    "read_measurements",
    "read_shape",
    "read_tables",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
