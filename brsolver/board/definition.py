"""What a board is made of, as TOML says it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping  # noqa: TC003 # get_type_hints evaluates them
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from brsolver._limits import (
    MAX_COUNT,
    MAX_SEED,
    MAX_SLOTS,
    MAX_WORKERS,
    require,
    require_number,
    require_whole,
)
from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware.model import step_time_of
from brsolver.hardware.step_time import StepTime  # noqa: TC001 # the same
from brsolver.simulator.config import component_from
from brsolver.simulator.prefill import Prefill
from brsolver.specs import build_params, convert

MAX_SEEDS = 1000
PACKAGED = ("default", "quick")
"""Definitions that come with the package."""
PARTS = ("traces", "prefill", "regimes", "hardware")
"""What spans a board, besides policies and seeds; tables of these names in TOML."""
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardTrace:
    """A trace of a board: a public file, and what stands in for it where it is not there.

    Attributes
    ----------
    stand_in : str
        ``preset:NAME[:key=value,...]``.
    file : str
        What the public file is called.
    sha256 : str
        Digest of its bytes, as ``sha256sum`` prints it; empty if it is not known.
    fetch : str
        Where the file is.
    licence : str
    what : str
        One line on what it holds.
    """

    stand_in: str
    file: str = ""
    sha256: str = ""
    fetch: str = ""
    licence: str = ""
    what: str = ""

    def __post_init__(self) -> None:
        require(
            self.stand_in.startswith("preset:"),
            f"stand_in is {self.stand_in!r}, must be preset:NAME[:key=value,...]",
        )
        known = not self.sha256 or (len(self.sha256) == 64 and set(self.sha256) <= _HEX)
        require(known, f"sha256 is {self.sha256!r}, must be 64 hexadecimal digits, in lower case")


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """When requests come.

    Attributes
    ----------
    load : float or None
        Requests per second over those that the baseline gets through from a pool, in the same
        place; None keeps a pool of requests waiting, so that slots never run empty.
    pool : int or None
        Requests of that pool; None is ``4·G``.
    """

    load: float | None = None
    pool: int | None = None

    def __post_init__(self) -> None:
        if self.load is not None:
            require(self.pool is None, "pool and load are given, must be one of them")
            require_number("load", self.load, 1e-3, 10.0)
        if self.pool is not None:
            require_whole("pool", self.pool, 1, MAX_COUNT, " requests")

    @property
    def saturated(self) -> bool:
        """Whether slots never run empty for want of requests."""
        return self.load is None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardDefinition:
    """Everything that a board's figures depend on, beside further policies.

    Attributes
    ----------
    name : str
    workers, slots : int
        G, and B per worker.
    limit : int
        Requests that are taken of every trace, from its beginning.
    baseline : str
        The rule that ratios and loads refer to, as of `policies`.
    policies : tuple of str
        ``SPEC@ROUTING`` each, see `brsolver.board.policies`.
    cache_policies : tuple of str
        Those that run only where ranks have prefix caches.
    seeds : tuple of int
    traces : mapping of str to BoardTrace
    prefill : mapping of str to Prefill
        Where prompts are computed.
    regimes : mapping of str to Regime
    hardware : mapping of str to StepTime
    """

    name: str
    workers: int = 8
    slots: int = 64
    limit: int = 4000
    baseline: str = "vllm@immediate"
    policies: tuple[str, ...]
    cache_policies: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    traces: Mapping[str, BoardTrace] = field(default_factory=dict)
    prefill: Mapping[str, Prefill] = field(default_factory=dict)
    regimes: Mapping[str, Regime] = field(default_factory=dict)
    hardware: Mapping[str, StepTime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name is empty, must be given")
        require_whole("workers", self.workers, 1, MAX_WORKERS)
        require_whole("slots", self.slots, 1, MAX_SLOTS)
        require_whole("limit", self.limit, 1, MAX_COUNT, " request")
        require(bool(self.policies), "policies is empty, must name at least one")
        require(bool(self.seeds), "seeds is empty, must name at least one")
        for seed in self.seeds:
            require_whole("seed", seed, 0, MAX_SEED)
        require(len(set(self.seeds)) == len(self.seeds), "seeds has one twice, must differ")
        for part in PARTS:
            require(bool(getattr(self, part)), f"{part} is empty, must name at least one")
        for name, prefill in self.prefill.items():
            require(
                prefill.mode in {"none", "colocated"},
                f"prefill {name}: mode is {prefill.mode!r}, must be none or colocated",
            )
            prefill.check_slots(self.slots)

    def seeded(self, count: int) -> BoardDefinition:
        """Return it with so many seeds, from 0 on."""
        require_whole("seeds", count, 1, MAX_SEEDS)
        return replace(self, seeds=tuple(range(count)))

    @property
    def fingerprint(self) -> str:
        """Short digest of all that figures depend on, but for policies and seeds.

        More of these may be added.
        """
        facts = asdict(self)
        for name in ("name", "policies", "cache_policies", "seeds"):
            del facts[name]
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_definition(source: str | Path = "default") -> BoardDefinition:
    """Load a definition.

    Parameters
    ----------
    source : str or Path
        One of `PACKAGED`, or a TOML file. Hardware files that it names are looked for beside it.

    Raises
    ------
    ParameterError
        It cannot be read, has an unknown key, or a value that it cannot have; names the file.
    """
    text = str(source)
    if text in PACKAGED:
        packaged = files("brsolver.board").joinpath(f"{text}.toml")
        return _built(_parsed(text, packaged.read_bytes), None)
    if not text.endswith(".toml"):
        raise UnknownNameError.suggest("board definition", text, [*PACKAGED, "FILE.toml"])
    path = Path(source)
    values = _parsed(text, path.read_bytes)
    try:
        return _built(values, path.parent)
    except ParameterError as error:
        raise type(error)(f"{path}: {error}") from error


def _parsed(name: str, read: Callable[[], bytes]) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(read().decode())
    except (OSError, ValueError, RecursionError) as error:
        # What is not TOML or not UTF-8 is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"{name}: cannot be read as TOML: {reason}") from error


def _built(values: Mapping[str, Any], folder: Path | None) -> BoardDefinition:
    hints = get_type_hints(BoardDefinition)
    for name in values:
        if name not in hints:
            raise UnknownNameError.suggest("key of a board definition", name, hints)
    for name in ("name", "policies", *PARTS):
        require(name in values, f"{name} is missing, must be given")
    given = {
        name: convert(value, hints[name], name, convert_texts=False)
        for name, value in values.items()
        if name not in PARTS
    }
    given["hardware"] = _hardware(values["hardware"], folder)
    for part, read in _READERS.items():
        named = _table(part, values[part])
        given[part] = {name: read(name, _table(name, one)) for name, one in named.items()}
    return BoardDefinition(**given)


_READERS: Mapping[str, Callable[[str, dict[str, Any]], Any]] = {
    "traces": lambda name, one: build_params(BoardTrace, one, f"trace {name}", convert_texts=False),
    "prefill": lambda name, one: component_from(Prefill, one, f"prefill {name}"),
    "regimes": lambda name, one: build_params(Regime, one, f"regime {name}", convert_texts=False),
}


def _table(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ParameterError(f"{name} is {value!r}, must be a table")
    return value


def _hardware(names: object, folder: Path | None) -> dict[str, StepTime]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ParameterError(f"hardware is {names!r}, must be a list of names or files")
    found = {name: step_time_of(name, folder) for name in names}
    require(len(found) == len(names), "hardware has one twice, must name each once")
    return found
