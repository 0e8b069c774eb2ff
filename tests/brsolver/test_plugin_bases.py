"""Policies and predictors of strangers: plain objects, and wrappers around predictors."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from inspect import isfunction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from brsolver import BRH, BRHParams, SimulationParams, load_trace, simulate
from brsolver.errors import ParameterError
from brsolver.policy import BasePolicy, PlainPolicy, as_policy
from brsolver.predictors import BasePredictor, FinishedRequests, Forecast, ForecastQuery
from brsolver.stand_ins import PlainPredictor, PredictorWrapper, as_predictor
from classifiers.survival import SurvivalPredictor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brsolver import Trace
    from brsolver.cluster.view import ClusterView, Decision, Waiting

CLUSTER = SimulationParams(workers=2, slots=4, refresh_steps=8)
QUERY = ForecastQuery(request=np.arange(2), age=np.array([3, 0]), prompt_tokens=np.array([5, 6]))
ENDED = FinishedRequests(
    request=np.arange(2),
    prompt_tokens=np.array([5, 6]),
    output_tokens=np.array([7, 8]),
    censored=np.zeros(2, bool),
)


def members(base: type) -> list[str]:
    """Return what callers may ask of an instance; what is asked of the class is left out."""
    classes = {n for n, hint in base.__annotations__.items() if "ClassVar" in str(hint)}
    public = {name for name in {*vars(base), *base.__annotations__} if not name.startswith("_")}
    return sorted(public - classes)


METHODS = [name for name in members(BasePredictor) if isfunction(vars(BasePredictor).get(name))]
PROPERTIES = [name for name in members(BasePredictor) if name not in METHODS]


def reread(own: Any) -> Any:
    return pickle.loads(pickle.dumps(own))  # noqa: S301 # written in the same line


COPIERS = [copy.deepcopy, reread]


def stay(query: ForecastQuery, horizon: int) -> Forecast:
    certain = np.zeros(len(query))
    return Forecast(p_finish=certain, mu_remaining=certain + horizon, horizon=horizon)


def answering(name: str) -> BasePredictor:
    """Return a predictor that answers one member with something that no other would."""
    answer = object()

    def method(self: BasePredictor, *arguments: object) -> object:
        self.asked = arguments  # type: ignore[attr-defined] # written here
        return answer

    if name in PROPERTIES:
        body: dict[str, Any] = {name: property(lambda self: answer)}
    else:
        body = {name: method}
    made: BasePredictor = type("Answering", (BasePredictor,), {"predict": stay, **body})()
    made.answer = answer  # type: ignore[attr-defined] # asked for below
    return made


class Bare:
    """A predictor with nothing but forecasts."""

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        return stay(query, horizon)


class Partial(Bare):
    """A predictor that has some of the members without having been told of the base class."""

    sees_future = True
    trust = 0.25
    survival = None
    notes = "not something to be called"

    def __init__(self) -> None:
        self.table = np.array([1.0, 0.5])
        self.lengths = np.array([4, 2])
        self.ended: list[int] = []
        self.horizon = 0

    def look_ahead(self, horizon: int) -> None:
        self.horizon = horizon

    def observe(self, finished: FinishedRequests) -> None:
        self.ended += finished.output_tokens.tolist()

    def training_rows(self, trace: Trace) -> int:
        return len(trace) // 2


class Curved(Bare):
    """A predictor whose curves never fall, and who says so."""

    def survival(self, query: ForecastQuery, horizon: int) -> np.ndarray:
        return np.ones((len(query), horizon + 1))

    def set_running(self, query: ForecastQuery) -> None:
        self.running = len(query)

    def notes(self) -> list[str]:
        return ["never ends"]


def test_members_are_told_apart() -> None:
    assert {"predict", "observe", "survival", "training_rows"} <= set(METHODS)
    assert {"trust", "table", "lengths", "learns", "watches", "label"} <= set(PROPERTIES)
    assert not {"Params", "source", "positional"} & {*METHODS, *PROPERTIES}


@pytest.mark.parametrize("name", [name for name in PROPERTIES if name != "label"])
def test_a_wrapper_passes_every_property_on(name: str) -> None:
    base = answering(name)
    assert getattr(PredictorWrapper(base), name) is base.answer  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", METHODS)
def test_a_wrapper_passes_every_method_on(name: str) -> None:
    base, arguments = answering(name), (object(), object())
    method = getattr(PredictorWrapper(base), name)
    count = method.__func__.__code__.co_argcount - 1
    found = method(*arguments[:count])
    assert base.asked == arguments[:count]  # type: ignore[attr-defined]
    # What is declared to return nothing may return nothing.
    answers = method.__func__.__annotations__["return"] != "None"
    assert found is (base.answer if answers else None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrapper", [PredictorWrapper, PlainPredictor])
@pytest.mark.parametrize("name", [*METHODS, *PROPERTIES])
def test_who_stands_for_another_overrides_every_member(name: str, wrapper: type) -> None:
    # A wrapper is called by its own name, and a stand-in by that of what it stands for.
    own_name = wrapper is PredictorWrapper and name == "label"
    assert name in vars(wrapper) or own_name


@pytest.mark.parametrize("name", members(BasePolicy))
def test_who_stands_for_a_policy_has_every_member(name: str) -> None:
    # Settings follow from the parameters.
    assert name in {*vars(PlainPolicy), *vars(PlainPolicy(First())), "settings"}


def test_what_does_nothing_is_not_asked_for() -> None:
    plain = as_predictor(Bare())
    assert isinstance(plain, PlainPredictor)
    assert plain.label == "Bare"
    assert (plain.sees_future, plain.trust, plain.learns) == (False, 1.0, False)
    assert not plain.watches
    assert (plain.has_survival, plain.table, plain.lengths) == (False, None, None)
    assert plain.training_rows(load_trace("preset:chat:n=3")) == 0
    assert tuple(plain.notes()) == ()
    plain.look_ahead(5)
    plain.observe(ENDED)
    plain.set_running(QUERY)
    assert plain.predict(QUERY, 5).contribution.tolist() == [5.0, 5.0]
    with pytest.raises(ParameterError, match="Bare has no survival curve"):
        plain.survival(QUERY, 5)


def test_some_members_without_the_base_class() -> None:
    own = Partial()
    plain = as_predictor(own)
    assert (plain.sees_future, plain.trust, plain.learns) == (True, 0.25, True)
    assert plain.table is own.table
    assert plain.lengths is own.lengths
    assert plain.training_rows(load_trace("preset:chat:n=6")) == 3
    plain.look_ahead(9)
    plain.observe(ENDED)
    assert (own.horizon, own.ended) == (9, [7, 8])
    # None is no method, and neither is a text.
    assert not plain.has_survival
    assert tuple(plain.notes()) == ()
    with pytest.raises(ParameterError, match="Partial has no survival curve"):
        plain.survival(QUERY, 5)


def test_the_other_members_without_the_base_class() -> None:
    own = Curved()
    plain = as_predictor(own)
    assert plain.has_survival
    assert not plain.learns
    assert plain.survival(QUERY, 4).shape == (2, 5)
    plain.set_running(QUERY)
    assert own.running == 2
    assert plain.notes() == ("never ends",)


class Listens(PredictorWrapper):
    """A wrapper that takes in what ends, and hands on what it is to hand on."""

    def observe(self, finished: FinishedRequests) -> None:
        super().observe(finished)
        self.count = len(finished)


def test_what_is_overridden_says_what_there_is() -> None:
    class Learner(BasePredictor):
        predict = Bare.predict

        def observe(self, finished: FinishedRequests) -> None:
            del finished

        survival = Curved.survival

    class Nothing(BasePredictor):
        predict = Bare.predict

    assert (Learner().learns, Learner().has_survival) == (True, True)
    assert (Nothing().learns, Nothing().has_survival) == (False, False)
    assert not PredictorWrapper(Nothing()).learns
    assert PredictorWrapper(Learner()).learns
    assert Listens(Nothing()).learns
    assert not Listens(Nothing()).has_survival


def test_bases_are_taken_as_they_are() -> None:
    own = SurvivalPredictor()
    assert as_predictor(own) is own
    wrapped = as_predictor(Bare())
    assert as_predictor(wrapped) is wrapped
    policy = as_policy(First())
    assert as_policy(policy) is policy


@pytest.mark.parametrize("wrong", [3, None, "survival", Bare, object()])
def test_what_is_no_predictor_is_refused(wrong: object) -> None:
    with pytest.raises(ParameterError, match="must be a name or an object with predict"):
        as_predictor(wrong)


class First:
    """A policy with nothing but `route`: whoever waits goes to the first worker with room."""

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        room = int(np.flatnonzero(cluster.room)[0])
        return [(0, room)] if len(waiting) else []


@dataclass(frozen=True)
class Values:
    """Parameters of `Ahead`."""

    steps: int = 3


class Ahead(First):
    """A policy that has the members of the base class without deriving from it."""

    def __init__(self) -> None:
        self.horizon = 4
        self.params = Values()
        self.seen: list[Sequence[int]] = []

    def route(self, cluster: ClusterView, waiting: Waiting) -> Decision:
        self.seen.append(cluster.projection(self.horizon).shape)
        return super().route(cluster, waiting)

    def notes(self) -> list[str]:
        return [f"{len(self.seen)} decisions"]


@pytest.mark.parametrize("wrong", [3, None, "jsq", First, object()])
def test_what_is_no_policy_is_refused(wrong: object) -> None:
    with pytest.raises(ParameterError, match="must be a name or an object with route"):
        as_policy(wrong)


def test_a_plain_policy_asks_for_nothing() -> None:
    plain = as_policy(First())
    assert (plain.horizon, plain.params, plain.label) == (0, None, "First")
    assert tuple(plain.notes()) == ()
    assert plain.settings() == {}


def test_a_policy_with_members_but_without_the_base_class() -> None:
    plain = as_policy(Ahead())
    assert (plain.horizon, plain.label) == (4, "Ahead")
    assert plain.settings() == {"steps": 3}
    assert plain.notes() == ("0 decisions",)


@pytest.mark.parametrize("make", [First, Ahead])
@pytest.mark.parametrize("source", [Bare, Curved, None])
def test_plain_objects_run(make: Callable[[], First], source: Callable[[], Bare] | None) -> None:
    trace = load_trace("preset:chat:n=40,output_median=6,output_max=30")
    policy, predictor = make(), None if source is None else source()
    result = simulate(trace, policy, CLUSTER, predictor=predictor)
    assert result.metrics.finished == 40
    if isinstance(policy, Ahead):
        assert set(policy.seen) == {(2, 5)}
        assert f"{len(policy.seen)} decisions" in result.notes
        assert result.policy_params == {"steps": 3}
        assert ("never ends" in result.notes) == isinstance(predictor, Curved)


def test_members_of_plain_objects_are_asked_in_runs() -> None:
    trace = load_trace("preset:chat:n=40,output_median=6,output_max=30")
    predictor = Partial()
    predictor.lengths = trace.output_tokens[20:].copy()
    result = simulate(trace, Ahead(), CLUSTER, predictor=predictor)
    assert (result.training_rows, result.metrics.finished) == (20, 20)
    assert result.sees_future
    assert predictor.horizon == 4
    assert set(predictor.ended) <= set(trace.output_tokens.tolist())


@pytest.mark.parametrize("copied", COPIERS)
@pytest.mark.parametrize("own", [Bare, Partial, SurvivalPredictor])
def test_wrapped_predictors_can_be_copied(
    own: Callable[[], Bare], copied: Callable[[PredictorWrapper], PredictorWrapper]
) -> None:
    wrapped = Listens(as_predictor(own()))
    other = copied(wrapped)
    other.observe(ENDED)
    assert other.count == 2
    assert not hasattr(wrapped, "count")
    assert other.base is not wrapped.base
    assert (other.label, other.base.label) == ("Listens", own.__name__)
    assert other.predict(QUERY, 5).horizon == 5
    assert other.has_survival == wrapped.has_survival
    if own is Partial:
        assert isinstance(wrapped.base, PlainPredictor)
        assert isinstance(other.base, PlainPredictor)
        assert other.base.plain.ended == [7, 8]  # type: ignore[attr-defined]
        assert wrapped.base.plain.ended == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("copied", COPIERS)
def test_wrapped_policies_can_be_copied(copied: Callable[[BasePolicy], BasePolicy]) -> None:
    wrapped = as_policy(Ahead())
    other = copied(wrapped)
    assert isinstance(other, PlainPolicy)
    assert isinstance(wrapped, PlainPolicy)
    assert other.plain is not wrapped.plain
    assert (other.horizon, other.label, other.settings()) == (4, "Ahead", {"steps": 3})


class Curve(PredictorWrapper):
    """Changes the curves of another."""

    asked = 0

    def survival(self, query: ForecastQuery, horizon: int) -> np.ndarray:
        type(self).asked += 1
        return np.ones((len(query), horizon + 1))


class Means(PredictorWrapper):
    """Changes the means of another."""

    asked = 0

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        type(self).asked += 1
        return self.base.predict(query, horizon)


@pytest.mark.parametrize(("wrapper", "projection"), [(Curve, "survival"), (Means, "expected")])
def test_what_a_wrapper_changes_is_asked_whatever_tables_are_within(
    wrapper: type[PredictorWrapper], projection: str
) -> None:
    trace = load_trace("preset:uniform:n=60,s_high=90,o_high=30")
    predictor = wrapper(SurvivalPredictor())
    assert predictor.table is None
    policy = BRH(BRHParams(horizon=6, projection=projection))  # type: ignore[arg-type] # of two
    simulate(trace, policy, SimulationParams(workers=2, slots=4), predictor=predictor)
    assert wrapper.asked > 0  # type: ignore[attr-defined] # both have it


def test_a_wrapper_takes_plain_objects() -> None:
    assert PredictorWrapper(Bare()).learns is False  # type: ignore[arg-type] # a plain one


def test_a_plain_policy_may_say_later_what_its_parameters_are() -> None:
    class Late:
        horizon = -1

        def route(self, _cluster: object, _waiting: object) -> list[tuple[int, int]]:
            return []

    late = Late()
    plain = as_policy(late)
    late.params = object()  # type: ignore[attr-defined] # that is the point
    assert plain.horizon == 0
    assert plain.params is late.params  # type: ignore[attr-defined]
