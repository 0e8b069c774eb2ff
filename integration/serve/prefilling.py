"""The prefill tier, where there is one: its workers, which are asked how they are, come and go."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from brsolver.errors import ParameterError, UnknownNameError
from integration.doors.fleet import Fleet
from integration.doors.poller import Poller
from integration.doors.prefill_pool import PrefillPool
from integration.doors.tiers import Tiers, TiersParams
from integration.serve.following import Following
from integration.serve.lookup import Lookup, by_number
from integration.serve.sources import look_anew, source_at, specs_of
from integration.serve.wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from integration.doors.poller import PollerParams
    from integration.doors.reception import Reception
    from integration.picker import PickerParams, Pump, WorkerSpec
    from integration.serve.by_hand import ByHand
    from integration.serve.sources import Found
    from integration.settings import Tiers as Table

_MODES = {"kv_transfer_params": "call", "x-prefiller-host-port": "header"}


def prefill_workers(
    table: Table,
    folder: Path = Path(),
    complain: Callable[[str], object] | None = None,
    lookup: Lookup | None = None,
) -> list[WorkerSpec]:
    """Return the prefill workers that the settings name; see `specs_of`.

    Raises
    ------
    ParameterError
        A name is not known, a file cannot be read, or has servers of several ranks.
    """
    specs = specs_of(table.prefilling, folder, complain, lookup)
    _check_rankless(specs)
    return specs


def _check_rankless(specs: Iterable[WorkerSpec]) -> None:
    for spec in specs:
        if spec.rank is not None:
            raise ParameterError(
                f"prefill worker {spec.name!r} is one of several ranks, must be a server: none of "
                "its ranks would be asked for"
            )


class Prefilling:
    """A prefill tier that serves from `start` to `stop`; its workers can be changed meanwhile.

    Parameters
    ----------
    table : settings' Tiers
    reception : Reception
        Of the decode workers.
    polling : PollerParams
    router : PickerParams
        For how long, and how many, requests may wait.
    retry_statuses : tuple of int
        With which a worker says that it has not begun.
    fault : callable
        Told in one line what goes wrong.
    complain : callable, optional
        Told in one line which names are not known, and which have moved, from any thread; `fault`
        is where it is left out.
    lookup : Lookup, optional
        Knows where names were.
    folder : Path, optional
        What the path of a file of workers is seen from.
    patient : bool
        Whether workers with `prefill_dns` may have no address yet.
    say : callable, optional
        Told in one line which workers come and go.
    hands : ByHand, optional
        What was added and drained by hand, by a picker before this one too.
    others : Fleet, optional
        Workers that decode.

    Attributes
    ----------
    tiers : Tiers
    fleet : Fleet

    Raises
    ------
    ParameterError
        A name is not known, a file cannot be read, or has servers of several ranks, or there is a
        service and no cluster.
    """

    def __init__(
        self,
        table: Table,
        reception: Reception,
        polling: PollerParams,
        *,
        router: PickerParams,
        retry_statuses: tuple[int, ...] = (),
        fault: Callable[[str], object],
        say: Callable[[str], object] = lambda _: None,
        complain: Callable[[str], object] | None = None,
        hands: ByHand | None = None,
        others: Fleet | None = None,
        lookup: Lookup | None = None,
        folder: Path = Path(),
        patient: bool = False,
    ) -> None:
        self._lookup = Lookup() if lookup is None else lookup
        self._complain = fault if complain is None else complain
        later = patient and table.prefill_dns is not None
        specs = [] if later else prefill_workers(table, folder, self._complain, self._lookup)
        if hands is not None:
            specs = hands.among(specs)
        self._pool = pool = PrefillPool(
            specs, kv_limit=table.threshold, capacity=router.capacity, fault=fault, say=say
        )
        params = TiersParams(
            mode=_MODES[table.connector],
            kv_limit=table.threshold,
            wait_max_s=router.wait_max_s,
            pool_max=router.pool_max,
            retry_after_s=router.retry_after_s,
            timeout_s=table.timeout_s,
            scheme=polling.scheme,
            ca=polling.ca,
            retry_statuses=retry_statuses,
        )
        self.tiers = Tiers(reception, pool, params)
        # It has the part of a pump that fleet and poller use.
        pump = cast("Pump", cast("Any", pool))
        self.fleet = Fleet(pump, specs, is_open=pool.is_open, renamed=fault)
        self._wanted = Wanted(self.fleet, hands, others=others)
        self._poller = Poller(pump, self.fleet, polling)
        self._task: asyncio.Task[None] | None = None
        self._following = Following(self.set, fault=fault)
        self._source = source_at(table.prefilling, folder, self._complain, self._lookup)

    def set(self, specs: Sequence[WorkerSpec]) -> None:
        """Have these workers, and those added by hand.

        All others get no more prompts, and those that they have run on.

        Raises
        ------
        ParameterError
            One of them is one of several ranks; then nothing is changed.
        """
        _check_rankless(specs)
        self._wanted.set(specs)

    def workers(self) -> list[dict[str, object]]:
        """Return what is to be seen of each worker."""
        return [asdict(each) for each in self.tiers.figures().workers]

    async def add(self, spec: WorkerSpec) -> str:
        """Add a worker; return what it is called.

        Raises
        ------
        ParameterError
            There is one at its address already, in either tier, or of its name elsewhere.
        """
        return self._wanted.add(await asyncio.to_thread(by_number, spec))

    async def drain(self, name: str) -> None:
        """Give a worker no more prompts; it is gone once nobody is to fetch one from it.

        Raises
        ------
        UnknownNameError
            There is no worker of that name.
        """
        there = {each.spec.name: each for each in self._pool.workers if each.there}
        if name not in there:
            raise UnknownNameError.suggest("prefill worker", name, there)
        if not there[name].retired:
            self._wanted.drain(there[name].spec)

    async def look_anew(self, table: Table, folder: Path) -> Found:
        """Return the workers that settings name by now.

        Raises
        ------
        ParameterError
            See `prefill_workers`.
        """
        found = await look_anew(table.prefilling, folder, self._complain, self._lookup)
        _check_rankless(found.specs or ())
        return found

    def take(self, found: Found) -> int:
        """Have those workers, and follow what settings name; return how many there are."""
        if found.specs is not None:
            self.set(found.specs)
        self._lookup = found.lookup
        self._following.follow(found.source)
        return len(self.fleet)

    async def start(self) -> None:
        """Begin to ask the prefill workers how they are, and to follow who comes and goes."""
        self._wanted.restore()
        self._following.follow(self._source)
        self._task = asyncio.get_running_loop().create_task(self._poller.run())

    async def stop(self) -> None:
        """Ask no more."""
        await self._following.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.tiers.close()
