"""The TOML file that simulations, the vLLM adapter and the picker load."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver._version import __version__
from brsolver.errors import ParameterError
from brsolver.hardware._toml import key_of, written
from brsolver.hardware.model import preset_names, read_hardware
from brsolver.simulator.params import SimulationParams
from brsolver.traces.atomic import replacing
from brsolver.tuned import OWN, read_toml
from brsolver.tuning.flags import adapter_line, looking_on_line, start_line
from brsolver.tuning.study import PUBLISHED
from brsolver.tuning.wording import sentences

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.tuning.candidate import Candidate
    from brsolver.tuning.result import TuneResult, Validated

FILE, HARDWARE = "tuned.toml", "hardware.toml"
_ELSEWHERE = (
    *("workers", "slots", "capacity", "routing", "step_time", "prefill", "refresh_steps"),
    *("request_tokens", "slo_ttft_ms", "slo_tpot_ms"),
)
"""Parameters of a run that stand in other tables than ``[simulation]``."""
_LINE = 96


def write_tuned(result: TuneResult, folder: str | Path) -> Path | None:
    """Write ``tuned.toml``, and ``hardware.toml`` beside it unless a preset says the same.

    Tables ``[adapter]`` and ``[picker]`` of a file that is replaced are kept.

    Parameters
    ----------
    result : TuneResult
    folder : str or Path
        It must be there.

    Returns
    -------
    Path or None
        The file; None if nothing was validated, and nothing is written.

    Raises
    ------
    OutputError
        It cannot be written.
    ParameterError
        As of `own_tables`.
    """
    chosen = result.chosen
    if chosen is None:
        return None
    path = Path(folder) / FILE
    own = own_tables(folder)
    hardware = chosen.candidate.layout.hardware
    if not _is_preset(chosen.candidate):
        with replacing(Path(folder) / HARDWARE) as part:
            hardware.to_toml(part)
    with replacing(path) as part:
        part.write_text(tuned_text(result, own=own), encoding="utf-8")
    return path


def own_tables(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Return what the user has added to a folder's ``tuned.toml``, whatever else stands there.

    Parameters
    ----------
    folder : str or Path
        It need not be there.

    Raises
    ------
    ParameterError
        The file is there and cannot be read, so that what it has of the user's would be lost.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return {}
    try:
        values = read_toml(path)
    except ParameterError as error:
        raise ParameterError(
            f"{error}; must be TOML, or moved away, for its [adapter] and [picker] to be kept"
        ) from error
    found = {name: values[name] for name in OWN if name in values}
    for name, table in found.items():
        if not isinstance(table, dict):
            raise ParameterError(f"{path}: {name} is {table!r}, must be a table: [{name}]")
    return found


def _flat(name: str, table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a table, and those within it, by their dotted names."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    flat = {name: {key: value for key, value in table.items() if key not in inner}}
    for key, value in inner.items():
        flat |= _flat(f"{name}.{key_of(key)}", value)
    return flat


def _is_preset(candidate: Candidate) -> bool:
    hardware = candidate.layout.hardware
    return (
        hardware.name in preset_names()
        and read_hardware(hardware.name).step_time == hardware.step_time
    )


def tuned_text(result: TuneResult, *, own: Mapping[str, Any] | None = None) -> str:
    """Return the file's text.

    Parameters
    ----------
    result : TuneResult
        Of which something was validated.
    own : mapping of str to mapping, optional
        Tables of the user's, by name.
    """
    chosen = result.chosen
    if chosen is None:
        raise ParameterError("nothing was validated, must be for a file to be written")
    tables = {
        "tuned": _facts(result, chosen),
        "router": dict(_router(result, chosen.candidate)),
        **_engine(chosen.candidate),
        **_simulation(result, chosen.candidate),
    }
    for name, table in (own or {}).items():
        tables |= _flat(name, table)
    return "\n".join(_comments(result, chosen)) + "\n" + written(tables)


def _comments(result: TuneResult, chosen: Validated) -> Iterator[str]:
    yield f"# Written by brsolver tune {__version__}."
    for sentence in sentences(result):
        yield from _wrapped(sentence)
    yield "#"
    yield "# The engines:"
    yield f"#   {start_line(chosen, FILE)}"
    yield from _recorded(chosen)
    yield "# A simulation of it: brsolver simulate TRACE --config tuned.toml"
    yield "# In front of engines: brsolver serve --config tuned.toml --workers HOST:PORT,..."


def _recorded(chosen: Validated) -> Iterator[str]:
    """Say how what is served is recorded, to be tuned on again; only vLLM has the adapter."""
    line = looking_on_line(chosen, FILE)
    if line is not None:
        yield "# The same with the adapter, which looks on, and can record what is served:"
        yield f"#   {line}"
    if adapter_line(chosen.candidate, FILE) is not None:
        yield '# With record = "/FOLDER/served.jsonl" in [adapter] what is served is recorded; with'
        yield "# reload_s = 60.0 there vLLM takes in what a later file says while it serves."


def _wrapped(text: str) -> Iterator[str]:
    import textwrap

    for line in textwrap.wrap(text, _LINE, break_long_words=False, break_on_hyphens=False):
        yield f"# {line}"


def _facts(result: TuneResult, chosen: Validated) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "version": __version__,
        "goal": result.goal.name,
        "trace": result.trace_name,
        "trace_fingerprint": result.trace_fingerprint,
        "recommended": chosen.role,
    }
    gain = chosen.gains.get(PUBLISHED)
    if gain is not None and math.isfinite(gain.mean):
        facts |= {"gain": round(gain.mean, 4)}
        if math.isfinite(gain.half_width):
            facts |= {"gain_low": round(gain.low, 4), "gain_high": round(gain.high, 4)}
    if result.gap is not None and result.gap.gap is not None:
        facts["gap"] = round(result.gap.gap, 4)
    return facts


def _router(result: TuneResult, candidate: Candidate) -> Iterator[tuple[str, Any]]:
    params = candidate.params
    yield "policy", candidate.policy.text
    yield "mode", params.routing
    if result.predictor is not None:
        yield "predictor", result.predictor
    yield "hardware", candidate.layout.hardware.name if _is_preset(candidate) else HARDWARE
    yield "prefill", params.prefill.colocated
    yield "refresh_steps", params.refresh_steps
    yield "request_tokens", params.request_tokens
    for name in ("slo_ttft_ms", "slo_tpot_ms"):
        if (value := getattr(params, name)) is not None:
            yield name, value


def _engine(candidate: Candidate) -> dict[str, Any]:
    params, prefill = candidate.params, candidate.params.prefill
    engine: dict[str, Any] = {"workers": params.workers, "slots": params.slots}
    if params.capacity is not None:
        engine["capacity"] = params.capacity
    used = {
        name: getattr(prefill, name)
        for name in prefill.CHOICES.uses[prefill.mode]
        if prefill.CHOICES.used(prefill, name)
    }
    return {"engine": engine, "engine.prefill": {"mode": prefill.mode, **used}}


def _simulation(result: TuneResult, candidate: Candidate) -> dict[str, Any]:
    """Return what else a run had, where it is not what runs have anyway."""
    plain: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for each in fields(SimulationParams):
        value = getattr(candidate.params, each.name)
        if each.name in _ELSEWHERE:
            continue
        if each.name == "arrivals":
            # A trial's are times, which are in no file; what was asked for may be of its slots.
            told = asdict(result.arrivals).items()
            tables["simulation.arrivals"] = {name: v for name, v in told if v is not None}
        elif hasattr(value, "__dataclass_fields__"):
            changed = _changed(value)
            if changed:
                tables[f"simulation.{each.name}"] = changed
        elif value is not None and value not in ((), each.default):
            plain[each.name] = value
    return {"simulation": plain, **tables}


def _changed(component: Any) -> dict[str, Any]:
    plain = type(component)()
    return {
        each.name: getattr(component, each.name)
        for each in fields(component)
        if getattr(component, each.name) != getattr(plain, each.name)
    }
