"""Policies and predictors by name, found through entry points."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.specs import build_params, parse_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.policy import Policy
    from brsolver.predictors import Predictor

POLICY_GROUP = "brsolver.policies"
PREDICTOR_GROUP = "brsolver.predictors"
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


def make_policy(name: str, params: Mapping[str, object] | None = None, **context: object) -> Policy:
    """Make the policy called `name`.

    Parameters
    ----------
    name : str
        Name of a `brsolver.policies` entry point.
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
    return cast("Policy", _make(_load(POLICY_GROUP, "policy", name), name, params or {}, context))


def make_predictor(
    name: str, params: Mapping[str, object] | None = None, **context: object
) -> Predictor:
    """Make the predictor called `name`; see `make_policy`.

    An oracle takes ``output_tokens`` from the context, a predictor that is trained before the run
    ``trace``, and one that is trained for a horizon ``horizons``, those of the routers.
    """
    made = _make(_load(PREDICTOR_GROUP, "predictor", name), name, params or {}, context)
    return cast("Predictor", made)


def describe_policy(name: str) -> PolicyInfo:
    """Describe the policy called `name`."""
    factory = _load(POLICY_GROUP, "policy", name)
    params = getattr(factory, "Params", None)
    defaults = {} if params is None else _defaults(params)
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


def parse_predictor(spec: str) -> tuple[str, dict[str, str]]:
    """Take a predictor's specification apart, like `brsolver.specs.parse_spec`.

    A class with an attribute ``positional`` takes a text that does not start with
    ``PARAMETER=`` whole, as the value of the parameter so named: ``model:a=b,c.skops`` is a path.
    """
    name, _, rest = (part.strip() for part in spec.partition(":"))
    if name and rest and name != "none":
        factory = predictor_class(name)
        positional = getattr(factory, "positional", None)
        first = rest.partition("=")[0].strip()
        known = {field.name for field in fields(getattr(factory, "Params", _NoParams))}
        if positional is not None and first not in known:
            return name, {positional: rest}
    return parse_spec(spec)


@dataclass(frozen=True)
class _NoParams:
    """Of a class that has none."""


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def _load(group: str, kind: str, name: str) -> type:
    entries = _entries(group)
    if name not in entries:
        raise UnknownNameError.suggest(kind, name, entries)
    try:
        loaded = entries[name].load()
    except Exception as error:  # a stranger's module may raise anything when imported
        raise ParameterError(
            f"{kind} {name!r} ({entries[name].value}) cannot be loaded: {error}"
        ) from error
    method = _METHODS[group]
    if not isinstance(loaded, type) or not callable(getattr(loaded, method, None)):
        found = loaded.__name__ if isinstance(loaded, type) else f"a {type(loaded).__name__}"
        raise ParameterError(
            f"{kind} {name!r} ({entries[name].value}) is {found}, "
            f"must be a class with a method {method}"
        )
    return loaded


def _make(
    factory: type, name: str, params: Mapping[str, object], context: Mapping[str, object]
) -> object:
    arguments: list[Any] = []
    params_class = getattr(factory, "Params", None)
    if params_class is not None:
        arguments.append(build_params(params_class, params, name))
    elif params:
        raise UnknownNameError.suggest(f"parameter of {name}", next(iter(params)), ())
    keywords = {key: value for key, value in context.items() if wants(factory, key)}
    return factory(*arguments, **keywords)


def _defaults(params: type) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in fields(params):
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
        else:
            found[field.name] = "required"
    return found
