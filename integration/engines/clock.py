"""The step clock of a fake engine, on the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.engines.cluster import Cluster


class Clock:
    """Lets a cluster step as long as there is something to do.

    Parameters
    ----------
    cluster : Cluster
    speed : float
        How many of the cluster's seconds pass in one.
    """

    def __init__(self, cluster: Cluster, speed: float) -> None:
        self._cluster, self._speed = cluster, speed
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._due = 0.0

    @property
    def running(self) -> bool:
        """Whether a step is under way."""
        return self._handle is not None

    def wake(self) -> None:
        """Begin to step, if it does not already."""
        if self._handle is None:
            self._due = self._loop.time()
            # What comes in the same turn of the loop is in the first step.
            self._handle = self._loop.call_soon(self._begin)

    def stop(self) -> None:
        """Step no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _begin(self) -> None:
        lasts = self._cluster.begin() / self._speed
        if lasts == 0.0:
            self._handle = None
            return
        # One that falls behind catches up by a step at most.
        self._due = max(self._due, self._loop.time() - lasts) + lasts
        self._handle = self._loop.call_at(self._due, self._end)

    def _end(self) -> None:
        self._cluster.finish()
        self._begin()
