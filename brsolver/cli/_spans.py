"""Times on the command line."""

from __future__ import annotations

import math
import re

_SPAN = re.compile(r"(?P<count>\d+(\.\d*)?|\.\d+)(?P<unit>ms|s|m|h|)")
_MAX_SPAN_S = 1e9
_UNITS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_span(text: str, name: str = "budget") -> float:
    """Read a time like ``90``, ``90s``, ``5m``, ``1.5h`` or ``500ms``; return seconds."""
    from brsolver.errors import ParameterError

    match = _SPAN.fullmatch(text.strip())
    seconds = float(match["count"]) * _UNITS[match["unit"]] if match else 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ParameterError(f"{name} is {text!r}, must be a positive time such as 30s, 5m or 1h")
    if seconds > _MAX_SPAN_S:
        raise ParameterError(f"{name} is {text!r}, must be at most {_MAX_SPAN_S:g} s")
    return seconds
