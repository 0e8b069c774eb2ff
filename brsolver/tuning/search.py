"""The search: trials are asked for, carried out on prefixes of the trace, and told of."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver.errors import BrsolverError, ParameterError
from brsolver.executors import Lost
from brsolver.specs import parse_policy
from brsolver.tuning.study import PROJECT, PUBLISHED, SPENT_S, Tried, tried_in
from brsolver.tuning.work import TUNING, RunTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.study import Study
    from optuna.trial import Trial

    from brsolver.executors import Lane
    from brsolver.tuning.candidate import Candidate
    from brsolver.tuning.goals import Goal
    from brsolver.tuning.lease import Lease
    from brsolver.tuning.space import Space

    Progress = Callable[[str, float, float], None]

GIVEN_UP = 3
"""Failures, and nothing else, after which a policy is tried no more."""
_REFUSALS = 100
"""Trials in a row of policies that were given up, after which the search ends."""
FACTOR = 3
"""Of the pruner's resource, between one prefix and the next longer one."""
COMPILED_S = 2.0
"""Seconds of a task beyond its run from which on it has compiled kernels, which is not charged."""
MOST_RESERVED = 0.5
"""Part of the budget at most that is kept for the validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long the search goes on.

    Attributes
    ----------
    budget_s : float
        Seconds of search and validation, of all calls that went on with the study together.
    trials : int or None
        Trials at most, defaults included.
    validation_requests : int
        Requests that are simulated after the search.
    """

    budget_s: float
    trials: int | None
    validation_requests: int


@dataclass(slots=True, kw_only=True)
class _Flight:
    trial: Trial
    candidate: Candidate
    role: str
    rung: int = 0
    due: int = 0


class Search:
    """Trials of one study, several at a time.

    Parameters
    ----------
    study : Study
    lease : Lease
        Of the study.
    space : Space
    goal : Goal
    rungs : tuple of int
        Requests of the prefixes, ascending.
    lane : Lane
        Carries out `brsolver.tuning.work.carry`.
    limits : Limits
    progress : callable or None
        Called with a text, seconds spent and seconds there are.
    """

    def __init__(
        self,
        *,
        study: Study,
        lease: Lease,
        space: Space,
        goal: Goal,
        rungs: tuple[int, ...],
        lane: Lane,
        limits: Limits,
        progress: Progress | None = None,
    ) -> None:
        self._study, self._lease = study, lease
        self._space, self._goal = space, goal
        self._rungs, self._lane, self._limits = rungs, lane, limits
        self._progress = progress
        self._flights: dict[int, _Flight] = {}
        self._ended: dict[int, Any] = {}
        self._turn = 0
        self._before_s = float(study.user_attrs.get(SPENT_S, 0.0))
        self._began: float | None = None
        self._compiled_s = 0.0
        done = tried_in(study)
        self._trials = len(done)
        self._finished = {each.role for each in done if each.state == "complete"}
        self._fails = Counter(_name(each) for each in done if each.state == "failed")
        self._ran_once = {_name(each) for each in done if each.state != "failed"}
        self._per_request_s = next(
            (_per_request(each.figures, each.requests) for each in done if each.figures), 0.0
        )
        self.interrupted = False

    def run(self) -> None:
        """Search until the time or the trials are used up; an interruption ends it.

        Raises
        ------
        ParameterError
            The budget is too small for one trial.
        BrsolverError
            The published default cannot run, or another process has taken the study over.
        """
        try:
            self._begin_defaults()
            while self._flights:
                self._take(*self._next())
                self._fill()
        except KeyboardInterrupt:
            self.interrupted = True
            self._take_what_waits()
        finally:
            self._abandon()

    @property
    def spent_s(self) -> float:
        """Seconds of search so far, of earlier calls as well; without those that compiled."""
        here = 0.0 if self._began is None else time.monotonic() - self._began
        return self._before_s + max(0.0, here - self._compiled_s)

    @property
    def validation_s(self) -> float:
        """Seconds that the validation is expected to take."""
        runs_s = self._limits.validation_requests * self._per_request_s / self._lane.slots
        return 1.5 * runs_s

    def _begin_defaults(self) -> None:
        """Begin with the published default, alone until it is known what a trial takes."""
        if PUBLISHED not in self._finished:
            self._begin(PUBLISHED)
        else:
            self._began = time.monotonic()
            self._fill()

    def _fill(self) -> None:
        if self._per_request_s == 0:
            return
        if PROJECT not in self._finished and not self._under_way(PROJECT):
            self._begin(PROJECT)
        refused = 0
        while len(self._flights) < self._lane.slots and refused < _REFUSALS and self._may_begin():
            refused += 0 if self._begin("") else 1

    def _under_way(self, role: str) -> bool:
        return any(each.role == role for each in self._flights.values())

    def _may_begin(self) -> bool:
        trials = self._limits.trials
        if trials is not None and self._trials + len(self._flights) >= trials:
            return False
        return self._fits(self._rungs[0]) and bool(self._space.dimensions)

    def _fits(self, requests: int) -> bool:
        """Tell whether a run of so many requests is expected to end in time."""
        budget_s = self._limits.budget_s
        reserved_s = min(self.validation_s, MOST_RESERVED * budget_s)
        return self.spent_s + requests * self._per_request_s <= budget_s - reserved_s

    def _begin(self, role: str) -> bool:
        """Ask for a trial and hand in its shortest prefix; False if it is not worth it."""
        if role:
            candidate = self._space.published() if role == PUBLISHED else self._space.project()
            values = self._space.values_of(candidate)
            if values:
                self._study.enqueue_trial(values)
            trial = self._study.ask()
            if values:
                self._space.candidate(lambda dimension: dimension.suggested(trial))
        else:
            trial = self._study.ask()
            candidate = self._space.candidate(lambda dimension: dimension.suggested(trial))
        trial.set_user_attr("settings", candidate.settings)
        trial.set_user_attr("role", role)
        if not role and self._given_up(candidate.policy.name):
            self._tell_failed(trial, "")
            return False
        self._submit(_Flight(trial=trial, candidate=candidate, role=role))
        return True

    def _given_up(self, policy: str) -> bool:
        return policy not in self._ran_once and self._fails[policy] >= GIVEN_UP

    def _submit(self, flight: _Flight) -> None:
        candidate, requests = flight.candidate, self._rungs[flight.rung]
        flight.due = self._turn + requests
        task = RunTask(
            policy=candidate.policy,
            params=candidate.params,
            part=TUNING,
            first=0,
            end=requests,
        )
        self._flights[self._lane.submit(task)] = flight

    def _next(self) -> tuple[int, Any]:
        """Wait for the result whose turn it is.

        Where the number of trials ends the search, turns hang on no clock: they come as if a
        request took as long in every run, and what ends before its turn is kept. What the sampler
        knows when it is asked is then the same every time. Where time ends it, none is wasted.
        """
        if self._limits.trials is None:
            return self._lane.next()
        number = min(self._flights, key=lambda each: self._flights[each].due)
        while number not in self._ended:
            ended, result = self._lane.next()
            self._ended[ended] = result
        self._turn = self._flights[number].due
        return number, self._ended.pop(number)

    def _take_what_waits(self) -> None:
        """Take what ended before its turn: that turn comes no more, and what it says is true."""
        for number in sorted(self._ended, key=lambda each: self._flights[each].due):
            self._take(number, self._ended.pop(number))

    def _take(self, number: int, result: Any) -> None:
        self._lease.check()
        flight = self._flights.pop(number)
        if self._began is None:
            self._began = time.monotonic()
        elif not isinstance(result, Lost):
            self._compiled_s += _compiling_s(result) / self._lane.slots
        if isinstance(result, Lost):
            self._failed(flight, result.reason)
        else:
            self._ran(flight, result)
        self._study.set_user_attr(SPENT_S, self.spent_s)
        self._say()

    def _failed(self, flight: _Flight, reason: str) -> None:
        if flight.role == PUBLISHED:
            self._tell_failed(flight.trial, reason)
            raise BrsolverError(f"the published default cannot run: {reason}")
        self._trials += 1
        self._fails[flight.candidate.policy.name] += 1
        if flight.role:
            self._finished.add(flight.role)
        self._tell_failed(flight.trial, reason)

    def _tell_failed(self, trial: Trial, reason: str) -> None:
        from optuna.trial import TrialState

        if reason:
            trial.set_user_attr("failed", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def _ran(self, flight: _Flight, figures: dict[str, float | None]) -> None:
        requests, trial = self._rungs[flight.rung], flight.trial
        value = figures.get(self._goal.metric)
        if value is None:
            self._failed(flight, f"no {self._goal.label} was measured on {requests:,} requests")
            return
        if flight.role == PUBLISHED:
            self._learn(figures, requests)
        self._ran_once.add(flight.candidate.policy.name)
        trial.set_user_attr("figures", figures)
        trial.set_user_attr("requests", requests)
        trial.report(value, step=FACTOR**flight.rung)
        if flight.rung + 1 == len(self._rungs):
            self._end(flight, value)
        elif self._falls_behind(flight):
            self._end(flight, None)
        elif self.interrupted:
            self._tell_failed(flight.trial, "")
        else:
            flight.rung += 1
            self._submit(flight)

    def _falls_behind(self, flight: _Flight) -> bool:
        """Tell whether a trial is given up; the defaults never are, but others are held to them."""
        behind = flight.trial.should_prune()
        return not flight.role and (behind or not self._fits(self._rungs[flight.rung + 1]))

    def _end(self, flight: _Flight, value: float | None) -> None:
        from optuna.trial import TrialState

        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        self._study.tell(flight.trial, value, state=state)
        self._trials += 1
        if flight.role:
            self._finished.add(flight.role)

    def _learn(self, figures: dict[str, float | None], requests: int) -> None:
        """Take in what a request takes to simulate; refuse a budget that is too small."""
        first = self._per_request_s == 0
        self._per_request_s = _per_request(figures, requests)
        if not first:
            return
        trial_s = self._rungs[-1] * self._per_request_s
        least_s = 2 * trial_s + self.validation_s
        if least_s > self._limits.budget_s:
            raise ParameterError(
                f"budget is {self._limits.budget_s:g} s, must be at least {1 + least_s:.0f} s: one "
                f"trial on {self._rungs[-1]:,} requests takes {trial_s:.1f} s here, and validation "
                f"{self.validation_s:.1f} s; give more, or fewer requests (--limit N)"
            )

    def _abandon(self) -> None:
        """Tell of what is still under way that it came to nothing, unless others have."""
        for flight in self._flights.values():
            with suppress(ValueError):
                self._tell_failed(flight.trial, "")
        self._flights.clear()

    def _say(self) -> None:
        if self._progress is None:
            return
        best = best_of(tried_in(self._study), self._goal)
        told = (
            "" if best is None or best.value is None else f", best {self._goal.shown(best.value)}"
        )
        self._progress(f"{self._trials} trials{told}", self.spent_s, self._limits.budget_s)


def best_of(tried: tuple[Tried, ...], goal: Goal) -> Tried | None:
    """Return the best trial of those that ran in full; the first of equals."""
    best: Tried | None = None
    for each in tried:
        if each.state != "complete" or each.value is None:
            continue
        if best is None or best.value is None or goal.better(each.value, best.value):
            best = each
    return best


def _name(tried: Tried) -> str:
    return parse_policy(tried.policy)[0]


def _per_request(figures: Any, requests: int) -> float:
    return float(figures.get("engine_s") or 0.0) / max(requests, 1)


def _compiling_s(figures: Any) -> float:
    """Return what a task took beside its run, if that was so long that kernels were compiled."""
    beside_s = float(figures["task_s"]) - float(figures["engine_s"])
    return beside_s if beside_s >= COMPILED_S else 0.0
