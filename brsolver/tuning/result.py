"""What came out of tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from brsolver.tuning.study import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.simulator.components import Arrivals
    from brsolver.simulator.params import SimulationParams
    from brsolver.tuning.candidate import Candidate
    from brsolver.tuning.dimensions import Dimension
    from brsolver.tuning.goals import Gain, Goal
    from brsolver.tuning.study import Tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """A setting on the later part of the trace.

    Attributes
    ----------
    role : str
        ``published``, ``project`` or ``tuned``.
    candidate : Candidate
    figures : tuple of mapping
        Of every start, by name.
    gains : mapping of str to Gain
        By the role that it is compared with.
    """

    role: str
    candidate: Candidate
    figures: tuple[Mapping[str, float | None], ...]
    gains: Mapping[str, Gain] = field(default_factory=dict)

    def mean(self, metric: str) -> float | None:
        """Return the mean of a figure over the starts; None if any has none."""
        values = [each.get(metric) for each in self.figures]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) and known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GapLeft:
    """How much faster the later part could be served at most, whoever routes.

    Attributes
    ----------
    gap : float or None
        Seconds of the run over what no run can go below, less 1; None where no bound is known.
    seconds, lower_bound_s : float or None
    requests : int
        That it is of.
    valid_for : str
        Which runs the bound holds for.
    reason : str
        Why there is none.
    """

    gap: float | None = None
    seconds: float | None = None
    lower_bound_s: float | None = None
    requests: int = 0
    valid_for: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TuneResult:
    """What came out of tuning.

    Attributes
    ----------
    goal : Goal
    trace_name, trace_fingerprint : str
    requests : (int, int)
        Of the earlier part, that was searched on, and of the later one.
    base : SimulationParams
        The server as given, before it was tuned.
    arrivals : Arrivals
        When the requests of all trials came, said so that it means the same for any server.
    tried : tuple of Tried
        All trials.
    validated : tuple of Validated
        Published default, this project's, and the best that was found unless it is one of these;
        empty if the search was interrupted.
    recommended : str
        Role of what to run: the published default, unless another one is better for certain.
    gap : GapLeft or None
        Of what is recommended.
    importance : mapping of str to float
        Share of what mattered, by parameter; empty where too few trials ran in full.
    dimensions : tuple of Dimension
        What was searched.
    predictor : str or None
        As asked for.
    interrupted : bool
    spent_s, wall_s : float
        Seconds of search, of all calls that went on with the study; of this call as a whole.
    storage : str
        Where the study is, without password.
    notes : tuple of str
    """

    goal: Goal
    trace_name: str
    trace_fingerprint: str
    requests: tuple[int, int]
    base: SimulationParams
    arrivals: Arrivals
    tried: tuple[Tried, ...]
    validated: tuple[Validated, ...] = ()
    recommended: str = PUBLISHED
    gap: GapLeft | None = None
    importance: Mapping[str, float] = field(default_factory=dict)
    dimensions: tuple[Dimension, ...] = ()
    predictor: str | None = None
    interrupted: bool = False
    spent_s: float = 0.0
    wall_s: float = 0.0
    storage: str = ""
    notes: tuple[str, ...] = ()

    def by_role(self, role: str) -> Validated | None:
        """Return what was validated in a role."""
        return next((each for each in self.validated if each.role == role), None)

    @property
    def chosen(self) -> Validated | None:
        """What is recommended; None if nothing was validated."""
        return self.by_role(self.recommended)

    @property
    def failures(self) -> tuple[Tried, ...]:
        """Trials that failed."""
        return tuple(each for each in self.tried if each.state == "failed")

    def counts(self) -> dict[str, int]:
        """Count trials by how they ended."""
        states = [each.state for each in self.tried]
        return {state: states.count(state) for state in ("complete", "pruned", "failed")}

    def to_dict(self) -> dict[str, Any]:
        """Return what ``brsolver tune --json`` prints."""
        from brsolver.tuning.flags import engine_line
        from brsolver.tuning.wording import sentences

        chosen = self.chosen
        return {
            "goal": self.goal.name,
            "trace": self.trace_name,
            "trace_fingerprint": self.trace_fingerprint,
            "requests": {"tuning": self.requests[0], "validation": self.requests[1]},
            "recommended": None if chosen is None else chosen.role,
            "settings": None if chosen is None else chosen.candidate.settings,
            "engine": None if chosen is None else engine_line(chosen.candidate),
            "summary": list(sentences(self)),
            "validated": [_validated(each) for each in self.validated],
            "gap": None
            if self.gap is None
            else {name: getattr(self.gap, name) for name in self.gap.__slots__},
            "importance": dict(self.importance),
            "trials": [each.to_dict() for each in self.tried],
            "counts": self.counts(),
            "searched": {each.name: str(each) for each in self.dimensions},
            "interrupted": self.interrupted,
            "spent_s": self.spent_s,
            "wall_s": self.wall_s,
            "storage": self.storage,
            "notes": list(self.notes),
            "params": self.base.to_dict(),
        }


def _validated(each: Validated) -> dict[str, Any]:
    return {
        "role": each.role,
        "settings": each.candidate.settings,
        "gains": {
            role: {
                "mean": gain.mean,
                "low": gain.low,
                "high": gain.high,
                "starts": gain.starts,
            }
            for role, gain in each.gains.items()
        },
        "starts": [dict(figures) for figures in each.figures],
    }
