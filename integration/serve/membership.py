"""Which workers there are: named in the settings, or found; added and drained while serving."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError
from integration.admin.fleet import CoreFleet
from integration.doors.endpoints import Listed, Named, Shape, Source, read_workers
from integration.doors.kubernetes import EndpointSlices, KubernetesApi
from integration.envoy.endpoints import resolve
from integration.picker.events import WorkerChanged
from integration.serve.wanted import Wanted, place_of
from integration.settings import Address, named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from integration.doors.fleet import Fleet
    from integration.picker import Core, WorkerSpec
    from integration.picker.events import Event
    from integration.serve.by_hand import ByHand
    from integration.settings import ServeConfig


def workers_of(
    config: ServeConfig, complain: Callable[[str], object] | None = None
) -> list[WorkerSpec]:
    """Return the workers that the settings name, each by its number address.

    Envoy knows workers by number, and so does its log. Of a name that stands for several
    addresses the first is taken; with `dns` each is a worker.

    Parameters
    ----------
    config : ServeConfig
    complain : callable, optional
        Told of names that are not known, which are left out then, unless none is; None takes
        them for an error.

    Raises
    ------
    ParameterError
        A name is not known, or a file cannot be read.
    """
    workers = config.workers
    if config.tiers is not None:
        with named(None, "[tiers] decode:"):
            return specs_at(config.tiers.decode, complain=complain)
    if workers.file is not None:
        with named(None, f"[workers] file is {workers.file!r}:"):
            found = [by_number(spec) for spec in read_workers(config.path(workers.file))]
            return _apart(found)
    if workers.dns is not None:
        with named(None, "[workers] dns:"):
            return [spec for each in resolve(workers.dns) for spec in Shape().workers(each)]
    if workers.service is not None:
        return []
    with named(None, "[workers] addresses:"):
        return specs_at(workers.addresses, ranks=workers.ranks, complain=complain)


def specs_at(
    addresses: Iterable[str],
    *,
    ranks: int | None = None,
    complain: Callable[[str], object] | None = None,
) -> list[WorkerSpec]:
    """Return the workers at addresses, which may be names; they are called by what was given."""
    shape = Shape(ranks=ranks)
    found: list[WorkerSpec] = []
    unknown: list[ParameterError] = []
    for each in addresses:
        try:
            found += shape.workers(resolve(each)[0], each)
        except ParameterError as error:
            unknown.append(error)
    if unknown and (complain is None or not found):
        raise unknown[0]
    for left_out in unknown:
        if complain is not None:
            complain(f"{left_out}; it is left out until the settings are read again")
    return _apart(found)


def _apart(workers: list[WorkerSpec]) -> list[WorkerSpec]:
    """Return workers, no two of which are at one place: its slots would be given twice.

    Raises
    ------
    ParameterError
        Two of them are.
    """
    seen: dict[tuple[str, int | None], str] = {}
    for spec in workers:
        other = seen.setdefault(place_of(spec), spec.name)
        if other != spec.name:
            raise ParameterError(
                f"workers {other!r} and {spec.name!r} are one place, {spec.address}; "
                "must be named once"
            )
    return workers


def by_number(spec: WorkerSpec) -> WorkerSpec:
    """Return a worker with its address by number.

    Raises
    ------
    ParameterError
        The name is not known.
    """
    return replace(spec, address=resolve(spec.address)[0])


class _ByNumber(Listed):
    """A file of workers, whose names are looked up beside the event loop, which others want."""

    _given: Iterable[WorkerSpec] | None = None
    _found: Sequence[WorkerSpec] = ()

    async def look(self) -> Iterable[WorkerSpec]:
        given = await super().look()
        if given is not self._given:
            found = await asyncio.to_thread(lambda: [by_number(spec) for spec in given])
            self._found = _apart(found)
            self._given = given
        return self._found


def source_of(config: ServeConfig, complain: Callable[[str], object]) -> Source | None:
    """Return where workers come from that are not all named in the settings."""
    workers = config.workers
    if workers.file is not None:
        return _ByNumber(config.path(workers.file), complain=complain)
    if workers.dns is not None:
        host, port = Address.parse(workers.dns)
        return Named(host, port, complain=complain)
    if workers.service is not None:
        name, _, given = workers.service.partition(":")
        number: str | int = int(given) if given.isdigit() else given
        selector = f"kubernetes.io/service-name={name}"
        with named(None, f"[workers] service is {workers.service!r},"):
            api = KubernetesApi.in_pod()
        return EndpointSlices(api, selector, port=number, complain=complain)
    return None


async def first_workers(
    config: ServeConfig, complain: Callable[[str], object], *, patient: bool
) -> list[WorkerSpec]:
    """Return the workers to begin with; where they come from a service, wait for the first one.

    Parameters
    ----------
    config : ServeConfig
    complain : callable
        Told of what is left out.
    patient : bool
        Whether to wait for a name with `dns`, too, that has no address yet.

    Raises
    ------
    ParameterError
        A name is not known, or a file cannot be read.
    """
    source = source_of(config, complain)
    later = patient and config.workers.dns is not None
    named = [] if later else workers_of(config, complain)
    if named or source is None:
        return named
    complain("there are no workers yet; the first one is waited for")
    found: asyncio.Future[list[WorkerSpec]] = asyncio.get_running_loop().create_future()

    def take(workers: Sequence[WorkerSpec]) -> None:
        if workers and not found.done():
            found.set_result(list(workers))

    following = asyncio.ensure_future(source.follow(take))
    # A source goes on for ever; if this one does not, it says why.
    following.add_done_callback(lambda task: _pass_on(task, found))
    try:
        return await found
    finally:
        following.cancel()


def _pass_on(task: asyncio.Future[None], found: asyncio.Future[list[WorkerSpec]]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not found.done():
        found.set_exception(error)


class Membership(CoreFleet):
    """Workers come and go: by settings, by a source, by hand.

    Parameters
    ----------
    core : Core
    fleet : Fleet
    changed : callable
        Told the addresses that Envoy must know, whenever these may have changed.
    hands : ByHand, optional
        What was added and drained by hand, by a picker before this one too.
    others : Fleet, optional
        Workers that compute prompts for these.
    """

    def __init__(
        self,
        core: Core,
        fleet: Fleet,
        *,
        changed: Callable[[Sequence[str]], object],
        hands: ByHand | None = None,
        others: Fleet | None = None,
    ) -> None:
        super().__init__(core)
        self._changed = changed
        self._wanted = Wanted(fleet, hands, others=others)
        self._task: asyncio.Task[None] | None = None

    def follow(self, source: Source | None) -> None:
        """Take workers from a source from now on, besides those added by hand."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if source is not None:
            self._task = asyncio.get_running_loop().create_task(source.follow(self.set))

    async def stop(self) -> None:
        """Follow no source any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def set(self, named: Sequence[WorkerSpec]) -> None:
        """Have these workers, and those added by hand; all others drain.

        Raises
        ------
        ParameterError
            One of them cannot be; then nothing is changed.
        """
        found = [by_number(spec) for spec in named]
        for spec in found:
            self._core.workers.check(spec)
        self._wanted.set(found)
        self._tell()

    def event(self, event: Event) -> None:
        """Take in an event of the core: a worker that is gone is gone for Envoy too."""
        if isinstance(event, WorkerChanged):
            asyncio.get_running_loop().call_soon(self._tell)

    def restore(self) -> None:
        """Do again what was done by hand under a picker before this one."""
        if self._wanted.restore():
            self._tell()

    async def add(self, spec: WorkerSpec) -> str:
        """Add a worker, for Envoy too; return what it is called.

        Raises
        ------
        ParameterError
            There is one at its address already, or of its name elsewhere, or it has more slots
            than a step has tokens.
        """
        spec = await asyncio.to_thread(by_number, spec)
        # What is noted is done again by every picker after this one: it must be sound.
        self._core.workers.check(spec)
        name = self._wanted.add(spec)
        self._tell()
        return name

    async def drain(self, name: str) -> None:
        """Send a worker nothing more; when it is empty it is gone, for Envoy too.

        Raises
        ------
        UnknownNameError
            There is no worker of that name.
        """
        found = self.find(name)
        if not found.draining:
            self._wanted.drain(found.spec)
            self._tell()

    def _tell(self) -> None:
        there = [each.spec.address for each in self._core.workers if not each.gone]
        self._changed(list(dict.fromkeys(there)))
