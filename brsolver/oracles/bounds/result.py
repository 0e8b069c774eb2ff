"""What a certified bound says, and for which runs it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError

IntArray = NDArray[np.int64]

BoundKind = Literal["fcfs", "admissions", "free", "idling"]

VALID_FOR: dict[str, str] = {
    "fcfs": "pooled runs with first-come-first-served, work-conserving admission, any assignment",
    "admissions": "runs with exactly these admission steps, any assignment",
    "free": "work-conserving runs from the same pool, any admission order and assignment",
    "idling": "all runs from the same pool, whether or not slots are left empty",
}
"""Which runs a bound of each kind holds for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSplit:
    """KV-token steps by phase of the run.

    Attributes
    ----------
    fill : int
        Until the slots are first full; of a free bound, while admission is forced.
    steady : int
        From then to the last admission.
    drain : int
        After the last admission; of a free bound, from the step on at which it relies on the
        requests that must still be running.
    """

    fill: int = 0
    steady: int = 0
    drain: int = 0

    @property
    def total(self) -> int:
        """Sum over the phases."""
        return self.fill + self.steady + self.drain


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Steps ``first:end`` whose joint bound exceeds the sum of their own by `gain`."""

    first: int
    end: int
    gain: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundResult:
    """A certified lower bound of ``Σ_k M(k)``, in KV-token steps, and of the makespan.

    Where requests weigh `request_tokens` besides the KV tokens they hold, loads and all figures
    made of them are in effective tokens: ``M(k) = max_g (L_g + κ·n_g)``.

    Attributes
    ----------
    kind : {"fcfs", "admissions", "free", "idling"}
        Which runs it holds for, see `valid_for`.
    total : int
        No such run has a smaller barrier time.
    phases : PhaseSplit
        Adds up to `total`.
    per_step : ndarray of int64, shape (K,)
        ``LB_k <= M(k)``; of a free bound only the steps whose admissions are forced.
    windows : tuple of Window
        What several steps together prove beyond `per_step`; ``total`` is the sum of both where
        admissions are fixed.
    joint : tuple of Window
        All windows of which that is proven; `windows` are the best disjoint ones.
    active : ndarray of int64, shape (K,)
        Requests active at those steps.
    start : ndarray of int64, shape (n,), or None
        Admission steps that the bound is tied to.
    fill_end, drain_start : int
        The phases are the steps ``0:fill_end``, ``fill_end:drain_start`` and ``drain_start:``;
        each phase's figure is a bound of that phase alone.
    steps : int
        Decode steps: exact where admissions are fixed, else no run takes fewer.
    total_work : int
        ``W = Σ_i Σ_j w_i(j)``; ``⌈W/G⌉`` is the bound that knows nothing of sizes.
    makespan_s : float
        No such run is shorter, under the affine step-time model; it adds `steps` times the base.
        Steps last by KV tokens: with `request_tokens` only the total of these is relied on.
    workers, slots, pool : int
        G, B and the requests kept waiting; `pool` is 0 where the bound does not depend on it.
    trace_fingerprint : str
        Of the trace that it is about.
    request_tokens : int
        KV tokens κ that a request weighs besides those it holds.
    origin : str
        Which arguments prove it.
    build_s, solve_s : float
        Seconds for the schedule, and for the bounds.
    """

    kind: BoundKind
    total: int
    phases: PhaseSplit
    per_step: IntArray
    windows: tuple[Window, ...] = ()
    joint: tuple[Window, ...] = field(default=(), repr=False)
    active: IntArray = field(repr=False)
    start: IntArray | None = field(default=None, repr=False)
    fill_end: int
    drain_start: int
    steps: int
    total_work: int
    makespan_s: float
    workers: int
    slots: int
    pool: int
    trace_fingerprint: str
    origin: str
    request_tokens: int = 0
    build_s: float = 0.0
    solve_s: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in VALID_FOR:
            raise ParameterError(f"kind is {self.kind!r}, must be one of {', '.join(VALID_FOR)}")
        if self.phases.total != self.total:
            raise ParameterError(
                f"phases add up to {self.phases.total}, must add up to total, {self.total}"
            )

    @property
    def valid_for(self) -> str:
        """Say which runs the bound holds for."""
        return VALID_FOR[self.kind]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures without the arrays."""
        return {
            "kind": self.kind,
            "valid_for": self.valid_for,
            "lower_bound": self.total,
            "phases": {
                "fill": self.phases.fill,
                "steady": self.phases.steady,
                "drain": self.phases.drain,
            },
            "steps": self.steps,
            "total_work": self.total_work,
            "makespan_s": self.makespan_s,
            "workers": self.workers,
            "slots": self.slots,
            "pool": self.pool,
            "request_tokens": self.request_tokens,
            "origin": self.origin,
            "build_s": self.build_s,
            "solve_s": self.solve_s,
        }
