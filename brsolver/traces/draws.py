"""Draws and checks that the synthetic presets share."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.traces.trace import MAX_LENGTH

Lengths: TypeAlias = NDArray[np.int64]

MAX_REQUESTS = 1_000_000_000
MAX_TOKENS = MAX_LENGTH


def poisson(rng: np.random.Generator, n: int, rate: float) -> NDArray[np.float64]:
    """Draw the `n` times of a Poisson process, in seconds, from its first event on."""
    return since_first(rng.exponential(1.0 / rate, n))


def since_first(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum gaps to times since the first event, which replaces the first gap."""
    gaps[0] = 0.0
    return np.cumsum(gaps)


def gamma(rng: np.random.Generator, n: int, mean: float, std: float) -> Lengths:
    """Draw `n` gamma-distributed lengths with the given moments, in tokens."""
    return scaled(rng.gamma((mean / std) ** 2, size=n), mean)


def scaled(values: NDArray[np.float64], mean: float) -> Lengths:
    """Scale to the mean, so that every seed meets it, in whole tokens of at least 1."""
    return tokens(values * (mean / values.mean()), MAX_TOKENS)


def tokens(values: NDArray[np.float64], longest: int) -> Lengths:
    """Round to whole tokens from 1 to `longest`."""
    return np.clip(np.rint(values), 1, longest).astype(np.int64)


def check_common(n: int, seed: int, rate: float = 1.0) -> None:
    """Refuse numbers of requests, seeds and rates (per second) out of range."""
    check_between("n", n, 1, MAX_REQUESTS)
    if seed < 0:
        raise ParameterError(f"seed is {seed}, must be at least 0")
    check_between("rate", rate, 1e-6, 1e6)


def check_tokens(name: str, value: float) -> None:
    """Refuse lengths out of range."""
    check_between(name, value, 1, MAX_TOKENS)


def check_range(low_name: str, low: int, high_name: str, high: int) -> None:
    """Refuse ranges that hold no length."""
    check_tokens(low_name, low)
    check_between(high_name, high, low + 1, MAX_TOKENS)


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Refuse values outside `low` to `high`; NaN is outside."""
    if not low <= value <= high:
        raise ParameterError(f"{name} is {value}, must be from {_plain(low)} to {_plain(high)}")


def _plain(limit: float) -> str:
    short = f"{limit:g}"
    return short if float(short) == limit else f"{limit:,}"
