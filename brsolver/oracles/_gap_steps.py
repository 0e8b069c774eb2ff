"""The judging of single decisions, as parts of a gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.oracles._gap_runs import failure_of
from brsolver.oracles._regret import Followed, regrets
from brsolver.oracles._watching import Weights

if TYPE_CHECKING:
    from brsolver.oracles._gap_runs import CarriedOut
    from brsolver.oracles._parts import Parts
    from brsolver.results.comparison import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What judging runs gave.

    Attributes
    ----------
    regrets : list of dict
        Of every run.
    failures : tuple of Failure
    notes : tuple of str
    """

    regrets: list[dict[str, Any]]
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


def judged_steps(
    parts: Parts, done: CarriedOut, budget_s: float, horizon: int | None, decisions: int | None
) -> Judged:
    """Judge decisions of every run.

    Parameters
    ----------
    parts : Parts
    done : CarriedOut
    budget_s, horizon, decisions
        As of `brsolver.oracles.gap.gap`.
    """
    followed = [
        Followed(run=run, key=key, weights=Weights.of(run, horizon))
        for run, key in zip(done.runs, done.keys, strict=True)
    ]
    found = regrets(parts, followed, budget_s=budget_s, decisions=decisions)
    notes = [f"{what} failed and is left out: {reason}" for what, reason in found.failed.items()]
    if found.by_clock:
        notes.append(
            f"the judging of {found.by_clock:,} decisions was ended by the clock: another call may "
            "bound these more tightly, or less"
        )
    return Judged(
        regrets=found.figures,
        failures=tuple(failure_of(parts.params, *each) for each in found.failed.items()),
        notes=tuple(notes),
    )
