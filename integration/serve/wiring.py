"""The picker's parts put together: core, doors, engines' figures, admin; in one event loop."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from integration.doors.access_log import AccessLog
from integration.doors.authz import AuthzDoor
from integration.doors.ext_proc import ExtProc, ExtProcParams
from integration.doors.fleet import Fleet
from integration.doors.grpc_server import GrpcServer
from integration.doors.health import Health
from integration.doors.ledger import Ledger
from integration.doors.poller import Poller, PollerParams
from integration.doors.reception import Reception
from integration.doors.reconcile import Reconciler
from integration.envoy.admin import EnvoyAdmin, EnvoyAdminError
from integration.envoy.bootstrap import ENDPOINTS
from integration.envoy.endpoints import Endpoints
from integration.picker import Core, End, Pump, Refused
from integration.serve.administration import administration
from integration.serve.logs import EventLog, set_up
from integration.serve.membership import Membership, source_of, workers_of
from integration.serve.prefilling import Prefilling
from integration.serve.watchdog import first_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration.picker import Ask
    from integration.serve.places import Places
    from integration.settings import ServeConfig

POLL_S = 0.05


class Reader:
    def __init__(self, params, folder):
        pass

    def read(self, name, path, body):
        import json

        from integration.picker import Ask

        told = json.loads(body)
        prompt = told.get("prompt") or ""
        return Ask(
            name=name,
            prompt_tokens=max(1, len(prompt)),
            max_tokens=told.get("max_tokens"),
            stream=bool(told.get("stream")),
        )


class Picker:
    """A picker that serves from `start` to `stop`.

    Parameters
    ----------
    config : ServeConfig
    places : Places
        Ports and files as they are once chosen.

    Attributes
    ----------
    core : Core
    logger : Logger

    Raises
    ------
    BrsolverError
        Something of the settings cannot be; one line.
    """

    def __init__(self, config: ServeConfig, places: Places) -> None:
        self.logger = set_up(config.log, config.folder)
        self._config, self._places = config, places
        specs = workers_of(config)
        clock = time.monotonic
        self.core = core = Core(config.router, specs, clock=clock, folder=config.folder)
        self._pump = Pump(core)
        self._fleet = Fleet(self._pump, specs)
        self._ledger = Ledger(self._pump, self._fleet, clock=clock)
        self._reader = Reader(config.router, config.folder)
        # Identities of an earlier picker's requests, whose ends may yet be told, are no one's here.
        self._names = (f"{secrets.token_hex(4)}-{n:x}" for n in itertools.count())
        self._reception = Reception(self._pump, self._fleet, self._ledger, read=self._read)
        polling = _polling(config)
        self._poller = Poller(self._pump, self._fleet, polling)
        self._prefilling = (
            Prefilling(config.tiers, self._reception, polling) if config.tiers else None
        )
        self._membership = Membership(core, self._fleet, changed=self._workers_changed)
        self._endpoints = Endpoints(Path(places.folder) / ENDPOINTS) if places.envoy else None
        self._admin = administration(
            config, places, core, clock=clock, fleet=self._membership, unwell=self._unwell
        )
        self._health = Health()
        self._doors()
        self._tasks: list[asyncio.Task[None]] = []
        core.listeners.extend([self._membership, EventLog(self.logger)])

    def _doors(self) -> None:
        """Make the doors: ext_authz, or ext_proc; the access log, where Envoy is ours."""
        places, config = self._places, self._config
        self._envoy = EnvoyAdmin(places.envoy_admin)
        self._reconciler = Reconciler(self._ledger, self._fleet, self._at_envoy)
        broken = self._reconciler.broken if places.envoy else None
        self._log = AccessLog(self._ledger, broken=broken)
        handlers = [self._log.handler(), self._health.handler()]
        self._authz: AuthzDoor | None = None
        if places.envoy and config.picker.door == "ext_authz":
            self._authz = AuthzDoor(self._reception, body_limit=config.limits.body_bytes)
        else:
            params = ExtProcParams(
                ends="log" if places.envoy else "stream", body_limit=config.limits.body_bytes
            )
            tiers = self._prefilling.tiers if self._prefilling else None
            handlers.append(ExtProc(self._reception, params, tiers=tiers).handler())
        certificate, key = config.picker.certificate, config.picker.key
        self._grpc = GrpcServer(
            handlers,
            certificate=None if certificate is None else config.path(certificate),
            key=None if key is None else config.path(key),
        )

    async def start(self) -> None:
        """Begin to serve: the engines have been asked once, and Envoy can be told where they are.

        Raises
        ------
        BrsolverError
            A port cannot be had.
        """
        host, places = self._config.picker.host, self._places
        self._workers_changed(self._fleet.addresses())
        await self._first_look()
        await self._grpc.start(host, places.grpc)
        if self._authz is not None:
            await self._authz.start(host, places.door)
        await self._admin.start()
        if self._prefilling is not None:
            await self._prefilling.start()
        self._tasks.append(asyncio.get_running_loop().create_task(self._poller.run()))
        self._membership.follow(source_of(self._config, self.logger.warning))
        self._health.ready = True

    async def _first_look(self) -> None:
        """Ask every engine once: what runs there already counts before anything is decided."""
        task = asyncio.get_running_loop().create_task(self._poller.run())
        while not self._poller.rounds and not task.done():
            await asyncio.sleep(POLL_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def reload(self, config: ServeConfig) -> None:
        """Take in settings anew: which workers there are; all else holds until the next start.

        Raises
        ------
        BrsolverError
            A worker's name is not known.
        """
        specs = workers_of(config)
        self._config = config
        self._membership.set(specs)
        self._membership.follow(source_of(config, self.logger.warning))
        self.logger.info("settings were read again: %d workers", len(self._fleet))

    async def _at_envoy(self) -> dict[str, int] | None:
        """Return how many requests Envoy has at each address; None if it is gone."""
        try:
            return {host.address: host.active for host in await self._envoy.hosts()}
        except EnvoyAdminError:
            return None

    def proxy_gone(self) -> None:
        """Take in that Envoy has ended, and with it every stream."""
        for name in list(self._ledger.places):
            self._ledger.ended(name, End.RESET)

    async def stop(self, *, at_once: asyncio.Event) -> None:
        """Let what runs end, as far as that is for the picker to see to, then end."""
        self._health.ready = False
        if not self._places.envoy:
            await first_of(at_once.wait(), self._empty())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._prefilling is not None:
            await self._prefilling.stop()
        await self._membership.stop()
        await self._reconciler.stop()
        if self._authz is not None:
            await self._authz.stop()
        await self._grpc.stop()
        await self._admin.stop()
        self._pump.stop()

    async def _empty(self) -> None:
        try:
            async with asyncio.timeout(self._config.limits.drain_s):
                while self._ledger:
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            self.logger.warning("%d streams still ran", len(self._ledger))

    def _read(
        self, method: str, path: str, body: bytes, client: str | None
    ) -> Ask | Refused | None:
        """Return what a request asks for; None for what takes no slot."""
        del client
        if method != "POST" or not path.startswith("/v1/"):
            return None
        try:
            return self._reader.read(next(self._names), path, body)
        except ValueError as error:
            return Refused(status=400, message=str(error))

    def _workers_changed(self, addresses: Sequence[str]) -> None:
        if self._endpoints is not None:
            self._endpoints.write(addresses)

    def _unwell(self) -> str | None:
        return None if self._fleet.live else "no worker answers"


def _polling(config: ServeConfig) -> PollerParams:
    workers = config.workers
    return PollerParams(
        interval_s=workers.health_interval_s,
        metrics_path=workers.metrics_path,
        health_path=workers.health_path,
        scheme="https" if workers.tls else "http",
    )
