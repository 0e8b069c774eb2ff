"""The prefill tier, where there is one: its workers, asked how they are like all others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from brsolver.errors import ParameterError
from integration.doors.fleet import Fleet
from integration.doors.poller import Poller
from integration.doors.prefill_pool import PrefillPool
from integration.doors.tiers import Tiers, TiersParams
from integration.serve.following import Following
from integration.serve.lookup import Lookup
from integration.serve.sources import look_anew, source_at, specs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from integration.doors.poller import PollerParams
    from integration.doors.reception import Reception
    from integration.picker import PickerParams, Pump, WorkerSpec
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
    """A prefill tier that serves from `start` to `stop`.

    Parameters
    ----------
    table : settings' Tiers
    reception : Reception
        Of the decode workers.
    polling : PollerParams
    router : PickerParams
        For how long, and how many, requests may wait.
    fault : callable
        Told in one line what goes wrong.
    folder : Path, optional
        What the path of a file of workers is seen from.
    patient : bool
        Whether workers with `prefill_dns` may have no address yet.

    Attributes
    ----------
    tiers : Tiers

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
        fault: Callable[[str], object],
        folder: Path = Path(),
        patient: bool = False,
    ) -> None:
        self._lookup = Lookup()
        later = patient and table.prefill_dns is not None
        specs = [] if later else prefill_workers(table, folder, fault, self._lookup)
        pool = PrefillPool(specs, kv_limit=table.threshold, capacity=router.capacity, fault=fault)
        params = TiersParams(
            mode=_MODES[table.connector],
            kv_limit=table.threshold,
            wait_max_s=router.wait_max_s,
            pool_max=router.pool_max,
            retry_after_s=router.retry_after_s,
            timeout_s=table.timeout_s,
            scheme=polling.scheme,
            ca=polling.ca,
        )
        self.tiers = Tiers(reception, pool, params)
        # It has the part of a pump that fleet and poller use.
        pump = cast("Pump", cast("Any", pool))
        self._fleet = Fleet(pump, specs, is_open=pool.is_open)
        self._poller = Poller(pump, self._fleet, polling)
        self._task: asyncio.Task[None] | None = None
        self._following = Following(self.set, fault=fault)
        self._fault = fault
        self._source = source_at(table.prefilling, folder, fault, self._lookup)

    def set(self, specs: Sequence[WorkerSpec]) -> None:
        """Have these workers; all others get no more prompts, and those that they have run on.

        Raises
        ------
        ParameterError
            One of them is one of several ranks; then nothing is changed.
        """
        _check_rankless(specs)
        self._fleet.set(specs)

    async def look_anew(self, table: Table, folder: Path) -> Found:
        """Return the workers that settings name by now.

        Raises
        ------
        ParameterError
            See `prefill_workers`.
        """
        found = await look_anew(table.prefilling, folder, self._fault, self._lookup)
        _check_rankless(found.specs or ())
        return found

    def take(self, found: Found) -> int:
        """Have those workers, and follow what settings name; return how many there are."""
        if found.specs is not None:
            self.set(found.specs)
        self._lookup = found.lookup
        self._following.follow(found.source)
        return len(self._fleet)

    async def start(self) -> None:
        """Begin to ask the prefill workers how they are, and to follow who comes and goes."""
        self._following.follow(self._source)
        self._task = asyncio.get_running_loop().create_task(self._poller.run())

    async def stop(self) -> None:
        """Ask no more."""
        await self._following.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.tiers.close()
