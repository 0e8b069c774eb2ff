"""The prefill tier, where there is one: its workers, asked how they are like all others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from integration.doors.fleet import Fleet
from integration.doors.poller import Poller
from integration.doors.prefill_pool import PrefillPool
from integration.doors.tiers import Tiers, TiersParams
from integration.serve.membership import specs_at

if TYPE_CHECKING:
    from integration.doors.poller import PollerParams
    from integration.doors.reception import Reception
    from integration.picker import Pump
    from integration.settings import Tiers as Table

_MODES = {"kv_transfer_params": "call", "x-prefiller-host-port": "header"}


class Prefilling:
    """A prefill tier that serves from `start` to `stop`.

    Parameters
    ----------
    table : settings' Tiers
    reception : Reception
        Of the decode workers.
    polling : PollerParams
    """

    def __init__(self, table: Table, reception: Reception, polling: PollerParams) -> None:
        specs = specs_at(table.prefill)
        pool = PrefillPool(specs, kv_limit=table.threshold)
        params = TiersParams(
            mode=_MODES[table.connector],
            kv_limit=table.threshold,
            timeout_s=table.timeout_s,
            scheme=polling.scheme,
            ca=polling.ca,
        )
        self.tiers = Tiers(reception, pool, params)
        # It has the part of a pump that fleet and poller use.
        pump = cast("Pump", cast("Any", pool))
        self._poller = Poller(pump, Fleet(pump, specs, is_open=pool.is_open), polling)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to ask the prefill workers how they are."""
        self._task = asyncio.get_running_loop().create_task(self._poller.run())

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.tiers.close()
