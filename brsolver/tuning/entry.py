"""`tune`: search, validation and gap, in one call."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from brsolver._limits import require, require_number, require_whole
from brsolver.executors import executor_of
from brsolver.traces.prints import print_of
from brsolver.tuning.goals import goal_of
from brsolver.tuning.importance import importance_of
from brsolver.tuning.layouts import read_layouts
from brsolver.tuning.result import TuneResult
from brsolver.tuning.search import Limits, Search, best_of
from brsolver.tuning.space import DEFAULT_POLICIES, Space
from brsolver.tuning.split import for_any, settled, split
from brsolver.tuning.study import (
    PROJECT,
    PUBLISHED,
    TUNED,
    facts_of,
    open_study,
    optuna_module,
    quiet,
    shown_url,
    storage_errors,
    tried_in,
)
from brsolver.tuning.validate import gap_left, recommended, validate
from brsolver.tuning.work import PREDICTOR, TUNING, VALIDATION, carry
from brsolver.wiring import code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from optuna.study import Study

    from brsolver.executors import Executor, Lane
    from brsolver.options import Search as Range
    from brsolver.registry import PolicySpec, PredictorSpec
    from brsolver.simulator.components import Arrivals
    from brsolver.simulator.params import SimulationParams
    from brsolver.traces.trace import Trace
    from brsolver.tuning.candidate import Candidate
    from brsolver.tuning.goals import Goal
    from brsolver.tuning.layouts import Layout
    from brsolver.tuning.lease import Lease
    from brsolver.tuning.search import Progress
    from brsolver.tuning.split import Split

GAP_SHARE = 0.1
"""Part of the budget that the bound of the gap may take."""
_MOST_STARTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneParams:
    """How a server is tuned.

    Attributes
    ----------
    goal : {"throughput", "goodput", "latency"}
        ``throughput`` is output tokens per second, ``goodput`` requests per second that meet the
        objectives of the run, ``latency`` the mean time from a request's arrival to its last token.
    budget_s : float
        Seconds for search and validation, of all calls that go on with the study together.
        Processes that start, kernels that are compiled the first time, the gap's simulation and
        pictures come on top.
    trials : int or None
        Trials at most, both defaults included; None is as many as there is time for.
    validate_from : float
        Share of the requests, by arrival, from which on they validate.
    starts : int
        Pieces of that later part, each of which is a start of its own.
    hardware : tuple of str
        To choose from; see `brsolver.tuning.layouts.read_layouts`. Empty is the parameters' own.
    gpus : int or None
        How many GPUs there are, for hardware whose workers are of several.
    given : frozenset of str
        Parameters of the run that were asked for, and are not searched.
    search : mapping of str to Search or None
        Parameters that are searched although they were given.
    storage, study : str
        URL and name of the Optuna study; an empty URL keeps it in memory.
    """

    goal: str = "throughput"
    budget_s: float = 300.0
    trials: int | None = None
    validate_from: float = 0.5
    starts: int = 5
    hardware: tuple[str, ...] = ()
    gpus: int | None = None
    given: frozenset[str] = frozenset()
    search: Mapping[str, Range | None] = field(default_factory=dict)
    storage: str = ""
    study: str = "tune"

    def __post_init__(self) -> None:
        require_number("budget", self.budget_s, 1e-3, 1e9, " s")
        if self.trials is not None:
            require_whole("trials", self.trials, 2, 10**9)
        require_number("validate_from", self.validate_from, 0.05, 0.95)
        require_whole("starts", self.starts, 2, _MOST_STARTS)
        require(bool(self.study), "study is an empty name, must be the study's")


def tune(
    trace: Trace,
    params: SimulationParams | None = None,
    tuning: TuneParams | None = None,
    *,
    policies: str | Sequence[str | PolicySpec] = DEFAULT_POLICIES,
    predictor: str | PredictorSpec | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> TuneResult:
    """Search for the router and the settings of a server that serve its own traffic best.

    Settings are tried on the earlier part of the trace: on short prefixes of it first, those that
    fall behind being given up. The best is then held against vLLM's rule and this project's default
    on the later part, start by start.

    Parameters
    ----------
    trace : Trace
        Recent traffic.
    params : SimulationParams, optional
        The server as it is: the published default runs with these.
    tuning : TuneParams, optional
    policies : str or sequence of str or PolicySpec, optional
        Policies to choose from; parameters that a specification gives are kept, others searched.
    predictor : str or PredictorSpec, optional
        For all policies that use forecasts.
    executor : Executor, optional
        Where trials are carried out; default: processes of this machine.
    progress : callable, optional
        Called with (what was found so far, seconds spent, seconds there are).

    Returns
    -------
    TuneResult
        An interruption (Ctrl-C) ends the search, not the call: what was tried is in the result.

    Raises
    ------
    MissingExtraError
        Optuna is not installed.
    BrsolverError
        Any input is bad, the budget is too small for one trial, or the study is of something else.
    """
    from brsolver.simulator.params import SimulationParams
    from brsolver.wiring import read_policies, read_predictor

    optuna_module()
    tuning = tuning or TuneParams()
    given = params or SimulationParams()
    goal = goal_of(tuning.goal, given)
    tuning = replace(tuning, given=_kept(tuning, given))
    specs = read_policies(policies)
    layouts = read_layouts(
        tuning.hardware, given, gpus=tuning.gpus,
        slots_given="slots" in tuning.given and "slots" not in tuning.search,
    )  # fmt: skip
    first = layouts[0]
    base = replace(
        given, workers=first.workers, slots=first.slots, capacity=first.capacity,
        step_time=first.hardware.step_time,
    )  # fmt: skip
    arrivals = for_any(trace, base)
    timed, base = settled(trace, base)
    parts = split(timed, base, validate_from=tuning.validate_from, starts=tuning.starts)
    space = Space.of(
        base, layouts, specs, given=tuning.given, search=tuning.search,
        most_slots=parts.most_slots,
    )  # fmt: skip
    plan = _Plan(
        tuning=tuning, goal=goal, space=space, parts=parts, trace=timed, given=given,
        arrivals=arrivals, predictor=read_predictor(predictor), asked=predictor, progress=progress,
    )  # fmt: skip
    return plan.carried_out(executor or executor_of())


def _kept(tuning: TuneParams, params: SimulationParams) -> frozenset[str]:
    """Return what is not searched.

    Where requests are kept waiting whatever the server does, fewer slots are always sooner done
    with each: by latency they would be the fewest that may be tried.
    """
    if tuning.goal == "latency" and params.arrivals.mode == "pool":
        return tuning.given | {"slots"}
    return tuning.given


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """All that a call has made of its arguments."""

    tuning: TuneParams
    goal: Goal
    space: Space
    parts: Split
    trace: Trace
    given: SimulationParams
    arrivals: Arrivals
    predictor: Any
    asked: Any
    progress: Progress | None

    def carried_out(self, executor: Executor) -> TuneResult:
        began = time.monotonic()
        storage = self.tuning.storage
        shared = {
            TUNING: self.parts.tuning,
            VALIDATION: self.parts.validation,
            PREDICTOR: self.predictor,
        }
        with (
            open_study(
                storage, self.tuning.study, self.goal, self.facts(), seed=self.space.base.seed
            ) as (study, lease),
            executor.open(carry, shared) as lane,
            storage_errors(storage),
            quiet(),
        ):
            search = self.searched(study, lease, lane)
            result = self.found(study, search)
            if not search.interrupted:
                result = self.validated(result, lane)
        return replace(result, wall_s=time.monotonic() - began)

    def facts(self) -> dict[str, Any]:
        """Return what the values of trials hang on."""
        predictor = self.predictor
        specs = [self.space.published().policy, *self.space.policies]
        codes = {spec.text: code_of(spec) for spec in specs}
        settings = {
            "params": self.space.base.to_dict(),
            "searched": {each.name: str(each) for each in self.space.dimensions},
            "hardware": {each.name: _told(each) for each in self.space.layouts},
            "policies": [each.text for each in self.space.policies],
            "digest_of_code": {text: code for text, code in codes.items() if code},
            "predictor": getattr(predictor, "text", str(predictor)),
            "digest_of_predictor": code_of(predictor),
        }
        return facts_of(settings, self.parts, print_of(self.trace), self.goal)

    def searched(self, study: Study, lease: Lease, lane: Lane) -> Search:
        limits = Limits(
            budget_s=self.tuning.budget_s,
            trials=self.tuning.trials,
            validation_requests=3 * len(self.parts.validation),
        )
        search = Search(
            study=study, lease=lease, space=self.space, goal=self.goal, rungs=self.parts.rungs,
            lane=lane, limits=limits, progress=self.progress,
        )  # fmt: skip
        search.run()
        return search

    def found(self, study: Study, search: Search) -> TuneResult:
        return TuneResult(
            goal=self.goal,
            trace_name=self.trace.name,
            trace_fingerprint=self.trace.fingerprint(),
            requests=(len(self.parts.tuning), len(self.parts.validation)),
            base=self.given,
            arrivals=self.arrivals,
            tried=tried_in(study),
            importance=importance_of(study),
            dimensions=self.space.dimensions,
            predictor=getattr(self.predictor, "text", None) if self.asked is not None else None,
            interrupted=search.interrupted,
            spent_s=search.spent_s,
            storage=shown_url(self.tuning.storage),
            notes=self.notes(),
        )

    def validated(self, result: TuneResult, lane: Lane) -> TuneResult:
        """Hold what was found against the defaults; an interruption leaves it at what was found."""
        try:
            found, failures = validate(
                lane, self.candidates(result), self.parts.blocks, self.goal,
                self._telling("validating, runs"),
            )  # fmt: skip
            role = recommended(found, self.goal)
            chosen = next(each.candidate for each in found if each.role == role)
            budget_s = GAP_SHARE * self.tuning.budget_s
            gap = gap_left(lane, chosen, self.parts.blocks, budget_s)
        except KeyboardInterrupt:
            return replace(result, interrupted=True)
        return replace(
            result, validated=found, recommended=role, gap=gap, notes=(*result.notes, *failures)
        )

    def candidates(self, result: TuneResult) -> dict[str, Candidate]:
        """Return what is validated, by role."""
        made = {PUBLISHED: self.space.published(), PROJECT: self.space.project()}
        if _same(made[PUBLISHED], made[PROJECT]):
            del made[PROJECT]
        best = best_of(result.tried, self.goal)
        if best is None or best.role:
            return made
        again = _Again(best.params)
        found = self.space.candidate(lambda dimension: dimension.suggested(again))
        if not any(_same(found, each) for each in made.values()):
            made[TUNED] = found
        return made

    def notes(self) -> tuple[str, ...]:
        said = [*self.trace.notes, *self.space.left_out]
        if "routing" in self.space.given:
            said.append(
                f"routing is given as {self.space.base.routing}, and both defaults route like "
                "that; where it is not given, or with --search routing, the published default is "
                "immediate, as vLLM is, and this project's pooled"
            )
        return (*said, *self.notes_on_arrivals())

    def notes_on_arrivals(self) -> Iterator[str]:
        arrivals = self.space.base.arrivals
        unasked = "arrivals" not in self.tuning.given
        if arrivals.mode == "pool" and unasked and self.trace.arrival_s is not None:
            yield (
                "the trace says when its requests came, and that is not used: "
                f"{arrivals.pool} requests are kept waiting whatever the server does; "
                "--timestamps tunes for those times"
            )
        if self.goal.name == "throughput" and not arrivals.by_events:
            yield (
                "requests come at times of their own: unless the server falls behind, throughput "
                "is what comes in, whoever routes; goals latency and goodput tell settings apart"
            )
        if self.goal.name == "latency" and arrivals.mode == "pool":
            yield (
                "requests are kept waiting whatever the server does: their time to the last token "
                "counts that wait; latency is for arrivals by time (--timestamps, --rate R)"
            )

    def _telling(self, what: str) -> Callable[[int, int], None]:
        def tell(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(what, done, total)

        return tell


class _Again:
    """Answers what a trial of old was given."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        del choices
        return self._params[name]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> Any:
        del low, high, log
        return self._params[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> Any:
        del low, high, log
        return self._params[name]


def _told(layout: Layout) -> dict[str, Any]:
    """Return all of a layout: two files may call their hardware the same."""
    coefficients = layout.hardware.coefficients()
    return {**coefficients, "slots": layout.slots, "capacity": layout.capacity}


def _same(one: Candidate, other: Candidate) -> bool:
    router = one.policy.name == other.policy.name and one.policy.params == other.policy.params
    return router and one.params == other.params
