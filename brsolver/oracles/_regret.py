"""Regret per decision: what each routing decision of a run missed by two objectives."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles._parts import BY_CLOCK, BY_ITSELF, Part
from brsolver.oracles._watching import SAMPLE, Plan, watched
from brsolver.oracles.backends import installed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from brsolver.campaign.cells import Plain
    from brsolver.oracles._parts import Parts
    from brsolver.oracles._watching import Watched, Weights
    from brsolver.oracles.step import Objective, StepInstance
    from brsolver.oracles.step.judge import Judgement
    from brsolver.results.result import SimulationResult
    from brsolver.simulator.held_out import HeldOut

IntArray = NDArray[np.int64]

OBJECTIVES: tuple[Objective, ...] = ("score", "imbalance")
LEAST_S, MOST_S = 0.05, 1.0
"""Least and most seconds for one decision and objective."""

WARM_S = 60.0
"""More than compiling takes; the tiny decision itself takes milliseconds."""

SHARE = 50
"""Decisions that the budget must suffice for, whatever each takes."""


@dataclass(slots=True)
class _Tally:
    """Judgements of one policy by one objective, in KV tokens."""

    policy: str
    objective: Objective
    value: list[float] = field(default_factory=list)
    regret: list[float] = field(default_factory=list)
    surely: list[float] = field(default_factory=list)
    proven: int = 0
    origins: Counter[str] = field(default_factory=Counter)
    worst_state: dict[str, Any] | None = None

    def note(self, found: Judgement, instance: StepInstance, taken: IntArray) -> None:
        # Per unit of weight, so that horizons compare: at horizon 0 it is the imbalance itself.
        unit = instance.weight_sum
        regret = found.regret / unit
        if not self.regret or regret > max(self.regret):
            self.worst_state = {**instance.to_json(), "taken": self._taken(regret, taken)}
        self.value.append(found.value / unit)
        self.regret.append(regret)
        self.surely.append(found.surely / unit)
        self.proven += found.proven
        self.origins[found.origin] += 1

    def _taken(self, regret: float, taken: IntArray) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "objective": self.objective,
            "regret": regret,
            "assignment": taken.tolist(),
        }

    def summary(self) -> dict[str, Any]:
        regret = np.array(self.regret)
        return {
            "mean": float(regret.mean()),
            "median": float(np.median(regret)),
            "p95": float(np.percentile(regret, 95)),
            "worst": float(regret.max()),
            "at_least": float(np.mean(self.surely)),
            "taken": float(np.mean(self.value)),
            "proven": self.proven,
            "origins": dict(self.origins.most_common()),
            "worst_state": self.worst_state,
        }


def judged(
    held: HeldOut, instance: StepInstance, taken: IntArray, limit_s: float
) -> tuple[Judgement, ...]:
    """Judge one decision by every objective, each within the limit."""
    from brsolver.oracles.step.judge import judge

    del held
    return tuple(judge(instance, taken, name, time_limit_s=limit_s) for name in OBJECTIVES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A run whose decisions are to be judged.

    Attributes
    ----------
    run : SimulationResult
    key : mapping of str to plain value
        What tells the run from those of other policies.
    weights : Weights
    """

    run: SimulationResult
    key: Mapping[str, Plain]
    weights: Weights

    def states(self) -> Part:
        """Return the part that gives the states it met."""
        run = self.run
        total = run.metrics.decisions
        return Part(
            kind="states",
            name=f"{run.policy}: states that it met",
            function=watched,
            arguments=(run.params, run.policy, Plan.of(run), self.weights, total),
            key=self._key(),
            figures=lambda found: {"decisions": found.decisions},
        )

    def judgement(self, found: Watched, at: int, limit_s: float) -> Part:
        """Return the part that judges one of its decisions."""
        return Part(
            kind="judgement",
            name=f"{self.run.policy}: decision {found.numbers[at]}",
            function=judged,
            arguments=(found.states[at], found.taken[at], limit_s),
            key={**self._key(), "decision": found.numbers[at], "solver": installed("highspy")},
            ready=warm_up,
            limit_s=limit_s,
            ended=lambda each, seconds: _ended(each, seconds, limit_s),
            figures=_figures,
        )

    def _key(self) -> Mapping[str, Plain]:
        w = self.weights
        beside = {"horizon": w.horizon, "gamma": w.gamma, "growth": w.growth}
        return {**self.key, **beside, "survival": w.survival}


def _ended(each: Sequence[Judgement], seconds: float, limit_s: float) -> str:
    proven = all(judgement.proven for judgement in each)
    return BY_ITSELF if proven or seconds < limit_s else BY_CLOCK


def _figures(each: Sequence[Judgement]) -> Mapping[str, Plain]:
    return {
        f"{judgement.objective} {name}": getattr(judgement, name)
        for judgement in each
        for name in ("value", "best", "bound", "origin")
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrets:
    """What was found of runs.

    Attributes
    ----------
    figures : list of dict
        Of every run, empty where none of its decisions could be judged.
    failed : dict of str to str
        Which parts failed, and why.
    by_clock : int
        Decisions that a time limit ended the judging of.
    """

    figures: list[dict[str, Any]]
    failed: dict[str, str]
    by_clock: int


def regrets(
    parts: Parts,
    followed: Sequence[Followed],
    *,
    budget_s: float,
    decisions: int | None = None,
) -> Regrets:
    """Repeat runs and say what a sample of their decisions missed.

    Regret is in KV tokens per unit of weight ``Σ_h d_h``: ``score`` is ``Σ_g F_g`` with α = 1 and
    β = G, ``imbalance`` is ``G·M'_h - Σ_g L'_{g,h}``. Where the best decision is not proven, the
    regret is the distance from the bound, so at most what is said; ``at_least`` is the mean
    distance from the best decision known. The decisions are spread evenly over each run, and as
    many are judged of each as the budget allows.

    Parameters
    ----------
    parts : Parts
    followed : sequence of Followed
    budget_s : float
        Seconds for all of them, those of all processes together.
    decisions : int, optional
        How many to judge of each run instead, whatever the budget, each within `MOST_S`.
    """
    parts.expect(len(followed))
    failed: dict[str, str] = {}
    found: dict[int, Watched] = {}
    for done in parts.results(each.states() for each in followed):
        if done.failed:
            failed[f"{followed[done.at].run.policy}: its states"] = str(done.value)
        else:
            found[done.at] = done.value
    limit_s = limit_of(budget_s, len(found)) if decisions is None else MOST_S
    asked = list(_turns({at: len(each.states) for at, each in found.items()}, decisions or SAMPLE))
    parts.expect(len(asked))
    judgements: dict[int, tuple[Judgement, ...]] = {}
    by_clock = ended = 0
    for done in parts.results(
        (followed[run].judgement(found[run], at, limit_s) for run, at in asked),
        most_s=math.inf if decisions is not None else budget_s,
        least=len(found),
    ):
        ended += 1
        if done.failed:
            failed[f"{followed[asked[done.at][0]].run.policy}: a decision"] = str(done.value)
            continue
        judgements[done.at] = done.value
        by_clock += _ended(done.value, done.seconds, limit_s) == BY_CLOCK
    parts.expect(ended - len(asked))
    tallied = _tallied(followed, found, {asked[at]: judgements[at] for at in sorted(judgements)})
    return Regrets(figures=tallied, failed=failed, by_clock=by_clock)


def limit_of(budget_s: float, runs: int) -> float:
    """Return the seconds for one decision and objective, so that a budget suffices for some."""
    return min(max(budget_s / (len(OBJECTIVES) * max(runs, 1) * SHARE), LEAST_S), MOST_S)


def _turns(sizes: Mapping[int, int], most: int) -> Iterator[tuple[int, int]]:
    """Yield runs and places in turn: whenever time is up, all have had about as many."""
    for at in range(min(max(sizes.values(), default=0), most)):
        yield from ((run, at) for run in sorted(sizes) if at < sizes[run])


def _tallied(
    followed: Sequence[Followed],
    found: Mapping[int, Watched],
    judgements: Mapping[tuple[int, int], Sequence[Judgement]],
) -> list[dict[str, Any]]:
    tallies = {
        run: [_Tally(followed[run].run.policy, name) for name in OBJECTIVES] for run in found
    }
    for (run, at), each in judgements.items():
        for tally, judgement in zip(tallies[run], each, strict=True):
            tally.note(judgement, found[run].states[at], found[run].taken[at])
    return [
        _summary(followed[run].weights, found[run], tallies[run]) if run in found else {}
        for run in range(len(followed))
    ]


def _summary(weights: Weights, found: Watched, tallies: Sequence[_Tally]) -> dict[str, Any]:
    examined = len(tallies[0].regret)
    if not examined:
        return {}
    return {
        "decisions": found.decisions,
        "examined": examined,
        "horizon": weights.horizon,
        "gamma": found.gamma,
        **{tally.objective: tally.summary() for tally in tallies},
    }


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Judge a tiny decision, so that the budget buys judgements and not compilation."""
    from brsolver.cluster.view import NO_LIMIT
    from brsolver.oracles.step import StepInstance, heuristic
    from brsolver.oracles.step.judge import judge

    tiny = StepInstance(
        projected=np.array([[40, 30], [35, 31], [37, 36]]),
        room=np.array([2, 2, 1]),
        token_room=np.full(3, NO_LIMIT),
        prompts=np.array([3, 5, 8, 13, 21, 2]),
        weights=np.array([2, 1]),
        beta=3,
        admit=5,
    )
    for objective in OBJECTIVES:
        judge(tiny, heuristic(tiny), objective, time_limit_s=WARM_S)
