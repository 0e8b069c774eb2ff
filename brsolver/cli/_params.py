"""How options on the command line become parameters of a simulation."""

from __future__ import annotations

import csv
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from brsolver.errors import ParameterError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brsolver.compare import TraceSource
    from brsolver.simulator.params import (
        Arrivals,
        Prefill,
        SimulationParams,
        Staleness,
        StepTime,
        WorkerEvent,
    )

KNOBS = ("horizon", "gamma", "beta", "alpha", "r_max", "s_greedy")
_EVENT = re.compile(
    r"(?P<worker>\d{1,18})@(?P<time>\d{1,18}(\.\d*)?([eE][+-]?\d{1,3})?)(?P<unit>s?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The shared options as given; None where one was not."""

    slots: str | None
    capacity: str | None
    routing: str | None
    step_time: str | None
    fail: list[str] | None
    join: list[str] | None
    pool: int | None
    rate: float | None
    utilization: float | None
    timestamps: bool
    prefill: str | None
    horizon: int | None
    gamma: float | None
    beta: float | None
    alpha: float | None
    r_max: int | None
    s_greedy: int | None
    transit_steps: int | None
    refresh_steps: int | None
    stale_ms: float | None
    stale_steps: int | None
    stale_mode: str | None
    local_correction: bool | None
    seed: int | None
    warmup_steps: int | None
    drain: bool | None
    max_steps: int | None
    config: str | None
    limit: int | None
    format: str | None
    skip_bad_rows: bool

    @classmethod
    def pick(cls, given: Mapping[str, Any]) -> Self:
        """Take the shared options out of a command's arguments."""
        return cls(**{field.name: given[field.name] for field in dataclasses.fields(cls)})

    def source(self, trace: str) -> TraceSource:
        """Say where the trace comes from."""
        from brsolver.compare import TraceSource

        return TraceSource(
            source=trace,
            reader=self.format,
            limit=self.limit,
            skip_bad_rows=self.skip_bad_rows,
        )

    def knobs(self) -> dict[str, int | float]:
        """Return the policy parameters given as options."""
        given = ((name, getattr(self, name)) for name in KNOBS)
        return {name: value for name, value in given if value is not None}


def simulation_params(options: RunOptions, *, workers: int | None) -> SimulationParams:
    """Combine the configuration file, if any, with the options, which go first."""
    from brsolver.simulator.params import SimulationParams

    base = SimulationParams.from_toml(options.config) if options.config else SimulationParams()
    events = (*parse_events("fail", options.fail), *parse_events("join", options.join))
    parsed: dict[str, Any] = {
        "workers": workers,
        "slots": parse_counts("slots", options.slots),
        "capacity": parse_counts("capacity", options.capacity),
        "routing": options.routing,
        "arrivals": _arrivals(options),
        "prefill": None if options.prefill is None else parse_prefill(options.prefill),
        "step_time": None if options.step_time is None else parse_step_time(options.step_time),
        "staleness": _staleness(options, base.staleness),
        "events": events or None,
        "transit_steps": options.transit_steps,
        "refresh_steps": options.refresh_steps,
        "seed": options.seed,
        "warmup_steps": options.warmup_steps,
        "drain": {None: None, True: "include", False: "exclude"}[options.drain],
        "max_steps": options.max_steps,
    }
    return dataclasses.replace(base, **_given(parsed))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _arrivals(options: RunOptions) -> Arrivals | None:
    from brsolver.simulator.params import Arrivals

    chosen = {
        "pool": options.pool is not None,
        "rate": options.rate is not None,
        "utilization": options.utilization is not None,
        "timestamps": options.timestamps,
    }
    modes = [mode for mode, given in chosen.items() if given]
    if len(modes) > 1:
        raise ParameterError(f"--{modes[0]} and --{modes[1]} exclude each other; give one")
    if not modes:
        return None
    return Arrivals(
        mode=modes[0],  # type: ignore[arg-type] # one of the four keys above
        pool=options.pool,
        rate=options.rate,
        utilization=options.utilization,
    )


def _staleness(options: RunOptions, base: Staleness) -> Staleness | None:
    given = _given(
        {
            "steps": options.stale_steps,
            "ms": options.stale_ms,
            "mode": options.stale_mode,
            "local_correction": options.local_correction,
        }
    )
    if not given:
        return None
    # A configured age in the other unit would contradict the one given here.
    if ("steps" in given) != ("ms" in given):
        given = {"steps": 0, "ms": 0.0} | given
    return dataclasses.replace(base, **given)


def parse_counts(name: str, text: str | None) -> int | tuple[int, ...] | None:
    """Read ``"32"`` or, one number per worker, ``"8,8,16"``."""
    if text is None:
        return None
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ParameterError(
            f"{name} is {text!r}, must be a whole number or several: 8,8,16"
        ) from None
    return counts[0] if len(counts) == 1 else counts


def parse_workers(text: str | None) -> tuple[int, ...]:
    """Read ``"4,8,16"``; nothing given is empty."""
    counts = parse_counts("workers", text)
    if counts is None:
        return ()
    return counts if isinstance(counts, tuple) else (counts,)


def parse_step_time(spec: str) -> StepTime:
    """Read a step-time model: ``affine:…``, ``max-mean:…`` or ``table:path=FILE``."""
    from brsolver.simulator.params import StepTime
    from brsolver.specs import build_params, parse_spec

    model, values = parse_spec(spec)
    accepted = {
        "affine": ("base", "per_token"),
        "max-mean": ("base", "per_token", "per_mean_token"),
        "table": ("path",),
    }
    _check_names("step-time", model, values, accepted)
    if model == "table":
        if "path" not in values:
            raise ParameterError(f"step-time {spec!r} names no file; write table:path=FILE.csv")
        return read_step_table(values["path"])
    return build_params(StepTime, {"model": model, **values}, "step-time")


def parse_prefill(spec: str) -> Prefill:
    """Read a prefill model: ``none``, ``delay:…`` or ``tier:…``."""
    from brsolver.simulator.params import Prefill
    from brsolver.specs import build_params, parse_spec

    mode, values = parse_spec(spec)
    accepted = {
        "none": (),
        "delay": ("delay_s", "tokens_per_s"),
        "tier": ("workers", "tokens_per_s"),
    }
    _check_names("prefill", mode, values, accepted)
    return build_params(Prefill, {"mode": mode, **values}, "prefill")


def _check_names(
    owner: str, name: str, values: Mapping[str, str], accepted: Mapping[str, Sequence[str]]
) -> None:
    if name not in accepted:
        raise UnknownNameError.suggest(f"{owner} model", name, accepted)
    for key in values:
        if key not in accepted[name]:
            raise UnknownNameError.suggest(f"parameter of {owner} {name}", key, accepted[name])


def read_step_table(path: str) -> StepTime:
    """Read measured step durations from a CSV file with the columns load, seconds.

    Raises
    ------
    ParameterError
        The file cannot be read, or a row is not two numbers; names file and row.
    """
    from brsolver.simulator.params import StepTime

    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            rows = [(number, row) for number, row in enumerate(csv.reader(stream), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"step-time table {path}: cannot be read: {reason}") from error
    if rows and _is_header(rows[0][1]):
        del rows[0]
    pairs = [_table_row(path, number, row) for number, row in rows]
    try:
        return StepTime(
            model="table",
            loads=tuple(load for load, _ in pairs),
            seconds=tuple(seconds for _, seconds in pairs),
        )
    except ParameterError as error:
        raise ParameterError(f"step-time table {path}: {error}") from error


def _is_header(row: Sequence[str]) -> bool:
    return not any(any(c.isdigit() for c in cell) for cell in row)


def _table_row(path: str, number: int, row: Sequence[str]) -> tuple[float, float]:
    try:
        load, seconds = map(float, row)
    except ValueError:
        raise ParameterError(
            f"step-time table {path}, row {number}: {','.join(row)!r} is not load,seconds"
        ) from None
    return load, seconds


def parse_events(kind: str, texts: Sequence[str] | None) -> list[WorkerEvent]:
    """Read workers that fail or join: ``"3@12.5s"`` in seconds, ``"3@400"`` in steps."""
    return [_parse_event(kind, text) for text in texts or ()]


def _parse_event(kind: str, text: str) -> WorkerEvent:
    from brsolver.simulator.params import WorkerEvent

    match = _EVENT.fullmatch(text.strip())
    in_seconds = match is not None and match["unit"] == "s"
    if match is None or not (in_seconds or match["time"].isdigit()):
        raise ParameterError(
            f"--{kind} {text!r} is not WORKER@TIME, e.g. 3@12.5s (seconds) or 3@400 (steps)"
        )
    return WorkerEvent(
        kind=kind,  # type: ignore[arg-type] # "fail" or "join", from the two options
        worker=int(match["worker"]),
        at_s=float(match["time"]) if in_seconds else None,
        at_step=None if in_seconds else int(match["time"]),
    )


def apply_knobs(specs: Sequence[str], knobs: Mapping[str, int | float]) -> tuple[str, ...]:
    """Give every policy the knobs it has; what its specification sets itself stays.

    Raises
    ------
    ParameterError
        No policy has a parameter of that name.
    """
    if not knobs:
        return tuple(specs)
    fields = {spec: _fields_of(spec) for spec in specs}
    for knob in knobs:
        if not any(knob in names for names in fields.values()):
            raise ParameterError(_refusal(knob, fields))
    return tuple(_with_knobs(spec, knobs, fields[spec]) for spec in specs)


def _fields_of(spec: str) -> list[str]:
    from brsolver.registry import policy_class
    from brsolver.specs import parse_spec

    params = getattr(policy_class(parse_spec(spec)[0]), "Params", None)
    return [] if params is None else [field.name for field in dataclasses.fields(params)]


def _refusal(knob: str, fields: Mapping[str, Sequence[str]]) -> str:
    option = "--" + knob.replace("_", "-")
    if len(fields) > 1:
        return f"{option}: none of {', '.join(fields)} has a parameter {knob}"
    ((spec, names),) = fields.items()
    return f"{option}: {spec} has no parameter {knob}; it has {', '.join(names) or 'none'}"


def _with_knobs(spec: str, knobs: Mapping[str, int | float], names: Sequence[str]) -> str:
    from brsolver.specs import parse_spec

    name, own = parse_spec(spec)
    values = own | {k: str(v) for k, v in knobs.items() if k in names and k not in own}
    settings = ",".join(f"{key}={value}" for key, value in values.items())
    return f"{name}:{settings}" if settings else name
