"""Results as strict JSON has them."""

from __future__ import annotations

import math
from typing import Any


def finite_only(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: finite_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_only(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
