"""A source of workers, followed while serving."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from integration.routing.failsafe import named

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.doors.endpoints import Changed, Source

AGAIN_S = 5.0


class Following:
    """Follows a source, and begins anew where that ends: nobody else would notice.

    Parameters
    ----------
    changed : callable
        Told all workers whenever they change.
    fault : callable
        Told in one line that following has ended.
    again_s : float
        Seconds after which it begins anew.
    """

    def __init__(
        self, changed: Changed, *, fault: Callable[[str], object], again_s: float = AGAIN_S
    ) -> None:
        self._changed, self._fault, self._again_s = changed, fault, again_s
        self._task: asyncio.Task[None] | None = None

    def follow(self, source: Source | None) -> None:
        """Follow a source from now on, and no other; None is none at all."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if source is not None:
            self._task = asyncio.get_running_loop().create_task(self._go_on(source))

    async def stop(self) -> None:
        """Follow no source any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_on(self, source: Source) -> None:
        while True:
            why = await self._end_of(source)
            self._fault(f"workers were followed no more: {why}; that begins anew")
            await asyncio.sleep(self._again_s)

    async def _end_of(self, source: Source) -> str:
        try:
            await source.follow(self._changed)
        except Exception as error:  # noqa: BLE001 # whatever it is, workers must be known
            return named(error)
        return "it ended"
