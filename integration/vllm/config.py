"""What the adapter is told: one environment variable, or a TOML file that it names."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from brsolver.errors import ParameterError
from brsolver.registry import parse_predictor
from brsolver.specs import build_params, parse_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUTER = "BRSOLVER_ROUTER"
MODE = "BRSOLVER_MODE"
PREDICTOR = "BRSOLVER_PREDICTOR"
RECORD = "BRSOLVER_RECORD"

_PREFIX = "BRSOLVER_"
_RIG = ("BRSOLVER_RIG_", "BRSOLVER_VLLM_RIG")
"""What variables of the project's own tests and measurements begin with."""
_NEAR = 0.7
_OVERRIDES = MappingProxyType({MODE: "mode", PREDICTOR: "predictor", RECORD: "record"})
_TABLES = ("parameters", "predictor_parameters")
_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterParams:
    """How the adapter routes.

    Attributes
    ----------
    policy : str
        Policy and parameters, as on the command line: ``"br-h:horizon=40"``.
    mode : {"pooled", "immediate", "observe"}
        ``pooled`` holds requests until slots are free and then places a set of them;
        ``immediate`` places every request as it comes; ``observe`` leaves routing to vLLM and
        only keeps the books, to compare with.
    predictor : str
        Where forecasts come from, for policies that use any; ``"none"`` forecasts nothing.
    refresh_steps : int
        Decode steps between refreshes of all forecasts.
    budget_ms : float
        Time that one decision may take before vLLM's own rule decides instead.
    max_failures : int
        Failures after which the adapter stands down for good.
    settle_ms : float
        How long a freed slot waits, in pooled mode, for the other ranks to report the same step.
    overtakes : float
        How often later arrivals may refill all slots of all ranks, while no rank has room for the
        oldest held request, before that goes to vLLM's own rule: it would be held for ever.
    stall_s : float
        How long a policy may leave slots free into which the oldest held request would fit;
        longer is a failure.
    record : str or None
        Where to write the trace of what was served, as JSON lines; None writes none.
    reload_s : float
        Seconds between looks at whether the TOML file has changed, to take it in while serving;
        0 never looks.
    seed : int
        For policies that draw at random.
    """

    policy: str
    mode: Literal["pooled", "immediate", "observe"] = "pooled"
    predictor: str = "survival"
    refresh_steps: int = 32
    budget_ms: float = 25.0
    max_failures: int = 5
    settle_ms: float = 2.0
    overtakes: float = 4.0
    stall_s: float = 1.0
    record: str | None = None
    reload_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        parse_spec(self.policy)
        parse_predictor(self.predictor)
        _within("refresh_steps", self.refresh_steps, 1, 1_000_000, "steps")
        _within("budget_ms", self.budget_ms, 0.1, 60_000, "ms")
        _within("max_failures", self.max_failures, 1, 1_000_000, "failures")
        _within("settle_ms", self.settle_ms, 0, 1000, "ms")
        _within("overtakes", self.overtakes, 0, 1_000_000, "times")
        _within("stall_s", self.stall_s, 0.01, 3600, "s")
        _within("reload_s", self.reload_s, 0, 86_400, "s")
        _within("seed", self.seed, 0, 2**63 - 1, "")
        if self.record is not None and Path(self.record).suffix != ".jsonl":
            raise ParameterError(f"record is {self.record!r}, must end in .jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """`AdapterParams` and the tables of parameters that a TOML file can hold.

    Attributes
    ----------
    params : AdapterParams
    policy, predictor : str
        Their names alone.
    policy_parameters, predictor_parameters : mapping of str to object
        From the specification string and, which wins, the file.
    source : str
        Where it was read from, for messages.
    """

    params: AdapterParams
    policy: str
    predictor: str
    policy_parameters: Mapping[str, object]
    predictor_parameters: Mapping[str, object]
    source: str


def from_environment(
    environ: Mapping[str, str], *, content: bytes | None = None
) -> AdapterConfig | None:
    """Read the configuration, or None where `BRSOLVER_ROUTER` names nothing.

    Parameters
    ----------
    environ : mapping of str to str
    content : bytes, optional
        Of the TOML file that `BRSOLVER_ROUTER` names, if it has been read already.

    Raises
    ------
    ParameterError
        A variable or the file holds something that cannot be.
    """
    value = environ.get(ROUTER, "").strip()
    if not value:
        return None
    given = {
        field: environ[variable].strip()
        for variable, field in _OVERRIDES.items()
        if environ.get(variable, "").strip()
    }
    if value.endswith(".toml"):
        return _from_file(Path(value), given, content)
    return _build({"policy": value} | given, _NOTHING, _NOTHING, ROUTER)


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Describe variables that look as if the adapter were to read them, which it does not."""
    return [
        f"{name} is not read: {hint}"
        for name in sorted(environ)
        if name.startswith(_PREFIX) and not name.startswith(_RIG) and (hint := _hint(name))
    ]


def _hint(name: str) -> str | None:
    known = (ROUTER, *_OVERRIDES)
    if name in known:
        return None
    # All of them begin alike, which says nothing.
    rest = name.removeprefix(_PREFIX)
    names = [each.removeprefix(_PREFIX) for each in known]
    near = difflib.get_close_matches(rest.upper(), names, n=1, cutoff=_NEAR)
    if near or rest.upper() == "POLICY":
        return f"did you mean {_PREFIX}{near[0] if near else 'ROUTER'}?"
    setting = rest.lower()
    return f"{setting} can be set in a TOML file only" if setting in accepted() else None


def _from_file(path: Path, given: dict[str, str], content: bytes | None) -> AdapterConfig:
    try:
        text = (path.read_bytes() if content is None else content).decode()
        values = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        # What is not TOML or not UTF-8 is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"{path}: cannot be read as TOML: {reason}") from error
    policy_table, predictor_table = (_table(values, name, path) for name in _TABLES)
    return _build(values | given, policy_table, predictor_table, str(path))


def _table(values: dict[str, Any], name: str, path: Path) -> Mapping[str, object]:
    table = values.pop(name, {})
    if not isinstance(table, dict):
        raise ParameterError(f"{path}: {name} is {table!r}, must be a table")
    return table


def _build(
    values: Mapping[str, object],
    policy_table: Mapping[str, object],
    predictor_table: Mapping[str, object],
    source: str,
) -> AdapterConfig:
    params = build_params(AdapterParams, values, source, convert_texts=False)
    policy, policy_values = parse_spec(params.policy)
    predictor, predictor_values = parse_predictor(params.predictor)
    return AdapterConfig(
        params=params,
        policy=policy,
        predictor=predictor,
        policy_parameters={**policy_values, **policy_table},
        predictor_parameters={**predictor_values, **predictor_table},
        source=source,
    )


def _within(name: str, value: float, least: float, most: float, unit: str) -> None:
    if not least <= value <= most:
        of = f" {unit}" if unit else ""
        raise ParameterError(f"{name} is {value}, must be from {least:,} to {most:,}{of}")


def accepted() -> list[str]:
    """Return the names that a TOML file may set, tables included."""
    return [field.name for field in dataclasses.fields(AdapterParams)] + list(_TABLES)
