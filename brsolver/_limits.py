"""Checks of parameters: type, range, and one line that says what is wrong."""

from __future__ import annotations

import math
from numbers import Integral, Real

from brsolver.errors import ParameterError

MAX_WORKERS = 65_536
MAX_SLOTS = 1_000_000
MAX_TOTAL_SLOTS = 10_000_000
MAX_REFRESH_STEPS = 100_000
MAX_STALE_STEPS = 1_000_000
MAX_FRONT_ENDS = 1_000_000
MAX_REQUEST_TOKENS = 1_000_000
"""Far beyond what was measured (11,700), and far from where sums of loads overflow."""
MAX_ATTEMPTS = 16
"""Of a rank at prefill, whose sizes it remembers: SGLang's default."""
MAX_COUNT = 2**53
"""Beyond it floating point, in which times and averages are kept, no longer counts by one."""
MAX_SEED = 2**63 - 1
MAX_SECONDS = 1e6
MAX_TIME_S = 1e12


def require(condition: bool, message: str) -> None:
    """Raise `ParameterError` with `message` unless `condition` holds."""
    if not condition:
        raise ParameterError(message)


def require_whole(label: str, value: object, low: int, high: int, unit: str = "") -> None:
    """Raise `ParameterError` unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ParameterError(f"{label} is {value!r}, must be a whole number")
    number = int(value)
    # Python refuses to print integers of thousands of digits.
    shown = str(number) if abs(number) < 10**30 else "a number of more than 30 digits"
    require(number >= low, f"{label} is {shown}, must be at least {low}{unit}")
    require(number <= high, f"{label} is {shown}, must be at most {high:,}{unit}")


def require_number(label: str, value: object, low: float, high: float, unit: str = "") -> None:
    """Raise `ParameterError` unless `value` is a number from `low` to `high`; NaN is none."""
    number = finite(label, value)
    require(number >= low, f"{label} is {number:g}, must be at least {low:g}{unit}")
    require(number <= high, f"{label} is {number:g}, must be at most {high:g}{unit}")


def finite(label: str, value: object) -> float:
    """Return `value` as a float; raise `ParameterError` unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ParameterError(f"{label} is {value!r}, must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    require(math.isfinite(number), f"{label} is {number}, must be a finite number")
    return number


def require_one_of(label: str, value: object, *members: str) -> None:
    """Raise `ParameterError` unless `value` is one of the texts `members`."""
    named = f"{', '.join(members[:-1])} or {members[-1]}"
    require(isinstance(value, str) and value in members, f"{label} is {value!r}, must be {named}")


def require_flag(label: str, value: object) -> None:
    """Raise `ParameterError` unless `value` is true or false."""
    require(isinstance(value, bool), f"{label} is {value!r}, must be true or false")


def require_kind(label: str, value: object, kind: type) -> None:
    """Raise `ParameterError` unless `value` is an instance of `kind`."""
    require(isinstance(value, kind), f"{label} is {value!r}, must be {kind.__name__}(...)")
