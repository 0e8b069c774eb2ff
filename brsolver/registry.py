"""Policies and predictors by name, found through entry points, or as ``MODULE:CLASS``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from brsolver._by_module import entry_of, loaded
from brsolver._code import prints_of, require_same
from brsolver.errors import UnknownNameError
from brsolver.options import shown
from brsolver.policy import as_policy
from brsolver.predictors import BasePredictor
from brsolver.specs import build_params, defaults_of, parse_policy, parse_spec
from brsolver.streams import stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.policy import Policy
    from brsolver.predictors import Predictor


POLICY_GROUP = "brsolver.policies"
PREDICTOR_GROUP = "brsolver.predictors"
NO_PREDICTOR = "none"
_NOTHING: Mapping[str, object] = MappingProxyType({})
_METHODS = MappingProxyType({POLICY_GROUP: "route", PREDICTOR_GROUP: "predict"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInfo:
    """What `brsolver policies` prints about one policy.

    Attributes
    ----------
    name : str
        The name it is asked for by.
    summary : str
        First line of its docstring.
    source : str
        Where it comes from: its `source` attribute (a paper or project) and its module.
    params : mapping of str to object
        Parameters and their defaults.
    """

    name: str
    summary: str
    source: str
    params: Mapping[str, object]


def policy_names() -> list[str]:
    """Return the names of all installed policies, sorted."""
    return sorted(_entries(POLICY_GROUP))


def predictor_names() -> list[str]:
    """Return the names of all installed predictors, sorted."""
    return sorted(_entries(PREDICTOR_GROUP))


def make_policy(name: str, params: Mapping[str, object] | None = None, **context: Any) -> Policy:
    """Make the policy called `name`.

    Parameters
    ----------
    name : str
        Name of a `brsolver.policies` entry point, or ``MODULE:CLASS``.
    params : mapping of str to object, optional
        Values for its `Params`, as strings or as what they stand for.
    **context
        ``rng``, ``predictor``: handed on if the constructor takes them.

    Raises
    ------
    UnknownNameError
        No such policy or parameter.
    ParameterError
        A parameter has a value it cannot have.
    """
    return PolicySpec.of(name, params or {}).make(**context)


def make_predictor(
    name: str, params: Mapping[str, object] | None = None, **context: object
) -> Predictor:
    """Make the predictor called `name`; see `make_policy`.

    An oracle takes ``output_tokens`` from the context, a predictor that is trained before the run
    ``trace``, and one that is trained for a horizon ``horizons``, those of the routers.
    """
    made = PredictorSpec.of(name, params or {}).make(**context)
    if made is None:
        raise UnknownNameError.suggest("predictor", name, predictor_names())
    return made


def describe_policy(name: str) -> PolicyInfo:
    """Describe the policy called `name`."""
    factory = _load(POLICY_GROUP, "policy", name)
    params = _params_class(factory)
    defaults = {} if params is None else defaults_of(params)
    doc = (inspect.getdoc(factory) or "").strip().splitlines()
    return PolicyInfo(
        name=name,
        summary=doc[0] if doc else "",
        source=str(getattr(factory, "source", None) or factory.__module__),
        params=defaults,
    )


def wants(factory: type, keyword: str) -> bool:
    """Tell whether the constructor of `factory` takes `keyword`."""
    return keyword in inspect.signature(factory).parameters


def policy_class(name: str) -> type:
    """Return the class registered as the policy `name`."""
    return _load(POLICY_GROUP, "policy", name)


def predictor_class(name: str) -> type:
    """Return the class registered as the predictor `name`."""
    return _load(PREDICTOR_GROUP, "predictor", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """A policy as it was asked for, read once: its name, and its parameters as values.

    Attributes
    ----------
    name : str
        Name of a `brsolver.policies` entry point, or ``MODULE:CLASS``.
    text : str
        The specification as it was written, which is what results call it.
    params : object or None
        Instance of its class's `Params`, checked; None if it takes no parameters.
    given : mapping of str to object
        Parameters that the specification sets, as written.
    prints : mapping of str to str
        See `brsolver._code.prints_of`: as everything was when the specification was read.
    """

    name: str
    text: str
    params: Any = None
    given: Mapping[str, object] = field(default_factory=dict, hash=False)
    prints: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, more: Mapping[str, object] = _NOTHING) -> PolicySpec:
        """Read ``NAME`` or ``NAME:KEY=VALUE,...``, or ``MODULE:CLASS`` in place of the name.

        Parameters
        ----------
        text : str
        more : mapping of str to object, optional
            Further parameters, which win over the text's.

        Raises
        ------
        UnknownNameError
            No such policy or parameter.
        ParameterError
            The text is no specification, or a parameter has a value it cannot have.
        """
        installed = text.partition(":")[0].strip() in _entries(POLICY_GROUP)
        name, values = parse_spec(text) if installed else parse_policy(text)
        return cls.of(name, {**values, **more}, text="" if more else text)

    @classmethod
    def of(cls, name: str, values: Mapping[str, object], *, text: str = "") -> PolicySpec:
        """Take the name and parameters apart already, as texts or as what they stand for."""
        factory = policy_class(name)
        params = _params(factory, name, values)
        # Of cells, the policy within each.
        within = getattr(params, "spec", None)
        inner = within.prints if isinstance(within, PolicySpec) else {}
        return cls(
            name=name,
            text=text or written(name, values),
            params=params,
            given=dict(values),
            prints={**prints_of(factory, values), **inner},
        )

    @property
    def factory(self) -> type:
        """The policy's class."""
        return policy_class(self.name)

    @property
    def asks_predictor(self) -> bool:
        """Whether it is made from the very predictor that it asks."""
        return wants(self.factory, "predictor")

    @property
    def ours(self) -> bool:
        """Whether it is the project's own; a stranger's may count its calls."""
        return self.factory.__module__.partition(".")[0] in {"brsolver", "baselines"}

    @property
    def horizon(self) -> int:
        """Steps that it looks ahead, as far as it tells without the predictor that it asks.

        The project's own have a parameter of that name, or say it in their class; a stranger's is
        made to be asked.
        """
        if self.asks_predictor:
            return 0
        if self.ours:
            return int(getattr(self.params, "horizon", getattr(self.factory, "horizon", 0)))
        return as_policy(self.make(rng=stream(0, "policy"))).horizon

    @property
    def meaning(self) -> tuple[str, Mapping[str, object]]:
        """What tells it apart: blanks, the order of parameters and 1e1 for 10 do not."""
        return self.name, {name: getattr(self.params, name) for name in self.given}

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters."""
        return parameter_names(self.factory)

    def set_where_free(self, values: Mapping[str, object]) -> PolicySpec:
        """Set those of its parameters among `values` that the specification leaves open.

        Values are texts, or what they stand for; results name what they stand for.
        """
        more = {k: v for k, v in values.items() if k in self.parameters and k not in self.given}
        if not more:
            return self
        spec = self.of(self.name, {**self.given, **more})
        set_to = {name: getattr(spec.params, name) for name in more}
        return replace(spec, text=written(self.name, {**self.given, **set_to}))

    def make(self, **context: object) -> Policy:
        """Make the policy from what its constructor takes of ``rng`` and ``predictor``."""
        return cast("Policy", _construct(self.factory, self.params, context))

    def __reduce__(self) -> tuple[object, ...]:
        # Not by its parameters: their class may be one that pickle does not find.
        return _remade, (type(self), self.name, dict(self.given), self.text, dict(self.prints))

    def __deepcopy__(self, memo: object) -> PolicySpec:
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSpec:
    """A predictor as it was asked for, read once; ``none`` forecasts nothing.

    Attributes
    ----------
    name, text, params, given, prints
        As of `PolicySpec`.
    """

    name: str
    text: str
    params: Any = None
    given: Mapping[str, object] = field(default_factory=dict, hash=False)
    prints: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, more: Mapping[str, object] = _NOTHING) -> PredictorSpec:
        """Read ``NAME``, ``NAME:KEY=VALUE,...`` or, of a class with `positional`, ``NAME:TEXT``.

        Parameters
        ----------
        text, more
            As of `PolicySpec.parse`.

        Raises
        ------
        UnknownNameError
            No such predictor or parameter.
        ParameterError
            The text is no specification, or a parameter has a value it cannot have.
        """
        name, values = _take_apart(text)
        return cls.of(name, {**values, **more}, text="" if more else text)

    @classmethod
    def of(cls, name: str, values: Mapping[str, object], *, text: str = "") -> PredictorSpec:
        """Take the name and parameters apart already, as texts or as what they stand for."""
        if name == NO_PREDICTOR and not values:
            return cls(name=name, text=text or name)
        factory = predictor_class(name)
        return cls(
            name=name,
            text=text or written(name, values),
            params=_params(factory, name, values),
            given=dict(values),
            prints=prints_of(factory, values),
        )

    @property
    def trained(self) -> bool:
        """Whether a trace trains it before the run."""
        if self.name == NO_PREDICTOR:
            return False
        rows = getattr(predictor_class(self.name), "training_rows", None)
        return callable(rows) and rows is not BasePredictor.training_rows

    def __reduce__(self) -> tuple[object, ...]:
        return _remade, (type(self), self.name, dict(self.given), self.text, dict(self.prints))

    def __deepcopy__(self, memo: object) -> PredictorSpec:
        return self

    def make(self, **context: object) -> Predictor | None:
        """Make the predictor from what its constructor takes of the context; see `make_predictor`.

        None if nothing is to be forecast.
        """
        if self.name == NO_PREDICTOR:
            return None
        return cast("Predictor", _construct(predictor_class(self.name), self.params, context))


def _remade(
    kind: type[PolicySpec | PredictorSpec],
    name: str,
    given: Mapping[str, object],
    text: str,
    prints: Mapping[str, str],
) -> PolicySpec | PredictorSpec:
    spec = kind.of(name, given, text=text)
    # Another process imports what is there now.
    require_same(text, prints, spec.prints)
    return spec


def written(name: str, values: Mapping[str, object]) -> str:
    """Write a specification."""
    settings = ",".join(f"{key}={shown(value)}" for key, value in values.items())
    return f"{name}:{settings}" if settings else name


def parameter_names(factory: type) -> tuple[str, ...]:
    """Return the names of the parameters that a policy or predictor takes."""
    params = _params_class(factory)
    return () if params is None else tuple(each.name for each in fields(params))


def _take_apart(text: str) -> tuple[str, Mapping[str, object]]:
    name, _, rest = (part.strip() for part in text.partition(":"))
    if name and rest and name != NO_PREDICTOR:
        factory = predictor_class(name)
        positional = getattr(factory, "positional", None)
        first = rest.partition("=")[0].strip()
        if positional is not None and first not in parameter_names(factory):
            return name, {positional: rest}
    return parse_spec(text)


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def _load(group: str, kind: str, name: str) -> type:
    entries = _entries(group)
    entry = entries.get(name) or entry_of(group, name)
    if entry is None:
        raise UnknownNameError.suggest(kind, name, entries)
    return loaded(entry, kind, _METHODS[group])


def _params_class(factory: type) -> type[Any] | None:
    """Return the class of its parameters; a stranger's class may say nothing of any."""
    found: type[Any] | None = getattr(factory, "Params", None)
    return found


def _params(factory: type, name: str, values: Mapping[str, object]) -> object | None:
    params_class = _params_class(factory)
    if params_class is not None:
        return cast("object", build_params(params_class, values, name))
    if values:
        raise UnknownNameError.suggest(f"parameter of {name}", next(iter(values)), ())
    return None


def _construct(factory: type, params: object | None, context: Mapping[str, object]) -> object:
    arguments: list[Any] = [] if params is None else [params]
    keywords = {key: value for key, value in context.items() if wants(factory, key)}
    return factory(*arguments, **keywords)
