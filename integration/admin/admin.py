"""All of the admin side behind one object: what listens to the core, and its own listener."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from integration.admin.fleet import CoreFleet
from integration.admin.metrics import Metrics
from integration.admin.server import Server
from integration.admin.shadow import Shadows
from integration.admin.view import View
from integration.admin.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.admin.fleet import Fleet
    from integration.admin.params import AdminParams
    from integration.doors.prefill_figures import PrefillTier
    from integration.picker.asks import Gauges
    from integration.picker.core import Core
    from integration.picker.events import Listener


class Admin:
    """Metrics, window, shadow routers and server of one core, all of which listen to it.

    Parameters
    ----------
    core : Core
    params : AdminParams
    clock : callable
        The core's clock, seconds.
    fleet : Fleet, optional
        Who changes workers; by default the core alone.
    about : dict, optional
        What the page says in its head besides the policy: ``version``, ``back_end``.
    unwell : callable, optional
        Returns why serving does not go on as it should, None if it does.
    prefill : callable, optional
        Returns how the prefill tier stands, where there is one.
    prefill_fleet : Fleet, optional
        Who changes its workers.
    folder : Path, optional
        What relative paths in the core's parameters are seen from.
    audit : callable, optional
        Returns the audit; by default the core's, which knows of no proxy.

    Attributes
    ----------
    window : Window
    metrics : Metrics
    shadows : Shadows or None
    server : Server

    Raises
    ------
    BrsolverError
        A shadow's policy cannot be made, or a package is missing.
    """

    def __init__(
        self,
        core: Core,
        params: AdminParams,
        *,
        clock: Callable[[], float],
        fleet: Fleet | None = None,
        about: dict[str, object] | None = None,
        unwell: Callable[[], str | None] = lambda: None,
        prefill: Callable[[], PrefillTier] | None = None,
        prefill_fleet: Fleet | None = None,
        folder: Path = Path(),
        audit: Callable[[], object] | None = None,
    ) -> None:
        self._core = core
        workers = core.workers
        self.window = Window(
            [each.spec.name for each in workers],
            clock=clock,
            params=params.window,
            name_of=lambda index: workers[index].spec.name,
        )
        self.shadows: Shadows | None = None
        if params.shadows.policies:
            self.shadows = Shadows(params.shadows, core, clock=clock, folder=folder)
        figures = self.shadows.figures if self.shadows is not None else tuple
        self.metrics = Metrics(self.window, figures, self._told, prefill)
        self.server = Server(
            params,
            view=View(self.window, figures, {"policy": core.policy, **(about or {})}),
            metrics=self.metrics,
            audit=audit or core.audit,
            fleet=fleet or CoreFleet(core),
            unwell=unwell,
            prefill=prefill,
            prefill_fleet=prefill_fleet,
        )
        self._listeners: list[Listener] = [self.window, self.metrics]
        if self.shadows is not None:
            self._listeners.append(self.shadows)
        core.listeners.extend(self._listeners)

    def _told(self, worker: int) -> Gauges | None:
        """Return what a worker's engine said last."""
        workers = self._core.workers
        return workers[worker].gauges if worker < len(workers) else None

    async def start(self) -> None:
        """Begin to serve, and to run shadow routers.

        Raises
        ------
        ParameterError
            Address and port cannot be had.
        """
        await self.server.start()
        if self.shadows is not None:
            self.shadows.start()

    async def stop(self) -> None:
        """Stop both, and listen no more."""
        if self.shadows is not None:
            self.shadows.stop()
        await self.server.stop()
        for listener in self._listeners:
            self._core.listeners.remove(listener)
