"""What a step costs on named hardware: coefficients and where they come from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver._limits import MAX_WORKERS, require, require_kind, require_whole
from brsolver.errors import OutputError, ParameterError, UnknownNameError
from brsolver.hardware._toml import REQUIRED, load_fields, written
from brsolver.hardware.evidence import Evidence
from brsolver.hardware.step_time import StepTime

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXTS = ("source", "licence", "conditions")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SUFFIX = ".toml"

DEFAULT_HARDWARE = "minimax-m2.7-h200-dp4"
"""Of runs that name none: whole steps of a real engine, its attention data parallel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A step time, what it was measured on, and how well it is known.

    Attributes
    ----------
    name : str
        Letters, digits and ``. _ + -``.
    step_time : StepTime
        Its ``hardware`` is `name`, for labels and reports.
    source, licence, conditions : str
        Where the coefficients come from, under which licence what they were fitted to stands,
        and what they hold for.
    fit : Evidence
    gpus_per_worker : int
        GPUs that a rank is spread over: tensor and pipeline parallelism within it.
    expert_parallel : bool
        Whether it holds for engines whose ranks share experts out (vLLM's
        ``--enable-expert-parallel``).
    """

    name: str
    step_time: StepTime
    source: str = ""
    licence: str = ""
    conditions: str = ""
    fit: Evidence = field(default_factory=Evidence)
    gpus_per_worker: int = 1
    expert_parallel: bool = False

    def __post_init__(self) -> None:
        require_name("name", self.name)
        for name in TEXTS:
            value = getattr(self, name)
            require(isinstance(value, str), f"{name} is {value!r}, must be a text")
        require_kind("step_time", self.step_time, StepTime)
        require_kind("fit", self.fit, Evidence)
        require_whole("gpus_per_worker", self.gpus_per_worker, 1, MAX_WORKERS)
        require_kind("expert_parallel", self.expert_parallel, bool)
        object.__setattr__(self, "step_time", replace(self.step_time, hardware=self.name))

    @classmethod
    def from_toml(cls, path: str | Path) -> Hardware:
        """Load from a TOML file.

        Raises
        ------
        ParameterError
            The file cannot be read, a coefficient is missing, negative or not finite, or a key
            is unknown; names file, key, value and what is accepted.
        """
        try:
            return cls(**load_fields(Path(path), [each.name for each in fields(cls)]))
        except ParameterError as error:
            raise type(error)(f"{path}: {error}") from error

    def coefficients(self) -> dict[str, Any]:
        """Return its step-time model and coefficients, without those that are 0 and may be."""
        model = self.step_time.model
        uses = StepTime.CHOICES.uses[model]
        held = {name: getattr(self.step_time, name) for name in uses if name != "hardware"}
        told = {n: v for n, v in held.items() if n in REQUIRED[model] or v not in (0.0, ())}
        return {"model": model, **told}

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, as `to_toml` writes them."""
        texts = {name: getattr(self, name) for name in TEXTS}
        return {
            "name": self.name,
            **{name: text for name, text in texts.items() if text},
            **({"gpus_per_worker": self.gpus_per_worker} if self.gpus_per_worker > 1 else {}),
            **({"expert_parallel": True} if self.expert_parallel else {}),
            "step_time": self.coefficients(),
            "fit": self.fit.given(),
        }

    def to_toml(self, path: str | Path) -> None:
        """Write a TOML file that `from_toml` reads.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        try:
            Path(path).write_text(written(self.to_dict()), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def require_name(label: str, name: object) -> None:
    """Raise `ParameterError` unless hardware can be called `name`."""
    require(
        isinstance(name, str) and _NAME.fullmatch(name) is not None,
        f"{label} is {name!r}, must be letters, digits and . _ + -, a letter or digit first",
    )


def preset_names() -> tuple[str, ...]:
    """Return the names of the hardware that brsolver knows, sorted."""
    return tuple(sorted(_presets()))


def read_hardware(text: str, folder: Path | None = None) -> Hardware:
    """Return hardware by its name, or from a file.

    Parameters
    ----------
    text : str
        Name of a preset, or path of a file ``….toml``.
    folder : Path, optional
        Where a file is looked for; default the working directory.

    Raises
    ------
    UnknownNameError
        There is no preset of that name.
    ParameterError
        As in `Hardware.from_toml`.
    """
    if text.lower().endswith(_SUFFIX):
        return Hardware.from_toml((folder or Path()) / text)
    presets = _presets()
    if text not in presets:
        raise UnknownNameError.suggest("hardware", text, (*presets, "FILE.toml"))
    return Hardware.from_toml(presets[text])


def step_time_of(text: str, folder: Path | None = None) -> StepTime:
    """Return the step time of hardware by its name, or from a file; see `read_hardware`."""
    return read_hardware(text, folder).step_time


@cache
def default_step_time() -> StepTime:
    """Return the step time of runs that name no hardware: that of `DEFAULT_HARDWARE`."""
    return step_time_of(DEFAULT_HARDWARE)


def _presets() -> Mapping[str, Path]:
    # Installed as files: the wheel is unpacked, as numba's caches ask for.
    place = Path(str(files("brsolver.hardware") / "presets"))
    return {path.stem: path for path in place.glob(f"*{_SUFFIX}")}
