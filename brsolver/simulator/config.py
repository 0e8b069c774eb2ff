"""Simulation parameters from nested dictionaries and TOML files.

Values keep the types the file gives them: ``workers = true`` or ``"8"`` is refused, not guessed
at. So is a field that the chosen mode makes no use of, which would be ignored without a word.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from brsolver.errors import ParameterError
from brsolver.specs import build_params

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.simulator.params import SimulationParams

    P = TypeVar("P", bound=SimulationParams)
else:
    P = TypeVar("P")

Uses = dict[str, frozenset[str]]

_STEP_TIME = frozenset({"base", "per_token"})
_EVENT = frozenset({"worker", "at_step", "at_s"})

_USES: Mapping[str, tuple[str, Uses]] = MappingProxyType(
    {
        "arrivals": (
            "mode",
            {
                "pool": frozenset({"pool"}),
                "timestamps": frozenset(),
                "rate": frozenset({"rate"}),
                "utilization": frozenset({"utilization"}),
            },
        ),
        "prefill": (
            "mode",
            {
                "none": frozenset(),
                "delay": frozenset({"delay_s", "tokens_per_s"}),
                "tier": frozenset({"delay_s", "tokens_per_s", "workers"}),
            },
        ),
        "step_time": (
            "model",
            {
                "affine": _STEP_TIME,
                "max-mean": _STEP_TIME | {"per_mean_token"},
                "table": frozenset({"loads", "seconds"}),
            },
        ),
        "events": ("kind", {"fail": _EVENT, "join": _EVENT | {"slots", "capacity"}}),
    }
)
"""For each component: the field that chooses how it works, and the fields each choice uses."""


def params_from_dict(cls: type[P], values: Mapping[str, Any]) -> P:
    """Build simulation parameters from nested dictionaries.

    Raises
    ------
    UnknownNameError
        A name is no parameter.
    ParameterError
        A value has the wrong type or range, or the chosen mode does not use it.
    """
    params = build_params(cls, values, "simulation", convert_texts=False)
    for component, (selector, uses) in _USES.items():
        if component in values:
            for given, built in _pairs(component, values[component], getattr(params, component)):
                _refuse_unused(component, given, built, uses[getattr(built, selector)], selector)
    return params


def params_from_toml(cls: type[P], path: str | Path) -> P:
    """Build simulation parameters from a TOML file with one table per component.

    Raises
    ------
    ParameterError
        The file cannot be read, or as in `params_from_dict`; names the file.
    """
    try:
        with Path(path).open("rb") as stream:
            values = tomllib.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        # What is not TOML or not UTF-8 is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"{path}: cannot be read as TOML: {reason}") from error
    try:
        return params_from_dict(cls, values)
    except ParameterError as error:
        raise type(error)(f"{path}: {error}") from error


def _pairs(component: str, given: Any, built: Any) -> Iterator[tuple[Any, Any]]:
    if component == "events":
        yield from zip(given, built, strict=True)
    else:
        yield given, built


def _refuse_unused(
    component: str, given: Any, built: Any, used: frozenset[str], selector: str
) -> None:
    if not isinstance(given, dict):
        return
    defaults = {field.name: field.default for field in dataclasses.fields(built)}
    for name in given:
        # What stands at its default says nothing: `to_dict` writes every field.
        if name != selector and name not in used and getattr(built, name) != defaults[name]:
            chosen = getattr(built, selector)
            raise ParameterError(
                f"{component}: {name} is given, but {selector} {chosen!r} does not use it"
            )
