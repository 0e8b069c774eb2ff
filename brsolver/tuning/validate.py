"""The later part of the trace: what the search found, beside both defaults, on the same starts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError
from brsolver.executors import Lost
from brsolver.tuning.goals import Gain
from brsolver.tuning.result import GapLeft, Validated
from brsolver.tuning.study import PROJECT, PUBLISHED, TUNED
from brsolver.tuning.work import VALIDATION, GapTask, RunTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from brsolver.executors import Lane
    from brsolver.tuning.candidate import Candidate
    from brsolver.tuning.goals import Goal

ORDER = (PUBLISHED, PROJECT, TUNED)
"""Simplest first: a later one is recommended only if it beats the one before."""


def validate(
    lane: Lane,
    candidates: Mapping[str, Candidate],
    blocks: Sequence[tuple[int, int]],
    goal: Goal,
    tell: Callable[[int, int], None],
) -> tuple[tuple[Validated, ...], tuple[str, ...]]:
    """Run every candidate on every start.

    Parameters
    ----------
    lane : Lane
    candidates : mapping of str to Candidate
        By role.
    blocks : sequence of (int, int)
        Rows of each start.
    goal : Goal
    tell : callable
        Called with (runs done, runs).

    Returns
    -------
    validated : tuple of Validated
        In the order of `ORDER`, with gains over those before.
    failures : tuple of str
        What was left out, and why.

    Raises
    ------
    BrsolverError
        The published default cannot run there.
    """
    places: dict[int, tuple[str, int]] = {}
    for role, candidate in candidates.items():
        for at, (first, end) in enumerate(blocks):
            task = RunTask(
                policy=candidate.policy, params=candidate.params, part=VALIDATION,
                first=first, end=end,
            )  # fmt: skip
            places[lane.submit(task)] = (role, at)
    figures: dict[str, dict[int, Any]] = {role: {} for role in candidates}
    for done in range(len(places)):
        number, result = lane.next()
        role, at = places[number]
        figures[role][at] = result
        tell(done + 1, len(places))
    return _told_apart(candidates, figures, goal)


def _told_apart(
    candidates: Mapping[str, Candidate], figures: Mapping[str, Mapping[int, Any]], goal: Goal
) -> tuple[tuple[Validated, ...], tuple[str, ...]]:
    validated: list[Validated] = []
    failures: list[str] = []
    for role in (role for role in ORDER if role in candidates):
        found = [figures[role][at] for at in sorted(figures[role])]
        if reason := _wrong(found, goal):
            if role == PUBLISHED:
                raise BrsolverError(f"the published default cannot run on the later part: {reason}")
            failures.append(f"validation of {candidates[role]} failed: {reason}")
            continue
        each = Validated(role=role, candidate=candidates[role], figures=tuple(found))
        gains = {other.role: _gain(goal, each, other) for other in validated}
        validated.append(replace(each, gains=gains))
    return tuple(validated), tuple(failures)


def _wrong(found: Sequence[Any], goal: Goal) -> str:
    lost = next((each for each in found if isinstance(each, Lost)), None)
    if lost is not None:
        return lost.reason
    if any(each.get(goal.metric) is None for each in found):
        return f"no {goal.label} was measured on one of the starts"
    return ""


def _gain(goal: Goal, each: Validated, other: Validated) -> Gain:
    return Gain.between(goal, _values(each, goal), _values(other, goal))


def _values(each: Validated, goal: Goal) -> list[float]:
    # `_wrong` has left out what has none.
    return [float(figures[goal.metric] or 0.0) for figures in each.figures]


def recommended(validated: Sequence[Validated], goal: Goal) -> str:
    """Return the role of what to run: the simplest that none beats for certain."""
    chosen = validated[0]
    for each in validated[1:]:
        gain = each.gains[chosen.role]
        from_nothing = sum(_values(chosen, goal)) <= 0 < min(_values(each, goal))
        if gain.sure or (goal.maximise and from_nothing):
            chosen = each
    return chosen.role


def gap_left(
    lane: Lane, candidate: Candidate, blocks: Sequence[tuple[int, int]], budget_s: float
) -> GapLeft:
    """Return what a certified bound leaves to any router, on the whole of the later part."""
    lane.submit(
        GapTask(
            policy=candidate.policy,
            params=candidate.params,
            first=0,
            end=blocks[-1][1],
            budget_s=budget_s,
        )
    )
    _, found = lane.next()
    if isinstance(found, Lost):
        return GapLeft(reason=found.reason.removeprefix(f"{candidate.policy.text}: "))
    if not found["certified"]:
        return GapLeft(reason="the bound does not hold for this run", requests=found["requests"])
    return GapLeft(
        gap=found["gap"],
        seconds=found["seconds"],
        lower_bound_s=found["lower_bound_s"],
        requests=found["requests"],
        valid_for=found["valid_for"],
    )
