"""The hardware to choose from: what a step costs there, and how many workers it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver._limits import MAX_COUNT, MAX_SLOTS, MAX_WORKERS, require_whole
from brsolver.errors import ParameterError
from brsolver.hardware.model import Hardware, preset_names, read_hardware
from brsolver.specs import build_params, parse_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brsolver.simulator.params import SimulationParams

UNNAMED = "as-given"
"""What hardware is called whose step time has no name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    workers: int | None = None
    slots: int | None = None
    capacity: int | None = None

    def __post_init__(self) -> None:
        for name, most in (("workers", MAX_WORKERS), ("slots", MAX_SLOTS), ("capacity", MAX_COUNT)):
            if (value := getattr(self, name)) is not None:
                require_whole(name, value, 1, most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to use the GPUs.

    Attributes
    ----------
    hardware : Hardware
    workers : int
        Ranks G.
    slots : int
        Slots B per worker where they are not searched.
    capacity : int or None
        KV tokens per worker.
    fixed : bool
        Whether its slots were given, and are not searched.
    """

    hardware: Hardware
    workers: int
    slots: int
    capacity: int | None
    fixed: bool = False

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.hardware.name}, G={self.workers}"


def read_layouts(
    texts: Sequence[str], base: SimulationParams, *, gpus: int | None = None, slots_given: bool
) -> tuple[Layout, ...]:
    """Read the hardware to choose from.

    Parameters
    ----------
    texts : sequence of str
        ``NAME`` or ``FILE.toml``, with what is its own: ``NAME:workers=G,slots=B,capacity=K``. None
        at all is the step time of `base`.
    base : SimulationParams
        Whose workers, slots and capacity hold where nothing else is said.
    gpus : int, optional
        How many GPUs there are: each hardware then has as many workers as they make, each of its
        ``gpus_per_worker``, and all have as many slots together as `base` has.
    slots_given : bool
        Whether the slots of `base` were asked for: then they are every layout's.

    Raises
    ------
    ParameterError
        A text is no hardware, is given twice, or the GPUs make no whole number of workers.
    """
    if gpus is not None:
        require_whole("gpus", gpus, 1, MAX_WORKERS)
    parsed = [_parsed(text) for text in texts] or [(_own(base), _Given())]
    layouts = tuple(_layout(*each, base, gpus, slots_given=slots_given) for each in parsed)
    names = [layout.name for layout in layouts]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"hardware names {name!r} twice, must name each once")
    return layouts


def _parsed(text: str) -> tuple[Hardware, _Given]:
    name, values = parse_spec(text)
    return read_hardware(name), build_params(_Given, values, f"hardware {name}")


def _own(base: SimulationParams) -> Hardware:
    step_time = base.step_time
    if step_time.hardware in preset_names():
        preset = read_hardware(step_time.hardware)
        if preset.step_time == step_time:
            return preset
    return Hardware(name=step_time.hardware or UNNAMED, step_time=step_time)


def _layout(
    hardware: Hardware,
    given: _Given,
    base: SimulationParams,
    gpus: int | None,
    *,
    slots_given: bool,
) -> Layout:
    workers = given.workers or _workers(hardware, base, gpus)
    own, capacity = _one("slots", base.slots), _one("capacity", base.capacity)
    spread = max(1, own * base.workers // workers)
    return Layout(
        hardware=hardware,
        workers=workers,
        slots=given.slots or (own if slots_given or workers == base.workers else spread),
        capacity=given.capacity or capacity or None,
        fixed=slots_given or given.slots is not None,
    )


def _workers(hardware: Hardware, base: SimulationParams, gpus: int | None) -> int:
    if gpus is None:
        return base.workers
    each = hardware.gpus_per_worker
    if gpus % each:
        raise ParameterError(
            f"gpus is {gpus}, must be a multiple of {each}, the GPUs of a worker of {hardware.name}"
        )
    return gpus // each


def _one(name: str, value: int | tuple[int, ...] | None) -> int:
    if isinstance(value, tuple):
        listed = ",".join(map(str, value))
        raise ParameterError(f"{name} is {listed}, must be one number where a server is tuned")
    return value or 0
