"""Which predictor goes with which policy: the rule that every front shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver._code import as_now, is_code, joined, prints_of, require_same
from brsolver.errors import ParameterError
from brsolver.policy import as_policy
from brsolver.registry import NO_PREDICTOR, PolicySpec, PredictorSpec
from brsolver.specs import split_policies
from brsolver.stand_ins import PlainPredictor, as_predictor
from brsolver.streams import stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.policy import BasePolicy, Policy
    from brsolver.predictors import BasePredictor, Predictor

DEFAULT_PREDICTOR = "survival"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A policy and the predictor behind its forecasts.

    Attributes
    ----------
    policy : BasePolicy
    policy_name : str
        What results call it.
    predictor : BasePredictor or None
        What the policy's forecasts come from; None if it uses none, or there are none.
    predictor_name : str
        What results call that; ``"none"`` if there is none.
    made : BasePredictor or None
        What was asked for, used or not: what trained it is left out of runs all the same.
    """

    policy: BasePolicy
    policy_name: str
    predictor: BasePredictor | None
    predictor_name: str
    made: BasePredictor | None


def read_policy(policy: str | PolicySpec | Policy) -> PolicySpec | BasePolicy:
    """Read a specification, if it is one; take an object as it is."""
    if isinstance(policy, str):
        return PolicySpec.parse(policy)
    return policy if isinstance(policy, PolicySpec) else as_policy(policy)


def read_policies(policies: str | Sequence[str | PolicySpec]) -> tuple[PolicySpec, ...]:
    """Read a list of specifications, each once; a text is taken apart at its commas.

    Raises
    ------
    BrsolverError
        There is none, or naming the first that is unknown, given twice, or has a parameter it
        cannot have.
    """
    listed = split_policies(policies) if isinstance(policies, str) else policies
    specs: list[PolicySpec] = []
    for each in listed:
        spec = PolicySpec.parse(each) if isinstance(each, str) else each
        if any(spec.meaning == other.meaning for other in specs):
            raise ParameterError(f"policies has {spec.text!r} twice, must name each policy once")
        specs.append(spec)
    if not specs:
        raise ParameterError("policies is empty, must name at least one")
    return tuple(specs)


def read_predictor(
    predictor: str | PredictorSpec | Predictor | None,
) -> PredictorSpec | BasePredictor:
    """Read a specification, None being the default's; take an object as it is."""
    if predictor is None:
        predictor = DEFAULT_PREDICTOR
    if isinstance(predictor, str):
        return PredictorSpec.parse(predictor)
    return predictor if isinstance(predictor, PredictorSpec) else as_predictor(predictor)


def wire(
    policy: PolicySpec | BasePolicy,
    predictor: PredictorSpec | BasePredictor,
    *,
    seed: int,
    **context: object,
) -> Parts:
    """Make a policy and its predictor.

    A policy with a horizon of its own uses forecasts, and so does one that is made from the
    predictor that it asks. Any other has none kept for it.

    Parameters
    ----------
    policy, predictor
        As read by `read_policy` and `read_predictor`.
    seed : int
        Of the random streams that both may draw from.
    **context
        What else the predictor's constructor may take; see `brsolver.registry.make_predictor`.
        ``horizons`` is filled in.
    """

    def made_for(horizon: int) -> BasePredictor | None:
        if not isinstance(predictor, PredictorSpec):
            return predictor
        horizons = [horizon] if horizon > 0 else []
        found = predictor.make(rng=stream(seed, "predictor"), horizons=horizons, **context)
        return None if found is None else as_predictor(found)

    asks = isinstance(policy, PolicySpec) and policy.asks_predictor
    made = made_for(0) if asks else None
    chosen = _made_policy(policy, seed, made)
    if not asks:
        made = made_for(chosen.horizon)
    used = made if asks or chosen.horizon > 0 else None
    return Parts(
        policy=chosen,
        policy_name=policy.text if isinstance(policy, PolicySpec) else policy.label,
        predictor=used,
        predictor_name=NO_PREDICTOR if used is None else name_of(predictor),
        made=made,
    )


def warmed_up_with(policy: PolicySpec, made: BasePolicy) -> BasePolicy:
    """Return the policy that a session of this one is warmed up with: itself if it is ours.

    A stranger's is left alone, since it may count its calls; BR-0 takes its place.
    """
    return made if policy.ours else as_policy(PolicySpec.of("br-0", {}).make())


def _made_policy(
    policy: PolicySpec | BasePolicy, seed: int, predictor: BasePredictor | None
) -> BasePolicy:
    if not isinstance(policy, PolicySpec):
        return policy
    # A plain object itself, whose own members the policy may know.
    asked = predictor.plain if isinstance(predictor, PlainPredictor) else predictor
    return as_policy(policy.make(rng=stream(seed, "policy"), predictor=asked))


def name_of(predictor: PredictorSpec | BasePredictor) -> str:
    """Return what results call a predictor."""
    return predictor.text if isinstance(predictor, PredictorSpec) else predictor.label


def code_of(asked: PolicySpec | PredictorSpec | BasePredictor) -> str:
    """Return what kept results know of what a name stands for; empty where the version says all.

    Raises
    ------
    ParameterError
        A file has changed since it was read: other processes would read another.
    """
    prints = prints_behind(asked)
    name = asked.text if isinstance(asked, PolicySpec | PredictorSpec) else asked.label
    require_same(name, prints, as_now(prints))
    return joined(prints)


def prints_behind(asked: PolicySpec | PredictorSpec | BasePredictor) -> Mapping[str, str]:
    """Tell apart what a name stands for, as it was read; see `brsolver._code.prints_of`."""
    if isinstance(asked, PolicySpec | PredictorSpec):
        return asked.prints
    return prints_of(type(asked.plain if isinstance(asked, PlainPredictor) else asked), {})


def require_unchanged(*asked: PolicySpec | PredictorSpec | BasePolicy | BasePredictor) -> None:
    """Raise `ParameterError` where a file that parameters name was not read as it was at first.

    Whoever has made something from it asks this afterwards. Code stays as it was imported.
    """
    for each in asked:
        if isinstance(each, PolicySpec | PredictorSpec):
            files = {name: code for name, code in each.prints.items() if not is_code(name)}
            require_same(each.text, files, as_now(files))
