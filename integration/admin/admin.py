"""All of the admin side behind one object: what listens to the core, and its own listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.admin.metrics import Metrics
from integration.admin.server import Server
from integration.admin.view import View
from integration.admin.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from integration.admin.params import AdminParams
    from integration.admin.server import Fleet
    from integration.admin.shadow import Shadows
    from integration.picker.events import Listener


class Admin:
    """Metrics, window, shadow routers and server of one core.

    Parameters
    ----------
    params : AdminParams
    clock : callable
        The core's clock, seconds.
    workers : sequence of str
        Their names, by index.
    audit : callable
        Returns the core's audit.
    fleet : Fleet
        Who changes workers.
    name_of : callable, optional
        Returns the name of a worker that joins, by index.
    shadows : Shadows, optional
    about : dict, optional
        What the page says in its head: ``policy``, ``version``, ``back_end``.
    unwell : callable, optional
        Returns why serving does not go on as it should, None if it does.

    Attributes
    ----------
    listeners : tuple of Listener
        To be told of every event, in this order.
    window : Window
    metrics : Metrics
    server : Server
    """

    def __init__(
        self,
        params: AdminParams,
        *,
        clock: Callable[[], float],
        workers: Sequence[str],
        audit: Callable[[], object],
        fleet: Fleet,
        name_of: Callable[[int], str] | None = None,
        shadows: Shadows | None = None,
        about: dict[str, object] | None = None,
        unwell: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.window = Window(workers, clock=clock, params=params.window, name_of=name_of)
        self._shadows = shadows
        figures = shadows.figures if shadows is not None else tuple
        self.metrics = Metrics(self.window, figures)
        self.server = Server(
            params,
            view=View(self.window, figures, about or {}),
            metrics=self.metrics,
            audit=audit,
            fleet=fleet,
            unwell=unwell,
        )
        listening: list[Listener] = [self.window, self.metrics]
        if shadows is not None:
            listening.append(shadows)
        self.listeners = tuple(listening)

    async def start(self) -> None:
        """Begin to listen, and to run shadow routers.

        Raises
        ------
        ParameterError
            Address and port cannot be had.
        """
        await self.server.start()
        if self._shadows is not None:
            self._shadows.start()

    async def stop(self) -> None:
        """Stop both."""
        if self._shadows is not None:
            self._shadows.stop()
        await self.server.stop()
