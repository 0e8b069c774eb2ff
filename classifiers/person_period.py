"""Requests at the ages at which a router asks about them: the samples of a hazard model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.predictors import IntArray
    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonPeriods:
    """Requests and ages, in order of requests and, within one, of ages.

    Attributes
    ----------
    row : ndarray of int64, shape (n,)
        Row of the request in the trace.
    age : ndarray of int64, shape (n,)
        Tokens that it has generated, fewer than it will.
    remaining : ndarray of int64, shape (n,)
        Tokens that it generates from there on; a lower bound for requests cut by their limit.
    horizon : int
        Steps H that `ends` and `known` refer to.
    known : ndarray of bool, shape (n,)
        True where the request's limit leaves it more than H tokens. Elsewhere whether it would
        have ended by itself within H steps cannot be told, or can only for those that did,
        which would over-represent them.
    """

    row: IntArray
    age: IntArray
    remaining: IntArray
    horizon: int
    known: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.row.shape[0])

    @property
    def ends(self) -> NDArray[np.bool_]:
        """Whether the request ends within the horizon, shape (n,)."""
        return self.remaining <= self.horizon

    def take(self, chosen: NDArray[np.generic]) -> PersonPeriods:
        """Return the samples that a mask or indices choose."""
        return PersonPeriods(
            row=self.row[chosen],
            age=self.age[chosen],
            remaining=self.remaining[chosen],
            horizon=self.horizon,
            known=self.known[chosen],
        )


def sample(
    trace: Trace,
    horizon: int,
    *,
    refresh_steps: int = 32,
    max_samples: int | None = None,
    random_state: int | np.random.Generator | None = None,
) -> PersonPeriods:
    """Draw the requests of a trace at the ages at which a router would ask about them.

    Each is asked about when it is admitted, at age 0, and at every refresh while it runs, at
    ages ``φ, φ + ΔT, φ + 2ΔT, …`` with a phase φ of its own, uniform in 1..ΔT.

    Parameters
    ----------
    trace : Trace
        Requests in order of arrival.
    horizon : int
        Steps H, at least 1.
    refresh_steps : int
        Decode steps ΔT between refreshes, at least 1.
    max_samples : int, optional
        Keep at most so many, drawn uniformly without replacement from all. No more than these
        are ever held in memory.
    random_state : int or numpy.random.Generator, optional
        Seed of phases and choice.

    Raises
    ------
    ParameterError
        If a parameter is below 1.
    """
    _check_at_least_one(horizon=horizon, refresh_steps=refresh_steps, max_samples=max_samples)
    rng = np.random.default_rng(random_state)
    phase = rng.integers(1, refresh_steps + 1, size=len(trace))
    # Refreshes at φ + kΔT < o, and the admission.
    counts = 1 + np.maximum(0, -(-(trace.output_tokens - phase) // refresh_steps))
    ends = np.cumsum(counts)
    chosen = _choose(int(ends[-1]), max_samples, rng)
    row = np.searchsorted(ends, chosen, side="right")
    asked = chosen - (ends[row] - counts[row])
    age = np.where(asked == 0, 0, phase[row] + (asked - 1) * refresh_steps)
    return PersonPeriods(
        row=row,
        age=age,
        remaining=trace.output_tokens[row] - age,
        horizon=horizon,
        known=_known(trace, row, age, horizon),
    )


def _check_at_least_one(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ParameterError(f"{name} is {value}, must be at least 1")


def _choose(total: int, limit: int | None, rng: np.random.Generator) -> IntArray:
    if limit is None or limit >= total:
        return np.arange(total)
    return np.sort(rng.choice(total, limit, replace=False, shuffle=False))


def _known(trace: Trace, row: IntArray, age: IntArray, horizon: int) -> NDArray[np.bool_]:
    if "max_tokens" not in trace.columns:
        return np.ones(row.shape[0], np.bool_)
    left = trace.columns["max_tokens"][row].astype(np.int64) - age
    known: NDArray[np.bool_] = left > horizon
    return known
