"""``serve.toml`` as a whole."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver._limits import require
from brsolver.errors import BrsolverError, MissingExtraError, ParameterError, UnknownNameError
from brsolver.options import alternatives, parameters
from brsolver.specs import build_params
from brsolver.tuned import Tuned, is_tuned, read_tuned
from integration.picker.params import PickerParams
from integration.settings._checks import MAX_PORT
from integration.settings.keys import ApiKey, read_keys
from integration.settings.limits import Auth, Limits
from integration.settings.tables import (
    Admin,
    Door,
    Envoy,
    KvEvents,
    Listen,
    Log,
    Trace,
)
from integration.settings.workers import Tiers, Whence, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


TUNED = "tuned"
"""Key of ``[router]``: a file of ``brsolver tune``."""
WHO = ("addresses", "ranks", "file", "dns", "service")
"""Keys of ``[workers]`` that say which there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """What ``brsolver serve`` is told: a field for each table of its file.

    Attributes
    ----------
    listen : Listen
    workers : Workers
    tiers : Tiers or None
        Given where prompts are computed by workers of their own.
    router : PickerParams
    kv_events : KvEvents or None
        Given where engines publish what their prefix caches hold.
    limits : Limits
    auth : Auth
    picker : Door
    admin : Admin
    envoy : Envoy
    log : Log
    trace : Trace
    folder : Path
        What relative paths are seen from: the file's folder.
    file : Path or None
        Where all of this stands.
    keys : tuple of ApiKey
        Of clients, as `auth` says; empty lets everyone in.
    """

    listen: Listen = field(default_factory=Listen)
    workers: Workers = field(default_factory=Workers)
    tiers: Tiers | None = None
    router: PickerParams = field(default_factory=PickerParams)
    kv_events: KvEvents | None = None
    limits: Limits = field(default_factory=Limits)
    auth: Auth = field(default_factory=Auth)
    picker: Door = field(default_factory=Door)
    admin: Admin = field(default_factory=Admin)
    envoy: Envoy = field(default_factory=Envoy)
    log: Log = field(default_factory=Log)
    trace: Trace = field(default_factory=Trace)
    folder: Path = field(default_factory=Path)
    file: Path | None = None
    keys: tuple[ApiKey, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        self._check_workers()
        require(
            self.kv_events is None or bool(self.router.block_tokens),
            "router.block_tokens is 0, must be what the engines have where there are kv_events",
        )
        self._check_kv_ports()
        _require_apart(
            {
                "listen.port": self.listen.port,
                "admin.port": self.admin.port,
                "picker.port": self.picker.port,
                "picker.grpc_port": self.picker.grpc_port,
                "envoy.admin_port": self.envoy.admin_port,
            }
        )

    def _check_workers(self) -> None:
        given = self.workers.whence.given
        if self.tiers is None:
            require(given, "workers names none, must have addresses, a file, dns, or a service")
            return
        require(not given, "workers and tiers both name workers, must be one of them")
        door = self.picker.door
        require(
            door == "ext_proc", f"picker.door is {door!r}, must be 'ext_proc' where there are tiers"
        )

    @property
    def decoding(self) -> Whence:
        """Where the workers come from that decode, be there tiers or not."""
        return self.workers.whence if self.tiers is None else self.tiers.decoding

    def _check_kv_ports(self) -> None:
        table, workers = self.kv_events, self.workers
        if table is None:
            return
        places = len(workers.addresses) if table.add_place else 1
        further = max(workers.ranks or 1, places) - 1
        for name in ("port", "replay_port"):
            last = (getattr(table, name) or 0) + further
            require(
                last <= MAX_PORT,
                f"kv_events.{name} leads to {last} for the last worker, must be at most {MAX_PORT}",
            )

    def path(self, name: str) -> Path:
        """Return a path that a table names, seen from the file's folder."""
        return self.folder / name


def load(
    path: str | Path,
    environ: Mapping[str, str] | None = None,
    *,
    workers: str | None = None,
) -> ServeConfig:
    """Read ``serve.toml``, or a file that ``brsolver tune`` wrote.

    The second says how to route and names no workers; the first may name it: ``[router] tuned``.

    Parameters
    ----------
    path : str or Path
    environ : mapping of str to str, optional
        Where API keys may stand; None takes the process's.
    workers : str, optional
        ``HOST:PORT,...`` of the engines, or a file of them (`Workers.file`), in place of those
        that the file names.

    Raises
    ------
    ParameterError
        It cannot be read, or holds something that cannot be: one line that names file, table, key,
        value, and what would be accepted.
    """
    path = Path(path)
    return built(read_tables(path, workers=workers), path, environ)


def read_tables(path: Path, *, workers: str | None = None) -> dict[str, Any]:
    """Return what `load` reads, before it is checked; what was tuned is in its place.

    Raises
    ------
    ParameterError
        As `load` raises it.
    """
    with _of(path):
        values = _routed(_read(path), path.parent)
        if workers is not None:
            values["workers"] = _worked(values.get("workers"), workers)
        return values


def built(
    tables: Mapping[str, Any],
    path: Path,
    environ: Mapping[str, str] | None = None,
    *,
    keys: bool = True,
) -> ServeConfig:
    """Check what `read_tables` returned.

    Parameters
    ----------
    tables : mapping of str to dict
    path : Path
        Where they stand.
    environ : mapping of str to str, optional
        See `load`.
    keys : bool
        Whether API keys are read; a picker needs none.

    Raises
    ------
    ParameterError
        As `load` raises it.
    """
    with _of(path):
        config = _build(tables, path)
        if not keys:
            return config
        environ = os.environ if environ is None else environ
        return dataclasses.replace(config, keys=read_keys(config.auth, path.parent, environ))


@contextmanager
def _of(path: Path) -> Iterator[None]:
    try:
        yield
    except BrsolverError as error:
        text = str(error)
        raise ParameterError(text if text.startswith(f"{path}:") else f"{path}: {text}") from error


@contextmanager
def named(file: Path | None, table: str = "") -> Iterator[None]:
    """Have errors of parameters that come up late name the file and the table that they are of.

    Parameters
    ----------
    file : Path or None
    table : str
        As messages have it: ``"[router]"``; empty where they name it themselves.

    Raises
    ------
    ParameterError
        In place of one that names neither.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except BrsolverError as error:
        text = str(error)
        if file is not None and text.startswith(f"{file}:"):
            raise
        where = " ".join(filter(None, ("" if file is None else f"{file}:", table)))
        raise ParameterError(f"{where} {text}".strip()) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        # Some editors begin UTF-8 with a mark of it.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        at = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ParameterError(
            f"cannot be read as TOML: line {at} holds byte {byte:#04x}, must be UTF-8"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        # What is not TOML is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"cannot be read as TOML: {' '.join(reason.split())}") from error


def _routed(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Put what was tuned in place of its file's name; what stands beside takes precedence."""
    if is_tuned(values):
        return {"router": Tuned.of(values).for_picker()}
    router = values.get("router")
    if not isinstance(router, dict) or TUNED not in router:
        return values
    name = router[TUNED]
    require(isinstance(name, str), f"[router]: {TUNED} is {name!r}, must be the path of a file")
    try:
        found = read_tuned(folder / name)
    except ParameterError as error:
        raise ParameterError(f"[router]: {TUNED} is {name!r}: {error}") from error
    if found is None:
        raise ParameterError(f"[router]: {TUNED} is {name!r}, must be a file of brsolver tune")
    beside = {key: value for key, value in router.items() if key != TUNED}
    return {**values, "router": {**found.for_picker(Path(name).parent), **beside}}


def _worked(table: object, workers: str) -> object:
    """Put the workers of the command line in place of the file's."""
    if table is not None and not isinstance(table, dict):
        return table
    rest = {key: value for key, value in (table or {}).items() if key not in WHO}
    if workers.endswith(".toml"):
        return {**rest, "file": str(Path(workers).absolute())}
    return {**rest, "addresses": [each.strip() for each in workers.split(",")]}


def _build(values: Mapping[str, Any], path: Path) -> ServeConfig:
    known = {p.name: _dataclass(p.hint) for p in parameters(ServeConfig)}
    tables = {name: kind for name, kind in known.items() if kind is not None}
    for name in values:
        if name not in tables:
            raise UnknownNameError.suggest("table", name, tables)
    made = {name: _table(name, tables[name], value) for name, value in values.items()}
    return ServeConfig(folder=path.parent, file=path, **made)


def _dataclass(hint: Any) -> Any:
    kinds = (kind for kind in alternatives(hint) if dataclasses.is_dataclass(kind))
    return next(kinds, None)


def _table(name: str, kind: Any, value: object) -> Any:
    if not isinstance(value, dict):
        raise ParameterError(f"{name} is {value!r}, must be a table: [{name}]")
    return build_params(kind, value, f"[{name}]", convert_texts=False)


def _require_apart(ports: Mapping[str, int]) -> None:
    """Raise `ParameterError` if two of our own ports are the same."""
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port and port in seen:
            raise ParameterError(f"{name} is {port}, which {seen[port]} is too; must differ")
        seen[port] = name
