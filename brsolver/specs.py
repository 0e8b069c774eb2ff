"""Specification strings: ``name:key=value,key2=value2`` and the parameters they set.

Policies, presets and step-time models are all named on the command line this way. `parse_spec`
takes the string apart, `split_policies` a list of them; `build_params` turns the texts into a
validated dataclass.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import math
import re
import types
import typing
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from brsolver.errors import BrsolverError, ParameterError, UnknownNameError
from brsolver.options import alternatives

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import DataclassInstance

    P = TypeVar("P", bound=DataclassInstance)
else:
    P = TypeVar("P")

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
# K is left out: vLLM reads it as 1,024 and others as 1,000.
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_COUNT = re.compile(
    rf"(?P<number>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)(?P<unit>{'|'.join(_UNITS)})"
)
_MAX_DIGITS = 308
_CLASS = re.compile(r"\s*(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*(?<!\.py):[^\W\d]\w*)\s*(:|$)")
"""``MODULE:CLASS``, which begins a specification."""
_FILE = re.compile(r"\.py:[^\W\d]\w*\s*(:|$)")


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
    name, _, rest = spec.partition(":")
    name = name.strip()
    if not name:
        raise _no_spec(spec, "it has no name")
    return name, _parameters(spec, rest)


def parse_policy(spec: str) -> tuple[str, dict[str, str]]:
    """Take a specification apart whose name may be ``MODULE:CLASS``; see `parse_spec`."""
    found = _CLASS.match(spec)
    if found is None:
        if _FILE.search(spec):
            raise _no_spec(spec, "a file is named MODULE:CLASS, as in my_policy:MyPolicy")
        return parse_spec(spec)
    return found["name"], _parameters(spec, spec[found.end() :])


def _parameters(spec: str, rest: str) -> dict[str, str]:
    """Read ``KEY=VALUE,...``; `spec` is what it is of, for messages."""
    parameters: dict[str, str] = {}
    for item in rest.split(",") if rest.strip() else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise _no_spec(spec, f"{item.strip()!r} is not KEY=VALUE")
        if key in parameters:
            raise _no_spec(spec, f"it sets {key!r} twice")
        parameters[key] = value
    return parameters


def _no_spec(spec: str, reason: str) -> ParameterError:
    return ParameterError(
        f"specification is {spec!r}, must be NAME or NAME:KEY=VALUE,...: {reason}"
    )


def split_policies(text: str) -> tuple[str, ...]:
    """Take a comma-separated list of policy specifications apart.

    A comma separates policies, except that a piece ``key=value`` belongs to the policy before
    it: ``"br-0,br-h:horizon=40,gamma=0.9,mine:Mine:a=1"`` names three policies.
    """
    specs: list[str] = []
    for piece in (piece.strip() for piece in text.split(",")):
        head, equals, _ = piece.partition("=")
        if not piece:
            raise _no_list(text, "a name is missing beside a comma")
        if equals and ":" not in head:
            if not specs:
                raise _no_list(text, f"{piece!r} follows no policy")
            specs[-1] += ("," if "=" in specs[-1] else ":") + piece
        else:
            specs.append(piece)
    return tuple(specs)


def _no_list(text: str, reason: str) -> ParameterError:
    return ParameterError(f"policies is {text!r}, must be NAME[:KEY=VALUE,...],...: {reason}")


def build_params(
    cls: type[P], values: Mapping[str, object], owner: str, *, convert_texts: bool = True
) -> P:
    """Build a parameter dataclass from texts or ready values.

    Parameters
    ----------
    cls : type
        A dataclass whose fields are annotated ``int``, ``float``, ``bool``, ``str``, a
        ``Literal`` of texts, ``tuple[..., ...]`` of one of these (as text separated by commas or,
        within a specification, by slashes), another such dataclass, or a
        union of these with None.
    values : mapping of str to object
        Parameter values by name. Texts are converted to the field's annotation; other values
        must have its type already (an int is accepted where a float is asked for, a list where
        a tuple is, and a mapping where a dataclass is).
    owner : str
        What the parameters belong to, for messages: ``"preset:uniform"``, ``"br-h"``.
    convert_texts : bool
        False where values have types of their own, as in TOML: a text is then only a text.

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
            raise ParameterError(f"{owner}: parameter {name!r} is missing, must be given")
    converted = {
        name: convert(value, hints[name], name, owner, convert_texts=convert_texts)
        for name, value in values.items()
    }
    return _construct(cls, converted, owner)


def convert(
    value: object, hint: Any, name: str, owner: str = "", *, convert_texts: bool = True
) -> Any:
    """Convert a text to an annotation's type, or check that a value has it; see `build_params`.

    Raises
    ------
    ParameterError
        The value is not what the annotation says, for the parameter `name` of `owner`.
    """
    return _Converter(owner=owner, convert_texts=convert_texts).convert(value, hint, name)


def defaults_of(params: type[DataclassInstance]) -> dict[str, object]:
    """Return a parameter class's defaults by name; ``"required"`` where there is none."""
    found: dict[str, object] = {}
    for each in dataclasses.fields(params):
        if each.default is not dataclasses.MISSING:
            found[each.name] = each.default
        elif each.default_factory is not dataclasses.MISSING:
            found[each.name] = each.default_factory()
        else:
            found[each.name] = "required"
    return found


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Converter:
    owner: str
    convert_texts: bool

    def convert(self, value: object, hint: Any, name: str) -> object:
        options = _options(hint)
        for option in options:
            try:
                return self._convert_one(value, option, name)
            except BrsolverError:
                # From within a nested dataclass: it says more than what follows here.
                raise
            except (ValueError, OverflowError):
                continue
        wanted = " or ".join(_describe(o, texts=self.convert_texts) for o in options)
        if int in options and isinstance(value, str) and value[:1].isdigit() and value[-1:] == "K":
            # vLLM reads 1K as 1,024 and 1k as 1,000; others do not tell them apart.
            wanted += " such as 400000, 400k (400,000) or 400Ki (409,600)"
        prefix = f"{self.owner}: " if self.owner else ""
        raise ParameterError(f"{prefix}{name} is {_show(value)}, must be {wanted}")

    def _convert_one(self, value: object, kind: Any, name: str) -> object:
        origin = typing.get_origin(kind)
        if origin is typing.Literal:
            return _member(value, typing.get_args(kind))
        if origin is tuple:
            return self._items(value, typing.get_args(kind)[0], name)
        if origin is collections.abc.Mapping and isinstance(value, str):
            return _pairs(value)
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            nested = typing.cast("type[DataclassInstance]", kind)
            return build_params(nested, value, name, convert_texts=self.convert_texts)
        if isinstance(value, str) and kind in _FROM_TEXT and self.convert_texts:
            return _FROM_TEXT[kind](value.strip())
        return _ready(value, kind)

    def _items(self, value: object, kind: Any, name: str) -> tuple[object, ...]:
        if isinstance(value, str) and self.convert_texts:
            # Within a specification a comma ends the value.
            value = value.replace("/", ",").split(",")
        if isinstance(value, list | tuple):
            return tuple(
                self._convert_one(item, kind, f"{name}[{at}]") for at, item in enumerate(value)
            )
        raise ValueError


def _pairs(value: str) -> dict[str, str]:
    """Read ``"A=B,C=D"``."""
    pairs: dict[str, str] = {}
    for item in value.split(","):
        key, equals, name = (part.strip() for part in item.partition("="))
        if not (key and equals and name) or key in pairs:
            raise ValueError
        pairs[key] = name
    return pairs


def _ready(value: object, kind: Any) -> object:
    """Return a value that has its type already."""
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
        if math.isnan(number):
            raise ValueError
        return number
    if kind is int and isinstance(value, bool):
        raise ValueError
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise ValueError


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, most particular first."""
    order = [types.NoneType, bool, int, float]
    rank = {kind: position for position, kind in enumerate(order)}
    return tuple(sorted(alternatives(hint), key=lambda kind: rank.get(kind, len(order))))


def _member(value: object, members: tuple[object, ...]) -> object:
    # By text: lists and tables, which a file may hold here, cannot be looked up.
    if not isinstance(value, str) or value not in members:
        raise ValueError
    return value


def _int_from(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return _count_from(text)


def _count_from(text: str) -> int:
    """Read ``4e5``, ``400k``, ``1.5M`` or ``256Ki``, as people write counts."""
    match = _COUNT.fullmatch(text)
    if match is None:
        raise ValueError
    # Floating point would make 1.1k something else than 1,100.
    number = Decimal(match["number"])
    if number.adjusted() > _MAX_DIGITS:
        raise ValueError
    number *= _UNITS[match["unit"]]
    if number != number.to_integral_value():
        raise ValueError
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


def _describe(kind: Any, *, texts: bool) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(repr(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        entry = _describe(typing.get_args(kind)[0], texts=texts)
        return f"several, each {entry}: A,B,..." if texts else f"a list, each entry {entry}"
    if typing.get_origin(kind) is collections.abc.Mapping:
        return "NAME=VALUE,..., each name once"
    if dataclasses.is_dataclass(kind):
        return f"a table of {', '.join(field.name for field in dataclasses.fields(kind))}"
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        types.NoneType: "none",
    }
    return names.get(kind, getattr(kind, "__name__", str(kind)))
