"""Specification strings: ``name:key=value,key2=value2`` and the parameters they set.

Policies, presets and step-time models are all named on the command line this way. `parse_spec`
takes the string apart; `build_params` turns the texts into a validated dataclass.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import TYPE_CHECKING, Any, TypeVar

from brsolver.errors import BrsolverError, ParameterError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import DataclassInstance

    P = TypeVar("P", bound=DataclassInstance)
else:
    P = TypeVar("P")

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Take a specification string apart.

    Parameters
    ----------
    spec : str
        ``"name"`` or ``"name:key=value,key2=value2"``. Blanks around names, keys and values do
        not count.

    Returns
    -------
    name : str
    parameters : dict of str to str
        The values as written; `build_params` converts them to what the parameter needs.

    Raises
    ------
    ParameterError
        If the name is missing, or a parameter is not ``key=value``, or is given twice.
    """
    name, colon, rest = spec.partition(":")
    name = name.strip()
    if not name:
        raise ParameterError(
            f"specification {spec!r} has no name; write NAME or NAME:KEY=VALUE,..."
        )
    parameters: dict[str, str] = {}
    for item in rest.split(",") if colon and rest.strip() else ():
        key, value = _parse_item(spec, item)
        if key in parameters:
            raise ParameterError(f"specification {spec!r} sets {key!r} twice")
        parameters[key] = value
    return name, parameters


def _parse_item(spec: str, item: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in item.partition("="))
    if not (key and equals and value):
        raise ParameterError(f"specification {spec!r}: {item.strip()!r} is not KEY=VALUE")
    return key, value


def build_params(cls: type[P], values: Mapping[str, object], owner: str) -> P:
    """Build a parameter dataclass from texts or ready values.

    Parameters
    ----------
    cls : type
        A dataclass whose fields are annotated ``int``, ``float``, ``bool``, ``str``, a
        ``Literal`` of texts, or a union of these with None.
    values : mapping of str to object
        Parameter values by name. Texts are converted to the field's annotation; other values
        must have its type already (an int is accepted where a float is asked for).
    owner : str
        What the parameters belong to, for messages: ``"preset:uniform"``, ``"br-h"``.

    Raises
    ------
    UnknownNameError
        If a name is no field of `cls`; the message suggests the nearest one.
    ParameterError
        If a value cannot be converted, a field without default is missing, or the dataclass's
        own validation refuses the values.
    """
    hints = typing.get_type_hints(cls)
    accepted = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in values:
        if name not in accepted:
            raise UnknownNameError.suggest(f"parameter of {owner}", name, accepted)
    for name, field in accepted.items():
        if name not in values and _is_required(field):
            raise ParameterError(f"{owner}: parameter {name!r} is missing")
    converted = {
        name: _convert(value, hints[name], f"{owner}: {name}") for name, value in values.items()
    }
    return _construct(cls, converted, owner)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _construct(cls: type[P], values: Mapping[str, Any], owner: str) -> P:
    try:
        return cls(**values)
    except BrsolverError as error:
        message = str(error)
        prefix = "" if message.startswith(f"{owner}:") else f"{owner}: "
        raise ParameterError(f"{prefix}{message}") from error
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{owner}: {error}") from error


def _convert(value: object, hint: Any, label: str) -> object:
    options = _options(hint)
    for option in options:
        try:
            return _convert_one(value, option)
        except ValueError:
            continue
    wanted = " or ".join(_describe(option) for option in options)
    raise ParameterError(f"{label} is {value!r}, must be {wanted}")


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, most particular first."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        order = [types.NoneType, bool, int, float]
        rank = {kind: position for position, kind in enumerate(order)}
        return tuple(sorted(typing.get_args(hint), key=lambda kind: rank.get(kind, len(order))))
    return (hint,)


def _convert_one(value: object, kind: Any) -> object:
    if typing.get_origin(kind) is typing.Literal:
        return _member(value, typing.get_args(kind))
    if isinstance(value, str) and kind in _FROM_TEXT:
        return _FROM_TEXT[kind](value.strip())
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        raise ValueError
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise ValueError


def _member(value: object, members: tuple[object, ...]) -> object:
    if value not in members:
        raise ValueError
    return value


def _int_from(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        # 1e4 is how people write counts.
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _float_from(text: str) -> float:
    number = float(text)
    if math.isnan(number):
        raise ValueError
    return number


def _bool_from(text: str) -> bool:
    lowered = text.lower()
    if lowered not in _TRUE | _FALSE:
        raise ValueError
    return lowered in _TRUE


def _none_from(text: str) -> None:
    if text.lower() != "none":
        raise ValueError


_FROM_TEXT: Mapping[Any, Callable[[str], object]] = types.MappingProxyType(
    {int: _int_from, float: _float_from, bool: _bool_from, types.NoneType: _none_from, str: str}
)


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(repr(member) for member in typing.get_args(kind))
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        types.NoneType: "none",
    }
    return names.get(kind, getattr(kind, "__name__", str(kind)))
