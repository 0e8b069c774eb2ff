"""The file that tuning writes, and what each of its readers takes from it.

Nothing stands in it twice: ``[router]`` says how to route, ``[engine]`` what the engines are
started with, ``[simulation]`` what else a simulation of them needs, and ``[tuned]``, by which the
file is known, where all that comes from. ``[adapter]`` and ``[picker]`` are for what the user adds
for one reader alone.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

MARK = "tuned"
"""Table by which the file is known."""
TABLES = (MARK, "router", "engine", "simulation", "adapter", "picker")
OWN = ("adapter", "picker")
"""Tables that are the user's, and kept where the file is written again."""
_PUBLISHED = "published"
"""What the file calls the published default as its recommendation."""
_ENGINE = ("workers", "slots", "capacity", "prefill")
_ROUTER = (
    *("policy", "mode", "predictor", "hardware", "prefill", "refresh_steps", "request_tokens"),
    *("slo_ttft_ms", "slo_tpot_ms", "seed"),
)


def is_tuned(values: Mapping[str, Any]) -> bool:
    """Tell whether a TOML file's contents are of a file that tuning wrote."""
    return isinstance(values.get(MARK), dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a tuned file says, by table.

    Attributes
    ----------
    facts : mapping of str to object
        ``[tuned]``: trace, goal, gain.
    router : mapping of str to object
        ``[router]``: `policy`, `mode`, `predictor`, `hardware` (a preset, or a file seen from the
        folder of this one), `prefill`, `refresh_steps`, `request_tokens`, `slo_ttft_ms`,
        `slo_tpot_ms` and `seed`, as the vLLM adapter and the picker call them.
    engine : mapping of str to object
        ``[engine]``: `workers`, `slots`, `capacity` and the table `prefill`, as simulations call
        them.
    simulation : mapping of str to object
        Further parameters of a simulation.
    own : mapping of str to mapping
        ``[adapter]`` and ``[picker]``.
    """

    facts: Mapping[str, Any]
    router: Mapping[str, Any]
    engine: Mapping[str, Any]
    simulation: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Tuned:
        """Take a file's contents apart.

        Raises
        ------
        ParameterError
            A table is missing, unknown or none, or says something that nobody reads.
        """
        for name, value in values.items():
            if name not in TABLES:
                raise UnknownNameError.suggest("table of a tuned file", name, TABLES)
            if not isinstance(value, dict):
                raise ParameterError(f"{name} is {value!r}, must be a table: [{name}]")
        tables = {name: values.get(name, {}) for name in TABLES}
        _check_keys("[router]", tables["router"], _ROUTER)
        _check_keys("[engine]", tables["engine"], _ENGINE)
        if not isinstance(tables["router"].get("policy"), str):
            raise ParameterError(
                "[router]: policy is missing, must be a text: NAME[:KEY=VALUE,...]"
            )
        return cls(
            facts=tables[MARK],
            router=tables["router"],
            engine=tables["engine"],
            simulation=tables["simulation"],
            own={name: tables[name] for name in OWN if tables[name]},
        )

    @property
    def policy(self) -> str:
        """The policy and its parameters, as a specification."""
        return str(self.router["policy"])

    @property
    def predictor(self) -> str | None:
        """Where forecasts come from; None leaves it to each reader."""
        return self.router.get("predictor")

    def for_simulation(self) -> dict[str, Any]:
        """Return what `SimulationParams` are built from, files seen from this file's folder."""
        same = ("hardware", "refresh_steps", "request_tokens", "slo_ttft_ms", "slo_tpot_ms")
        values = {name: self.router[name] for name in same if name in self.router}
        if "mode" in self.router:
            values["routing"] = self.router["mode"]
        return {**self.simulation, **values, **self.engine}

    def for_adapter(self) -> dict[str, Any]:
        """Return what the vLLM adapter is told.

        Where the published default is to run as it is, that is vLLM itself: the adapter looks on.
        """
        looks_on = self.facts.get("recommended") == _PUBLISHED
        mode = {"mode": "observe"} if looks_on else {}
        return {**self.router, **mode, **self.own.get("adapter", {})}

    def for_picker(self, folder: Path | None = None) -> dict[str, Any]:
        """Return what the picker is told: what it routes with, and what engines can hold.

        Parameters
        ----------
        folder : Path, optional
            What hardware that is a file is seen from, where that is not the reader's own folder.
        """
        values = {name: self.engine[name] for name in ("slots", "capacity") if name in self.engine}
        budget = self.engine.get("prefill", {}).get("budget")
        if budget is not None:
            values["budget"] = budget
        values = {**self.router, **values, **self.own.get("picker", {})}
        hardware = values.get("hardware")
        if folder is not None and isinstance(hardware, str) and hardware.endswith(".toml"):
            values["hardware"] = str(folder / hardware)
        return values


def read_tuned(path: str | Path) -> Tuned | None:
    """Read a file if it is one that tuning wrote; None if it is any other TOML file.

    Raises
    ------
    ParameterError
        It cannot be read, or as in `Tuned.of`; names the file.
    """
    values = read_toml(path)
    if not is_tuned(values):
        return None
    try:
        return Tuned.of(values)
    except ParameterError as error:
        raise type(error)(f"{path}: {error}") from error


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ParameterError
        It cannot be read; names the file.
    """
    try:
        with Path(path).open("rb") as stream:
            return tomllib.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        # What is not TOML or not UTF-8 is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"{path}: cannot be read as TOML: {reason}") from error


def _check_keys(owner: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in values:
        if name not in known:
            raise UnknownNameError.suggest(f"key of {owner}", name, known)
