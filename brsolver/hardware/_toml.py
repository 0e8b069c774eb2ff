"""Hardware files: reading with one line per mistake, and writing."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from datetime import date, time
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware.evidence import Evidence
from brsolver.hardware.step_time import StepTime
from brsolver.specs import build_params

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

REQUIRED = {
    "affine": ("base", "per_token"),
    "max-mean": ("base", "per_token", "per_mean_token"),
    "loads": ("base", "per_sequence", "per_token", "per_prefill_token"),
    "table": (),
}
"""Coefficients that a file must have, 0 or not: one left out would be taken for free."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_UNITS = ("ms", "us", "µs", "ns", "milliseconds", "microseconds")


def load_fields(path: Path, known: Sequence[str]) -> dict[str, Any]:
    """Read a hardware file's fields; see `brsolver.hardware.Hardware.from_toml`.

    Parameters
    ----------
    path : Path
    known : sequence of str
        Keys that it may have.

    Raises
    ------
    ParameterError
        As there, without the file's name.
    """
    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        # What is not TOML or not UTF-8 is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"cannot be read as TOML: {reason}") from error
    _check_keys("hardware file", values, known)
    for name in ("name", "step_time"):
        if name not in values:
            raise ParameterError(f"{name} is missing, must be given")
    for name in ("step_time", "fit"):
        if not isinstance(values.get(name, {}), dict):
            raise ParameterError(f"{name} is {values[name]!r}, must be a table [{name}]")
    step_time = _step_time(values["step_time"], path.parent)
    return {**values, "step_time": step_time, "fit": _evidence(values.get("fit", {}))}


def _step_time(values: Mapping[str, Any], folder: Path) -> StepTime:
    models = StepTime.CHOICES.uses
    model = values.get("model")
    if not isinstance(model, str) or model not in models:
        shown = "missing" if model is None else repr(model)
        raise ParameterError(f"step_time: model is {shown}, must be one of {', '.join(models)}")
    given = dict(values)
    path = given.pop("path", None) if model == "table" else None
    accepted = ["model", *(name for name in models[model] if name != "hardware")]
    _check_keys(f"step_time with model {model!r}", given, accepted)
    for name in REQUIRED[model]:
        if name not in given:
            raise ParameterError(f"step_time: {name} is missing, must be given in seconds")
    if path is not None:
        given |= _table(path, folder, given)
    return build_params(StepTime, given, "step_time", convert_texts=False)


def _table(path: object, folder: Path, given: Mapping[str, Any]) -> Mapping[str, object]:
    if not isinstance(path, str):
        raise ParameterError(f"step_time: path is {path!r}, must be a text")
    if len(given) > 1:
        raise ParameterError(
            f"step_time: path and {next(n for n in given if n != 'model')} are given, must be one"
        )
    return StepTime.CHOICES.files["path"].read(folder / path)


def _evidence(values: Mapping[str, Any]) -> Evidence:
    _check_keys("fit", values, [each.name for each in fields(Evidence)])
    return build_params(Evidence, values, "fit", convert_texts=False)


def _check_keys(owner: str, values: Iterable[str], known: Sequence[str]) -> None:
    for name in values:
        if name not in known:
            error = UnknownNameError.suggest(f"key of {owner}", name, known)
            unit = next((unit for unit in _UNITS if name.endswith(f"_{unit}")), "")
            hint = "; durations are in seconds, without a unit in their names" if unit else ""
            raise UnknownNameError(f"{error}{hint}")


def written(values: Mapping[str, Any]) -> str:
    """Write dictionaries of what TOML has as TOML.

    A dictionary within is a table, a name with dots one within another: ``"engine.prefill"``.
    """
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    tables = {name: value for name, value in values.items() if isinstance(value, dict) and value}
    blocks = [_block(plain), *(f"[{name}]\n{_block(table)}" for name, table in tables.items())]
    return "\n".join(blocks)


def _block(values: Mapping[str, Any]) -> str:
    return "".join(f"{key_of(name)} = {_value(value)}\n" for name, value in values.items())


def key_of(name: str) -> str:
    """Write a key, in quotes where it needs them."""
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for one character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        inner = ", ".join(f"{key_of(name)} = {_value(each)}" for name, each in value.items())
        return f"{{{inner}}}"
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
