"""What the adapter is told: one environment variable, or a TOML file that it names."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from brsolver._limits import MAX_REQUEST_TOKENS
from brsolver.errors import ParameterError
from brsolver.registry import PolicySpec, PredictorSpec
from brsolver.specs import build_params
from brsolver.tuned import Tuned, is_tuned
from integration.recording import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUTER = "BRSOLVER_ROUTER"
MODE = "BRSOLVER_MODE"
PREDICTOR = "BRSOLVER_PREDICTOR"
RECORD = "BRSOLVER_RECORD"
STEPS = "BRSOLVER_STEPS"
"""Read by the engines: see `integration.vllm.step_log`."""

MOST_MIB = 1_000_000
_PREFIX = "BRSOLVER_"
_RIG = ("BRSOLVER_RIG_", "BRSOLVER_VLLM_RIG")
"""What variables of the project's own tests and measurements begin with."""
_NEAR = 0.7
_OVERRIDES = MappingProxyType({MODE: "mode", PREDICTOR: "predictor", RECORD: "record"})
_TABLES = ("parameters", "predictor_parameters")
_NOTHING: Mapping[str, object] = MappingProxyType({})

Stamp: TypeAlias = tuple[int, int]


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
    request_tokens : int or "auto"
        KV tokens that a request weighs besides those it holds, see
        `ClusterView.request_tokens`; ``auto`` is what is measured while serving, 0 until then.
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
        How long a policy may leave slots free into which the oldest held request would fit,
        beyond what it says of itself (`brsolver.policy.BasePolicy.holds_s`); longer is a failure.
    hardware : str or None
        Preset, or path of a file ``….toml`` as ``brsolver vllm calibrate`` writes it, that says
        what a step costs; a relative path is seen from the folder of the file that names it. None
        takes what is found out while serving.
    prefill : bool or "auto"
        Whether ranks compute prompts; ``auto`` is what vLLM's configuration tells.
    slo_ttft_ms, slo_tpot_ms : float or None
        Promised times to the first token, and per token after it; None promises nothing.
    identify : bool
        Whether to find out, from the steps that are seen, what a step costs.
    record : str or None
        Where to write the trace of what was served, as JSON lines; None writes none.
    record_mib : int or None
        MiB of it from which on it becomes ``….jsonl.1``, in place of the one before, and a new one
        is begun; None is no limit.
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
    request_tokens: int | Literal["auto"] = 0
    budget_ms: float = 25.0
    max_failures: int = 5
    settle_ms: float = 2.0
    overtakes: float = 4.0
    stall_s: float = 1.0
    hardware: str | None = None
    prefill: bool | Literal["auto"] = "auto"
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    identify: bool = True
    record: str | None = None
    record_mib: int | None = None
    reload_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _within("refresh_steps", self.refresh_steps, 1, 1_000_000, "steps")
        if self.request_tokens != "auto":
            _within("request_tokens", self.request_tokens, 0, MAX_REQUEST_TOKENS, "KV tokens")
        _within("budget_ms", self.budget_ms, 0.1, 60_000, "ms")
        _within("max_failures", self.max_failures, 1, 1_000_000, "failures")
        _within("settle_ms", self.settle_ms, 0, 1000, "ms")
        _within("overtakes", self.overtakes, 0, 1_000_000, "times")
        _within("stall_s", self.stall_s, 0.01, 3600, "s")
        for name in ("slo_ttft_ms", "slo_tpot_ms"):
            if (promised := getattr(self, name)) is not None:
                _within(name, promised, 0.001, 86_400_000, "ms")
        _within("reload_s", self.reload_s, 0, 86_400, "s")
        _within("seed", self.seed, 0, 2**63 - 1, "")
        if self.record is not None and Path(self.record).suffix != ".jsonl":
            raise ParameterError(f"record is {self.record!r}, must end in .jsonl")
        if self.record_mib is not None:
            _within("record_mib", self.record_mib, 1, MOST_MIB, "MiB")

    @property
    def record_bytes(self) -> int | None:
        """`record_mib` in bytes."""
        return None if self.record_mib is None else self.record_mib * MIB


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """`AdapterParams`, and the policy and predictor that they name.

    These are read once, when they are first asked for: all of vLLM's processes load the plug-in,
    and those that route nothing are spared the import of policies.

    Attributes
    ----------
    params : AdapterParams
    policy_table, predictor_table : mapping of str to object
        Parameters from a TOML file, which win over those in the specifications.
    source : str
        Where it was read from, for messages.
    stamp : tuple of int or None
        The file's `stamp_of` as it was read; None if it was not read here.
    """

    params: AdapterParams
    policy_table: Mapping[str, object]
    predictor_table: Mapping[str, object]
    source: str
    stamp: Stamp | None = None

    @property
    def folder(self) -> Path:
        """What relative paths are seen from: the file's folder, or else the working directory."""
        return Path(self.source).parent if self.source != ROUTER else Path()

    @cached_property
    def policy(self) -> PolicySpec:
        """The policy, parameters from the file included.

        Raises
        ------
        UnknownNameError, ParameterError
            There is no such policy or parameter, or it cannot have that value.
        """
        return PolicySpec.parse(self.params.policy, self.policy_table)

    @cached_property
    def predictor(self) -> PredictorSpec:
        """The predictor, parameters from the file included; errors are as of `policy`."""
        return PredictorSpec.parse(self.params.predictor, self.predictor_table)


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


def stamp_of(file: Path | int) -> Stamp | None:
    """Return what changes with a file's content: when it was written, and which file it is."""
    try:
        found = os.stat(file)  # noqa: PTH116 # of a descriptor as well
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def read_with_stamp(path: Path) -> tuple[bytes, Stamp | None]:
    """Return a file's content with the stamp of that very file, whatever replaces it meanwhile.

    Raises
    ------
    OSError
        It cannot be read.
    """
    with path.open("rb") as stream:
        stamp = stamp_of(stream.fileno())
        return stream.read(), stamp


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Describe variables that look as if the adapter were to read them, which it does not."""
    return [
        f"{name} is not read: {hint}"
        for name in sorted(environ)
        if name.startswith(_PREFIX) and not name.startswith(_RIG) and (hint := _hint(name))
    ]


def _hint(name: str) -> str | None:
    known = (ROUTER, STEPS, *_OVERRIDES)
    if name in known:
        return None
    # All of them begin alike, which says nothing.
    rest = name.removeprefix(_PREFIX)
    setting = rest.lower()
    if setting != "policy" and setting in accepted():
        return f"{setting} can be set in a TOML file only"
    names = [each.removeprefix(_PREFIX) for each in known]
    near = difflib.get_close_matches(rest.upper(), names, n=1, cutoff=_NEAR)
    if near or rest.upper() == "POLICY":
        return f"did you mean {_PREFIX}{near[0] if near else 'ROUTER'}?"
    return None


def _from_file(path: Path, given: dict[str, str], content: bytes | None) -> AdapterConfig:
    stamp = None
    try:
        if content is None:
            content, stamp = read_with_stamp(path)
        values = tomllib.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        # What is not TOML or not UTF-8 is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"{path}: cannot be read as TOML: {reason}") from error
    if is_tuned(values):
        values = _told_by(values, path)
    policy_table, predictor_table = (_table(values, name, path) for name in _TABLES)
    built = _build(values | given, policy_table, predictor_table, str(path))
    return dataclasses.replace(built, stamp=stamp)


def _told_by(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what a file of ``brsolver tune`` says to the adapter."""
    try:
        return Tuned.of(values).for_adapter()
    except ParameterError as error:
        raise type(error)(f"{path}: {error}") from error


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
    return AdapterConfig(
        params=build_params(AdapterParams, values, source, convert_texts=False),
        policy_table=policy_table,
        predictor_table=predictor_table,
        source=source,
    )


def _within(name: str, value: float, least: float, most: float, unit: str) -> None:
    if not least <= value <= most:
        of = f" {unit}" if unit else ""
        raise ParameterError(f"{name} is {value}, must be from {least:,} to {most:,}{of}")


def accepted() -> list[str]:
    """Return the names that a TOML file may set, tables included."""
    return [field.name for field in dataclasses.fields(AdapterParams)] + list(_TABLES)
