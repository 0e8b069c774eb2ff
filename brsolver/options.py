"""What a parameter says of itself, once: for the command line, for TOML files and for reports.

A field of a parameter dataclass carries an `Option`, a dataclass of which each choice uses some
fields only (a prefill's mode) carries `Choices`. The options of the command line
(`brsolver.cli._options`), what dictionaries and TOML files may hold (`brsolver.simulator.config`)
and the tables of parameters in reports (`brsolver.report.parameters`) are made from them: a new
parameter is a field with an `Option`, a check in ``__post_init__``, and nothing else.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

KEY = "option"
"""Of an `Option` in a field's metadata."""

CLUSTER = "Cluster"
ARRIVALS = "Arrivals"
POLICY = "Policy parameters (key=value in the policy's own specification takes precedence)"
FORECASTS = "Forecasts and stale information"
RUN = "Run"
INPUT = "Trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A name, or a file, that a whole component can be given by.

    Attributes
    ----------
    name : str
        Option on the command line, and key of TOML files beside the component's.
    help : str
        Sentence for the command line's help.
    metavar : str
        Stands for it in the help.
    read : callable
        Takes the text and the folder that files are looked for in, None for the working
        directory, and returns the component.
    """

    name: str
    help: str
    metavar: str
    read: Callable[[str, Path | None], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Values of a field that are worth trying where it is tuned.

    Attributes
    ----------
    low, high : float
        Least and most; whole numbers where the field is one.
    log : bool
        Whether ratios matter rather than differences.
    multiple : int
        Whole numbers are rounded to multiples of it.
    choices : tuple
        Instead of a range: the values themselves.
    within : (str, tuple) or None
        A field beside it, and the values of that with which this one matters.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    multiple: int = 1
    choices: tuple[object, ...] = ()
    within: tuple[str, tuple[object, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What a field says of itself.

    Attributes
    ----------
    help : str
        Sentence or sentences for the command line's help.
    label : str
        What reports call it; empty is the field's name.
    unit : str
        Of its value, in reports.
    unset : str
        What None or an empty value means: ``"unlimited"``.
    metavar : str
        Stands for its value in the help; empty is made from its type.
    panel : str
        Heading that it stands under in the help.
    flag : str
        Name on the command line, without dashes; empty is the field's.
    alias : str
        Another name on the command line, without dashes.
    switch : tuple of str or None
        Values that ``--FLAG`` and ``--no-FLAG`` stand for, of a field that has two.
    named : Named or None
        What a component can be given by instead of its fields.
    instead_of : str
        Field beside it that it excludes: given alone, it resets that one.
    bounded : bool
        Whether bounds of the best run hold whatever its value, or a run's own check notices if
        they do not: then ``brsolver gap`` offers it.
    search : Search or None
        What ``brsolver tune`` tries; None leaves it as it is.
    """

    help: str
    label: str = ""
    unit: str = ""
    unset: str = ""
    metavar: str = ""
    panel: str = ""
    flag: str = ""
    alias: str = ""
    switch: tuple[str, str] | None = None
    named: Named | None = None
    instead_of: str = ""
    bounded: bool = False
    search: Search | None = None


def option(text: str, **more: Any) -> dict[str, Option]:
    """Return an `Option` as the metadata of a field."""
    return {KEY: Option(help=text, **more)}


SEED = Option(help="Seed of everything random.", metavar="S", panel=RUN, bounded=True)
"""Of runs, and of commands that have nothing else of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A file that holds fields, and can be named instead of them.

    Attributes
    ----------
    choice : str
        The choice whose fields it holds.
    metavar : str
        Stands for its path in the help.
    read : callable
        Takes the path and returns the fields' values.
    beside : tuple of str
        Fields of the choice that it does not hold, so that they may be given with it.
    """

    choice: str
    metavar: str
    read: Callable[[Path], Mapping[str, object]]
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Which of a component's fields each choice uses; stands in the class as ``CHOICES``.

    Attributes
    ----------
    selector : str
        The field that chooses.
    uses : mapping of str to tuple of str
        By choice, the fields that it uses.
    options : mapping of str to Option
        Choices that the command line knows by name: ``--timestamps``, ``--fail``.
    files : mapping of str to Contents
        Names that stand for a file.
    within : mapping of str to (str, tuple of str)
        By field that only some values of another field use: that field, and these values.
    """

    selector: str
    uses: Mapping[str, tuple[str, ...]]
    options: Mapping[str, Option] = field(default_factory=dict)
    files: Mapping[str, Contents] = field(default_factory=dict)
    within: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)

    def used(self, component: object, name: str) -> bool:
        """Tell whether a component makes use of its field `name`, other than to choose."""
        if name not in self.uses[getattr(component, self.selector)]:
            return False
        chooser, values = self.within.get(name, (self.selector, tuple(self.uses)))
        return getattr(component, chooser) in values

    def accepted(self, choice: str) -> tuple[str, ...]:
        """Return what may be given for a choice: its fields, and names of files that hold them."""
        return (*self.uses[choice], *(n for n, f in self.files.items() if f.choice == choice))

    def refuse(self, name: str, choice: str) -> ParameterError:
        """Say that a choice does not use the field `name`."""
        known = ", ".join(self.accepted(choice)) or "nothing"
        return ParameterError(
            f"{name} is given, but {self.selector} {choice!r} does not use it; it uses {known}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A field of a parameter dataclass.

    Attributes
    ----------
    name : str
    hint : type
        Its annotation.
    default : object
        `dataclasses.MISSING` if it has none.
    option : Option or None
        What it says of itself; a component may leave that to its own fields.
    component : type or None
        The dataclass of parameters that it holds.
    many : bool
        Whether it holds a tuple of them.
    """

    name: str
    hint: Any
    default: Any
    option: Option | None
    component: Any
    many: bool = False

    @property
    def label(self) -> str:
        """What reports call it."""
        return (self.option and self.option.label) or self.name


def parameters(cls: Any) -> tuple[Parameter, ...]:
    """Return the fields of a parameter dataclass, in order."""
    return _parameters(cls)


@cache
def _parameters(cls: Any) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(_parameter(each, hints[each.name]) for each in dataclasses.fields(cls))


def _parameter(each: dataclasses.Field[Any], hint: Any) -> Parameter:
    many = typing.get_origin(hint) is tuple
    inner = typing.get_args(hint)[0] if many else hint
    nested, made = dataclasses.is_dataclass(inner), each.default_factory
    return Parameter(
        name=each.name,
        hint=hint,
        default=each.default if made is dataclasses.MISSING else made(),
        option=each.metadata.get(KEY),
        component=inner if nested else None,
        many=many and nested,
    )


def parameter(cls: Any, name: str) -> Parameter:
    """Return one field of a parameter dataclass."""
    return next(each for each in parameters(cls) if each.name == name)


def choices_of(cls: Any) -> Choices | None:
    """Return which fields each choice uses, if that depends on a choice."""
    found: Choices | None = getattr(cls, "CHOICES", None)
    return found


def check_names(cls: Any, names: Iterable[str], owner: str) -> None:
    """Raise `UnknownNameError` unless every name is a field, or stands for a file."""
    choices = choices_of(cls)
    known = [each.name for each in parameters(cls)] + list(choices.files if choices else ())
    for name in names:
        if name not in known:
            raise UnknownNameError.suggest(f"parameter of {owner}", name, known)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types that a union is of, or the one type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def shown(value: object) -> str:
    """Write a value as specifications and TOML files have it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(shown, value))
    return str(value)
