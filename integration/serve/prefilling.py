"""The prefill tier, where there is one: its workers, asked how they are like all others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from integration.doors.fleet import Fleet
from integration.doors.poller import Poller
from integration.doors.prefill_pool import PrefillPool
from integration.doors.tiers import Tiers, TiersParams
from integration.serve.membership import specs_at
from integration.settings import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from integration.doors.poller import PollerParams
    from integration.doors.reception import Reception
    from integration.picker import PickerParams, Pump, WorkerSpec
    from integration.settings import Tiers as Table

_MODES = {"kv_transfer_params": "call", "x-prefiller-host-port": "header"}


def prefill_workers(table: Table) -> list[WorkerSpec]:
    """Return the prefill workers that the settings name, each by its number address.

    Raises
    ------
    ParameterError
        A name is not known.
    """
    with named(None, "[tiers] prefill:"):
        return specs_at(table.prefill)


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
    """

    def __init__(
        self,
        table: Table,
        reception: Reception,
        polling: PollerParams,
        *,
        router: PickerParams,
        fault: Callable[[str], object],
    ) -> None:
        specs = prefill_workers(table)
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

    def set(self, specs: Iterable[WorkerSpec]) -> None:
        """Have these workers; all others get no more prompts, and those that they have run on."""
        self._fleet.set(specs)

    async def start(self) -> None:
        """Begin to ask the prefill workers how they are."""
        self._task = asyncio.get_running_loop().create_task(self._poller.run())

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.tiers.close()
