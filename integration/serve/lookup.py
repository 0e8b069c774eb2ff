"""Names of workers looked up: Envoy knows workers by number, and numbers change."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from brsolver.errors import OutputError, ParameterError
from brsolver.traces.atomic import replacing
from integration.doors.endpoints import LOOKUP_S, Listed, Polled
from integration.envoy.endpoints import resolve
from integration.settings import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from integration.picker import WorkerSpec

    Say = Callable[[str], object]

LOOKED_UP, PREFILL_LOOKED_UP = "looked-up.json", "prefill-looked-up.json"
"""Where it is kept what names of workers stood for: of those that decode, and of the other tier."""


def by_number(spec: WorkerSpec) -> WorkerSpec:
    """Return a worker with its address by number.

    Raises
    ------
    ParameterError
        The name is not known.
    """
    return replace(spec, address=resolve(spec.address)[0])


def apart(workers: list[WorkerSpec]) -> list[WorkerSpec]:
    """Return workers, no two of which are at one place: its slots would be given twice.

    Raises
    ------
    ParameterError
        Two of them are.
    """
    seen: dict[tuple[str, int | None], str] = {}
    for spec in workers:
        other = seen.setdefault((spec.address, spec.rank), spec.name)
        if other != spec.name:
            raise ParameterError(
                f"workers {other!r} and {spec.name!r} are one place, {spec.address}; "
                "must be named once"
            )
    return workers


def _nobody(_: str) -> None:
    pass


class Lookup:
    """Finds workers by their names, and remembers where they were.

    Of a name that stands for several addresses the first is taken, and kept while it is among
    them: name servers change their order. A name that is not known for the moment keeps its
    address, unless another one has that by now. Numbers are not looked up.

    Parameters
    ----------
    known : mapping of str to str, optional
        Addresses as they are given, and by number.
    path : Path, optional
        Where that is kept, so that a picker after this one knows it; what stands there is known.
    """

    def __init__(self, known: Mapping[str, str] | None = None, *, path: Path | None = None) -> None:
        self._path = path
        self._known = _read(path) if known is None else dict(known)
        self._missing: set[str] = set()

    def copy(self) -> Lookup:
        """Return another one that knows as much."""
        other = Lookup(self._known, path=self._path)
        other._missing = set(self._missing)
        return other

    def find(
        self, given: Sequence[WorkerSpec], say: Say = _nobody, *, strict: bool = True
    ) -> list[WorkerSpec]:
        """Return workers with their addresses by number; takes as long as name servers take.

        Parameters
        ----------
        given : sequence of WorkerSpec
        say : callable, optional
            Told in one line what has moved, and once of each name that is not known.
        strict : bool
            Whether a name that was never known is an error; else it is left out, unless none is
            known.

        Raises
        ------
        ParameterError
            A name is not known, or two workers are at one place. Then nothing is remembered.
        """
        known = self._known
        fresh, unknown = self._asked(dict.fromkeys(spec.address for spec in given))
        taken = set(fresh.values())
        kept = {name: known[name] for name in unknown if known.get(name, "") not in {"", *taken}}
        found = fresh | kept
        new = [error for name, error in unknown.items() if name not in known]
        if new and (strict or not found):
            raise new[0]
        there = [spec for spec in given if spec.address in found]
        workers = apart([replace(spec, address=found[spec.address]) for spec in there])
        for name, address in fresh.items():
            if known.get(name, address) != address:
                say(f"worker {name} is at {address} now, no more at {known[name]}")
        for name in unknown.keys() - self._missing:
            what = "it is taken to be where it was" if name in kept else "it is left out until then"
            say(f"{unknown[name]}; {what}")
        self._missing = set(unknown)
        self._known = fresh | {name: known[name] for name in unknown if name in known}
        if self._known != known:
            self._save()
        return workers

    def _save(self) -> None:
        # A disk that is full keeps nobody from serving.
        with contextlib.suppress(OutputError):
            if self._path is not None:
                with replacing(self._path) as part:
                    part.write_text(json.dumps(self._known), encoding="utf-8")

    def _asked(self, names: Iterable[str]) -> tuple[dict[str, str], dict[str, ParameterError]]:
        """Return where names are, and of the others why they are not known."""
        fresh: dict[str, str] = {}
        unknown: dict[str, ParameterError] = {}
        for name in names:
            old = self._known.get(name)
            if old is not None and is_number(name):
                fresh[name] = old
                continue
            try:
                there = resolve(name)
            except ParameterError as error:
                unknown[name] = error
            else:
                fresh[name] = old if old in there else there[0]
        return fresh, unknown


def _read(path: Path | None) -> dict[str, str]:
    # What cannot be read is of no use, and must keep nobody from serving.
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        if path is not None:
            found = json.loads(path.read_text(encoding="utf-8")).items()
            return {name: str(Address.parse(address)) for name, address in found}
    return {}


def is_number(address: str) -> bool:
    """Tell whether a host is given by number."""
    try:
        ipaddress.ip_address(Address.parse(address).host)
    except ValueError:
        return False
    return True


class LookedUp(Polled):
    """Workers that are named in the settings, and looked up again and again.

    Parameters
    ----------
    given : sequence of WorkerSpec
    lookup : Lookup
    interval_s : float
        Seconds between two lookups.
    complain : callable
        Told what moves, and what is not known.
    """

    def __init__(
        self,
        given: Sequence[WorkerSpec],
        lookup: Lookup,
        *,
        interval_s: float = LOOKUP_S,
        complain: Say,
    ) -> None:
        super().__init__(interval_s=interval_s, complain=complain)
        self._given, self._lookup = given, lookup

    async def look(self) -> Iterable[WorkerSpec]:
        """Return the workers, each where it is now."""
        # Beside the event loop, which others want.
        return await asyncio.to_thread(self._lookup.find, self._given, self._complain, strict=False)


class ListedByName(Listed):
    """A file of workers, whose names are looked up again and again.

    Parameters
    ----------
    path : Path
    lookup : Lookup
    lookup_s : float
        Seconds between two lookups.
    interval_s : float
        Seconds between two looks at the file.
    complain : callable
        Told what moves, what is not known, and when the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        lookup: Lookup,
        *,
        lookup_s: float = LOOKUP_S,
        interval_s: float = 1.0,
        complain: Say,
    ) -> None:
        super().__init__(path, interval_s=interval_s, complain=complain)
        self._lookup, self._lookup_s = lookup, lookup_s
        self._due_s = float("-inf")
        self._given: Iterable[WorkerSpec] | None = None
        self._found: Sequence[WorkerSpec] = ()

    async def look(self) -> Iterable[WorkerSpec]:
        """Return the file's workers, each where it is now."""
        given = list(await super().look())
        now = asyncio.get_running_loop().time()
        if given != self._given or now >= self._due_s:
            find = self._lookup.find
            self._found = await asyncio.to_thread(find, given, self._complain, strict=False)
            self._given, self._due_s = given, now + self._lookup_s
        return self._found
