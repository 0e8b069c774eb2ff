"""What a certified bound in seconds says, and for which runs it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from brsolver.errors import ParameterError
from brsolver.oracles.bounds.as_loads import ROUNDING
from brsolver.oracles.bounds.result import VALID_FOR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.oracles.bounds.as_loads import Totals

TimeKind = Literal["fcfs", "admissions", "steps", "free", "idling", "any"]

TIME_VALID_FOR: dict[str, str] = {
    **VALID_FOR,
    "steps": "runs whose every step computes exactly the same of the same requests, any assignment",
    "any": "all runs: any order, assignment and time of release, slots left empty or not",
}
"""Which runs a bound in seconds of each kind holds for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBound:
    """A certified lower bound of ``Σ_k Δ(k)``, the durations of all steps of a run, in seconds.

    In a run that always has work this is the makespan; otherwise the makespan is longer, and
    the bound holds for it all the same.

    Attributes
    ----------
    kind : {"fcfs", "admissions", "steps", "free", "idling", "any"}
        Which runs it holds for, see `valid_for`.
    seconds : float
        No such run takes less: the largest of `proofs`, rounded down.
    proofs : mapping of str to float
        Seconds that each argument proves by itself.
    total_work_s : float
        What the least steps and totals alone cost, ``C·K + (a·O + b·W + p·S)/G``: a run of that
        many steps with every rank at the mean.
    steps : int
        K: exact where admissions are fixed, else no run takes fewer.
    steps_by : str
        What K follows from.
    base_s, sequences_s, kv_s, prefill_s, experts_s : float
        Parts of `total_work_s`: steps, by load, and reading experts.
    totals : Totals
        O, W, S and X.
    workers, slots, pool, budget : int
        G, B, requests kept waiting (0 where the bound does not depend on it), and tokens of a
        rank's step (0 where prefill is done elsewhere).
    trace_fingerprint : str
        Of the trace that it is about.
    wall_s : float
        Seconds to find it.
    """

    kind: TimeKind
    seconds: float
    proofs: Mapping[str, float]
    total_work_s: float
    steps: int
    steps_by: str
    base_s: float
    sequences_s: float
    kv_s: float
    prefill_s: float
    experts_s: float
    totals: Totals
    workers: int
    slots: int
    pool: int
    budget: int
    trace_fingerprint: str
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in TIME_VALID_FOR:
            known = ", ".join(TIME_VALID_FOR)
            raise ParameterError(f"kind is {self.kind!r}, must be one of {known}")
        most = max(self.proofs.values())
        if not most * (1 - 2 * ROUNDING) <= self.seconds <= most:
            raise ParameterError(
                f"seconds is {self.seconds}, must be the largest proof, {most}, rounded down"
            )

    @property
    def valid_for(self) -> str:
        """Say which runs the bound holds for."""
        return TIME_VALID_FOR[self.kind]

    @property
    def binding(self) -> str:
        """Which of `proofs` is the largest."""
        return max(self.proofs, key=lambda name: self.proofs[name])

    @property
    def unavoidable_s(self) -> float:
        """Seconds proven beyond `total_work_s`: what no such run can balance away."""
        return self.seconds - self.total_work_s

    def at_least(self, wider: TimeBound) -> TimeBound:
        """Return this bound, no lower than one that holds for more runs."""
        if wider.seconds <= self.seconds:
            return self
        proofs = {**self.proofs, f"{wider.kind} run": wider.seconds}
        return replace(self, seconds=wider.seconds, proofs=proofs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, seconds in keys that end with ``_s``."""
        return {
            "kind": self.kind,
            "valid_for": self.valid_for,
            "lower_bound_s": self.seconds,
            "binding": self.binding,
            "proofs_s": dict(self.proofs),
            "total_work_s": self.total_work_s,
            "unavoidable_s": self.unavoidable_s,
            "steps": self.steps,
            "steps_by": self.steps_by,
            "base_s": self.base_s,
            "sequences_s": self.sequences_s,
            "kv_s": self.kv_s,
            "prefill_s": self.prefill_s,
            "experts_s": self.experts_s,
            "output_steps": self.totals.sequences,
            "kv_token_steps": self.totals.kv_tokens,
            "prefill_tokens": self.totals.prefill_tokens,
            "workers": self.workers,
            "slots": self.slots,
            "pool": self.pool,
            "budget": self.budget,
            "wall_s": self.wall_s,
        }
