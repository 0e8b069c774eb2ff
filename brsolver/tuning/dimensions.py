"""What is chosen from for one parameter, as the parameter says of itself."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from brsolver.errors import BrsolverError, ParameterError
from brsolver.options import Search, alternatives, parameters

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from brsolver.options import Parameter
    from brsolver.registry import PolicySpec

AROUND = 4.0
"""Factor around its default in which a parameter is tried that says nothing of itself."""
_HALVINGS = 12
_DIGITS = 3
Value = str | int | float | bool | None


class Suggests(Protocol):
    """What of an Optuna trial is used."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one of several."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        """Choose a whole number."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Choose a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One thing to choose.

    Attributes
    ----------
    name : str
        In the study, unique there: ``"slots"``, ``"br-t.kappa"``.
    field : str
        The parameter that it sets.
    default : object
        What it is where nothing is searched.
    low, high : float
        Range, unless there are `choices`.
    log : bool
    whole : bool
        Whether only whole numbers are tried.
    multiple : int
        What they are multiples of.
    choices : tuple
    within : (str, tuple) or None
        A field chosen before it, and those of its values with which this one matters.
    """

    name: str
    field: str
    default: Any
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    multiple: int = 1
    choices: tuple[Value, ...] = ()
    within: tuple[str, tuple[object, ...]] | None = None

    @classmethod
    def of(cls, name: str, field: str, default: Any, says: Search) -> Dimension:
        """Make it of what a parameter says; what it is by default is always among the values."""
        choices: tuple[Any, ...] = says.choices
        low, high = says.low, says.high
        if choices and default not in choices:
            choices = (default, *choices)
        if not choices:
            low, high = min(low, default), max(high, default)
        return cls(
            name=name,
            field=field,
            default=default,
            low=low,
            high=high,
            log=says.log and low > 0,
            whole=not choices and isinstance(default, int),
            multiple=says.multiple,
            choices=choices,
            within=says.within,
        )

    @property
    def single(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.choices) == 1 if self.choices else self.low >= self.high

    def applies(self, chosen: dict[str, Any]) -> bool:
        """Tell whether it matters beside what was chosen before."""
        if self.within is None:
            return True
        field, values = self.within
        return chosen.get(field) in values

    def suggested(self, trial: Suggests) -> Value:
        """Ask a trial for a value."""
        if self.choices:
            chosen: Value = trial.suggest_categorical(self.name, self.choices)
            return chosen
        if self.whole:
            number = trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
            return self._rounded(number)
        return float(
            f"{trial.suggest_float(self.name, self.low, self.high, log=self.log):.{_DIGITS}g}"
        )

    def _rounded(self, number: int) -> int:
        if number == self.default or self.multiple == 1:
            return number
        nearest = self.multiple * round(number / self.multiple)
        return int(min(max(nearest, self.low), self.high))

    def __str__(self) -> str:
        """Write its values."""
        if self.choices:
            return " | ".join(map(str, self.choices))
        if self.whole:
            return f"{int(self.low)} to {int(self.high)}"
        return f"{self.low:g} to {self.high:g}"


def policy_dimensions(spec: PolicySpec) -> tuple[Dimension, ...]:
    """Return what is chosen from for a policy: of each parameter that is left open.

    A parameter that has an `Option` says itself what is worth trying, if anything. One that has
    none, as a stranger's, is tried in a factor of `AROUND` around its default, as far as its class
    takes that.
    """
    if spec.params is None:
        return ()
    return tuple(_open_dimensions(spec))


def _open_dimensions(spec: PolicySpec) -> Iterator[Dimension]:
    fields: Collection[Parameter] = parameters(type(spec.params))
    for each in fields:
        if each.name in spec.given:
            continue
        default = getattr(spec.params, each.name)
        says = each.option.search if each.option else _derived(spec.params, each, default)
        if says is not None:
            made = Dimension.of(f"{spec.name}.{each.name}", each.name, default, says)
            if not made.single:
                yield made


def _derived(params: Any, each: Parameter, default: Any) -> Search | None:
    kinds = alternatives(each.hint)
    if isinstance(default, bool):
        return Search(choices=(False, True))
    literal = next((kind for kind in kinds if typing.get_origin(kind) is Literal), None)
    if literal is not None and isinstance(default, str):
        return Search(choices=typing.get_args(literal))
    if not isinstance(default, int | float) or default <= 0:
        return None
    number = type(default)
    low, high = number(default / AROUND) or number(1), number(default * AROUND)
    return Search(
        low=_taken(params, each.name, default, low),
        high=_taken(params, each.name, default, high),
        log=True,
    )


def _taken(params: Any, name: str, good: Any, wanted: Any) -> Any:
    """Return the value nearest to `wanted` that the class of parameters is found to take."""
    if _takes(params, name, wanted):
        return wanted
    number = type(good)
    for _ in range(_HALVINGS):
        middle = number((good + wanted) / 2)
        if _takes(params, name, middle):
            good = middle
        else:
            wanted = middle
    return good


def _takes(params: Any, name: str, value: Any) -> bool:
    try:
        replace(params, **{name: value})
    except (BrsolverError, TypeError, ValueError):
        return False
    return True


def read_ranges(text: str) -> dict[str, Search | None]:
    """Read what is to be searched although it was given: ``slots=16..256,delayer=none|atom``.

    Returns
    -------
    dict of str to Search or None
        By parameter; None leaves its values to the parameter.

    Raises
    ------
    ParameterError
        It is no such list.
    """
    found: dict[str, Search | None] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, values = (part.strip() for part in item.partition("="))
        if not name or (equals and not values) or name in found:
            raise _no_range(text, item)
        found[name] = _range(text, item, values) if equals else None
    return found


def _range(text: str, item: str, values: str) -> Search:
    low, dots, high = values.partition("..")
    if not dots:
        return Search(choices=tuple(_plain(part.strip()) for part in values.split("|")))
    try:
        least, most = float(low), float(high)
    except ValueError as error:
        raise _no_range(text, item) from error
    if not (least <= most and math.isfinite(most - least)):
        raise _no_range(text, item)
    return Search(low=least, high=most, log=least > 0)


def _plain(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _no_range(text: str, item: str) -> ParameterError:
    return ParameterError(
        f"search is {text!r}, must be NAME, NAME=LOW..HIGH or NAME=A|B, separated by commas: "
        f"{item!r} is none of them"
    )


def with_range(says: Search, asked: Search | None) -> Search:
    """Return what a parameter says of itself, with the values that were asked for instead."""
    if asked is None:
        return says
    return dataclasses.replace(asked, multiple=says.multiple if not asked.choices else 1)
