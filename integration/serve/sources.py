"""Where workers come from, as the settings say: named there, or found."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from integration.doors.endpoints import Named, Shape, Source, read_workers
from integration.doors.kubernetes import EndpointSlices, KubernetesApi
from integration.envoy.endpoints import resolve
from integration.serve.lookup import ListedByName, LookedUp, Lookup, is_number
from integration.settings import Address, named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from integration.picker import WorkerSpec
    from integration.settings import ServeConfig, Whence

    Complain = Callable[[str], object]


def workers_of(
    config: ServeConfig, complain: Complain | None = None, lookup: Lookup | None = None
) -> list[WorkerSpec]:
    """Return the workers that decode, as far as `specs_of` finds them."""
    return specs_of(config.decoding, config.folder, complain, lookup)


def source_of(
    config: ServeConfig, complain: Complain, lookup: Lookup | None = None
) -> Source | None:
    """Return where workers come from that decode; see `source_at`."""
    return source_at(config.decoding, config.folder, complain, lookup)


def specs_of(
    whence: Whence,
    folder: Path = Path(),
    complain: Complain | None = None,
    lookup: Lookup | None = None,
) -> list[WorkerSpec]:
    """Return the workers that settings name, each by its number address.

    Envoy knows workers by number, and so does its log. Of a name that stands for several
    addresses the first is taken; with `dns` each is a worker. Those of a service are not known.

    Parameters
    ----------
    whence : Whence
    folder : Path, optional
        What the path of a file is seen from.
    complain : callable, optional
        Told of names that are not known, which are left out then, unless none is; None takes
        them for an error.
    lookup : Lookup, optional
        Knows where they were, and learns where they are.

    Raises
    ------
    ParameterError
        A name is not known, or a file cannot be read.
    """
    if whence.dns is not None:
        with named(None, f"{whence.label('dns')}:"):
            return [spec for each in resolve(whence.dns) for spec in Shape().workers(each)]
    if whence.service is not None:
        return []
    key = "addresses" if whence.file is None else "file"
    what = "" if whence.file is None else f" is {whence.file!r}"
    with named(None, f"{whence.label(key)}{what}:"):
        given = _given(whence, folder)
        lookup = Lookup() if lookup is None else lookup
        if complain is None:
            return lookup.find(given)
        return lookup.find(given, complain, strict=False)


def _given(whence: Whence, folder: Path) -> list[WorkerSpec]:
    if whence.file is not None:
        return read_workers(folder / whence.file)
    shape = Shape(ranks=whence.ranks)
    return [spec for each in whence.addresses for spec in shape.workers(each, each)]


def source_at(
    whence: Whence,
    folder: Path,
    complain: Complain,
    lookup: Lookup | None = None,
) -> Source | None:
    """Return what tells of workers that come, go or move; None where all are named by number.

    Parameters
    ----------
    whence : Whence
    folder : Path
        What the path of a file is seen from.
    complain : callable
        Told in one line what cannot be found, and what moves.
    lookup : Lookup, optional
        Knows where workers were last.

    Raises
    ------
    ParameterError
        There is a service, and no cluster.
    """
    lookup = Lookup() if lookup is None else lookup
    if whence.file is not None:
        return ListedByName(folder / whence.file, lookup, complain=complain)
    if whence.dns is not None:
        host, port = Address.parse(whence.dns)
        return Named(host, port, complain=complain)
    if whence.service is not None:
        return _slices(whence, whence.service, complain)
    if all(is_number(each) for each in whence.addresses):
        return None
    return LookedUp(_given(whence, folder), lookup, complain=complain)


class Found(NamedTuple):
    """Workers that settings name, read again.

    Attributes
    ----------
    specs : list of WorkerSpec or None
        None where only the source knows them.
    source : Source or None
        See `source_at`.
    lookup : Lookup
    """

    specs: list[WorkerSpec] | None
    source: Source | None
    lookup: Lookup


async def look_anew(whence: Whence, folder: Path, complain: Complain, lookup: Lookup) -> Found:
    """Return the workers that settings name by now.

    Parameters
    ----------
    whence : Whence
    folder : Path
    complain : callable
        As of `source_at`.
    lookup : Lookup
        Knows where workers were; it stays as it is.

    Raises
    ------
    ParameterError
        A name is not known and never was, or a file cannot be read.
    """
    lookup = lookup.copy()
    source = source_at(whence, folder, complain, lookup)
    # Names are looked up, which takes as long as it takes.
    if whence.service is not None or whence.dns is not None:
        # A name may have no address for the moment: its source goes on with what there was.
        return Found(None, source, lookup)
    return Found(await asyncio.to_thread(specs_of, whence, folder, None, lookup), source, lookup)


def _slices(whence: Whence, service: str, complain: Complain) -> EndpointSlices:
    name, _, given = service.partition(":")
    number: str | int = int(given) if given.isdigit() else given
    selector = f"kubernetes.io/service-name={name}"
    with named(None, f"{whence.label('service')} is {service!r},"):
        api = KubernetesApi.in_pod()
    return EndpointSlices(api, selector, port=number, complain=complain)


async def first_workers(
    config: ServeConfig, complain: Complain, *, patient: bool, lookup: Lookup | None = None
) -> list[WorkerSpec]:
    """Return the workers to begin with; where they come from a service, wait for the first one.

    Parameters
    ----------
    config : ServeConfig
    complain : callable
        Told of what is left out.
    patient : bool
        Whether to wait for a name with `dns`, too, that has no address yet.
    lookup : Lookup, optional
        Learns where they are.

    Raises
    ------
    ParameterError
        A name is not known, or a file cannot be read.
    """
    source = source_of(config, complain, lookup)
    later = patient and config.decoding.dns is not None
    found = [] if later else workers_of(config, complain, lookup)
    if found or source is None:
        return found
    complain("there are no workers yet; the first one is waited for")
    return await _first_of(source)


async def _first_of(source: Source) -> list[WorkerSpec]:
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
