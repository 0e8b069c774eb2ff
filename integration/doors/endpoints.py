"""Where workers come from: a list, a file, or a name; `kubernetes` has EndpointSlices.

A source has one method, ``follow(changed)``, which calls `changed` with all workers whenever they
differ from those told last, and runs until it is cancelled. What it cannot read at the moment
changes nothing: the workers told last stay.
"""

from __future__ import annotations

import asyncio
import socket
import tomllib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from brsolver.errors import BrsolverError, ParameterError
from brsolver.specs import build_params
from integration.picker import WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    Changed = Callable[[tuple[WorkerSpec, ...]], object]
    Complain = Callable[[str], object]


LOOKUP_S = 5.0
"""Between two lookups of a name."""


class Source(Protocol):
    """Tells which workers there are."""

    async def follow(self, changed: Changed) -> None:
        """Call `changed` with all workers, now and whenever they change, until cancelled."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What every worker of a source has.

    Attributes
    ----------
    ranks : int or None
        Data-parallel ranks behind each address, pinned by header; None where an address is one
        worker.
    slots, capacity : int or None
        As `WorkerSpec`.
    """

    ranks: int | None = None
    slots: int | None = None
    capacity: int | None = None

    def __post_init__(self) -> None:
        if self.ranks is not None and self.ranks < 1:
            raise ParameterError(f"ranks is {self.ranks}, must be at least 1")

    def workers(
        self, address: str, name: str | None = None, uid: str | None = None
    ) -> list[WorkerSpec]:
        """Return the workers at an address.

        Parameters
        ----------
        address : str
            ``host:port``.
        name : str, optional
            What the server is called; the address by default.
        uid : str, optional
            As `WorkerSpec`.
        """
        spec = WorkerSpec(
            name=name or address,
            address=address,
            slots=self.slots,
            capacity=self.capacity,
            uid=uid,
        )
        if self.ranks is None:
            return [spec]
        return [replace(spec, name=f"{spec.name}#{r}", rank=r) for r in range(self.ranks)]


def address_of(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around what is an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Fixed:
    """Workers that stay as they are.

    Parameters
    ----------
    workers : sequence of WorkerSpec
    """

    def __init__(self, workers: Sequence[WorkerSpec]) -> None:
        self._workers = tuple(workers)

    async def follow(self, changed: Changed) -> None:
        """Tell them once."""
        changed(self._workers)
        await asyncio.Event().wait()


class Polled:
    """A source that is looked at again and again.

    Parameters
    ----------
    interval_s : float
        Seconds between two looks.
    complain : callable
        Given one line when a look fails, and not again until one has succeeded.
    """

    def __init__(self, *, interval_s: float, complain: Complain) -> None:
        if not interval_s > 0:
            raise ParameterError(f"interval_s is {interval_s}, must be above 0")
        self._interval_s = interval_s
        self._complain = complain

    async def follow(self, changed: Changed) -> None:
        """Look, tell what is new, wait; until cancelled."""
        told: tuple[WorkerSpec, ...] | None = None
        failed = False
        while True:
            try:
                found = tuple(await self.look())
                if found != told:
                    # Who is told may refuse them: then they are told again.
                    changed(found)
                told, failed = found, False
            except (BrsolverError, OSError) as error:
                if not failed:
                    self._complain(str(error))
                failed = True
            await asyncio.sleep(self._interval_s)

    async def look(self) -> Iterable[WorkerSpec]:
        """Return the workers there are now."""
        raise NotImplementedError


class Named(Polled):
    """The addresses, of both families, that a host name stands for: a headless service's pods.

    Parameters
    ----------
    host : str
    port : int
    shape : Shape, optional
    interval_s : float
        Seconds between two lookups.
    complain : callable
        Given one line when lookups begin to fail.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        shape: Shape | None = None,
        interval_s: float = LOOKUP_S,
        complain: Complain,
    ) -> None:
        super().__init__(interval_s=interval_s, complain=complain)
        self._host = host
        self._port = port
        self._shape = Shape() if shape is None else shape

    async def look(self) -> Iterable[WorkerSpec]:
        """Return a worker per address, in the order of the addresses."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise ParameterError(
                f"host {self._host!r} has no address now ({error.strerror}); the workers stay"
            ) from error
        addresses = sorted({str(info[4][0]) for info in found})
        return [w for host in addresses for w in self._shape.workers(address_of(host, self._port))]


class Listed(Polled):
    """A file with ``host:port`` of a server in each line, read again when it changes.

    Empty lines do not count, nor does what follows ``#``.

    Parameters
    ----------
    path : Path
    shape : Shape, optional
    interval_s : float
        Seconds between two looks at the file.
    complain : callable
        Given one line when the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        shape: Shape | None = None,
        interval_s: float = 1.0,
        complain: Complain,
    ) -> None:
        super().__init__(interval_s=interval_s, complain=complain)
        self._path = path
        self._shape = Shape() if shape is None else shape
        self._seen: tuple[int, int, int] | None = None
        self._workers: list[WorkerSpec] = []

    async def look(self) -> Iterable[WorkerSpec]:
        """Return the file's workers; it is read only if it is another than before."""
        status = self._path.stat()
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._workers = read_workers(self._path, self._shape)
            self._seen = seen
        return self._workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A server, as a file of workers has it: a table ``[[worker]]``.

    Attributes
    ----------
    address : str
        ``host:port``.
    name : str or None
        What it is called; its address by default.
    ranks, slots, capacity : int or None
        As `Shape`.
    """

    address: str
    name: str | None = None
    ranks: int | None = None
    slots: int | None = None
    capacity: int | None = None

    def workers(self) -> list[WorkerSpec]:
        """Return its workers."""
        shape = Shape(ranks=self.ranks, slots=self.slots, capacity=self.capacity)
        return shape.workers(self.address, self.name)


def read_workers(path: Path, shape: Shape | None = None) -> list[WorkerSpec]:
    """Read a file of workers: TOML, if it is called so, or else an address in each line.

    Parameters
    ----------
    path : Path
    shape : Shape, optional

    Returns
    -------
    list of WorkerSpec

    Raises
    ------
    ParameterError
        If it is no such file; one line that names file and line.
    """
    shape = Shape() if shape is None else shape
    if path.suffix == ".toml":
        return _read_tables(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"{path} cannot be read: {reason}") from error
    found: dict[str, list[WorkerSpec]] = {}
    for number, line in enumerate(lines, 1):
        address = line.partition("#")[0].strip()
        if not address:
            continue
        if address in found:
            raise ParameterError(f"{path}:{number}: {address!r} is there twice, must be once")
        try:
            found[address] = shape.workers(address)
        except ParameterError as error:
            raise ParameterError(f"{path}:{number}: {error}") from error
    return [worker for workers in found.values() for worker in workers]


def _read_tables(path: Path) -> list[WorkerSpec]:
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"{path}: cannot be read as TOML: {reason}") from error
    tables = values.pop("worker", None)
    if values or not isinstance(tables, list):
        raise ParameterError(f"{path}: must hold tables [[worker]], and nothing else")
    found: list[WorkerSpec] = []
    for number, table in enumerate(tables, 1):
        where = f"{path}: worker {number}"
        entry = build_params(Entry, _table(path, table), where)
        try:
            found += entry.workers()
        except ParameterError as error:
            raise ParameterError(f"{where}: {error}") from error
    _check_apart(path, found)
    return found


def _table(path: Path, table: object) -> dict[str, object]:
    if not isinstance(table, dict):
        raise ParameterError(f"{path}: worker holds {table!r}, must hold tables [[worker]]")
    return table


def _check_apart(path: Path, workers: Sequence[WorkerSpec]) -> None:
    """Raise `ParameterError` where two of them have one name, or one place."""
    for what in ("name", "address"):
        seen: set[tuple[object, object]] = set()
        for worker in workers:
            value = getattr(worker, what)
            key = (value, None if what == "name" else worker.rank)
            if key in seen:
                raise ParameterError(f"{path}: {what} {value!r} is there twice, must be once")
            seen.add(key)
