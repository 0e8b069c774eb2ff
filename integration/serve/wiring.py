"""The picker's parts put together: core, doors, engines' figures, admin; in one event loop."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from integration.admin.recorder import EventRecorder
from integration.doors.access_log import AccessLog
from integration.doors.authz import AuthzDoor
from integration.doors.comparing import Comparing
from integration.doors.ext_proc import ExtProc, ExtProcParams
from integration.doors.fleet import Fleet
from integration.doors.grpc_server import GrpcServer
from integration.doors.health import Health
from integration.doors.kv_events import KvEvents, KvEventsParams
from integration.doors.ledger import Ledger
from integration.doors.poller import Poller, PollerParams
from integration.doors.reception import Reception, by_client
from integration.doors.reconcile import Reconciler
from integration.envoy import ENDPOINTS, Endpoints, EnvoyAdmin, EnvoyAdminError
from integration.messages.names import UNREAD, WATCHED
from integration.picker import Core, End, Pump
from integration.picker.reading import Reader
from integration.picker.resuming import found_running
from integration.picker.sampling import Watched
from integration.picker.unread import Unread
from integration.recording import MIB
from integration.serve.administration import administration
from integration.serve.by_hand import FILE as BY_HAND
from integration.serve.by_hand import PREFILL_FILE as PREFILL_BY_HAND
from integration.serve.by_hand import ByHand
from integration.serve.logs import EventLog, set_up
from integration.serve.lookup import LOOKED_UP, PREFILL_LOOKED_UP, Lookup
from integration.serve.membership import Membership
from integration.serve.prefilling import Prefilling
from integration.serve.sources import first_workers, look_anew, source_of
from integration.serve.watchdog import first_of
from integration.settings import named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from integration.picker import WorkerSpec
    from integration.serve.places import Places
    from integration.settings import ServeConfig

POLL_S = 0.05


class Picker:
    """A picker that serves from `start` to `stop`; see `found`.

    Parameters
    ----------
    config : ServeConfig
    places : Places
        Ports and files as they are once chosen.
    specs : sequence of WorkerSpec
        Workers to begin with.
    hands : ByHand, optional
        What was added and drained by hand.
    lookup : Lookup, optional
        Knows where the workers are.

    Attributes
    ----------
    core : Core
    logger : Logger

    Raises
    ------
    BrsolverError
        Something of the settings cannot be; one line.
    """

    def __init__(
        self,
        config: ServeConfig,
        places: Places,
        specs: Sequence[WorkerSpec],
        hands: ByHand | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        self._lookup = Lookup() if lookup is None else lookup
        self.logger = set_up(config.log, config.folder)
        self._config, self._places = config, places
        clock = time.monotonic
        router = config.router
        if config.tiers is not None:
            # Prompts come computed.
            router = replace(router, prefill=False)
        with named(config.file, "[router]"):
            self.core = core = Core(router, specs, clock=clock, folder=config.folder)
        self._pump = pump = Pump(core)
        self._fleet = fleet = Fleet(pump, specs)
        self._ledger = Ledger(pump, fleet, clock=clock)
        self._kv_events = _kv_events(config, core, fleet)
        adapters = None if self._kv_events is None else self._kv_events.adapters
        watched = Watched(config.picker.sample_streams if places.envoy else 0, WATCHED)
        unread = Unread(UNREAD) if places.envoy else None
        with named(config.file, "[router]"):
            reader = Reader(
                router, config.folder, adapters=adapters, watched=watched, unread=unread
            )
        self._reader = reader
        retries = config.limits.retries if places.envoy else None
        self._reception = Reception(
            pump, fleet, self._ledger, read=by_client(reader), retries=retries
        )
        self._comparing = Comparing(core, self._at_envoy, self._reception.passed)
        self._poller = Poller(pump, fleet, _polling(config))
        self._prefilling = self._prefill_tier()
        self._tiers = None if self._prefilling is None else self._prefilling.tiers
        self._endpoints = Endpoints(Path(places.folder) / ENDPOINTS) if places.envoy else None
        self._membership = Membership(
            core,
            fleet,
            changed=self._workers_changed,
            hands=hands,
            others=None if self._prefilling is None else self._prefilling.fleet,
        )
        with named(None, "[admin]"):
            self._admin = administration(
                config,
                places,
                core,
                clock=clock,
                fleet=self._membership,
                unwell=self._unwell,
                prefill=None if self._tiers is None else self._tiers.figures,
                prefill_fleet=self._prefilling,
                audit=self._comparing.audit,
            )
        events = EventLog(self.logger, lambda worker: core.workers[worker].spec.name)
        core.listeners.extend([reader, watched, self._membership, events, self._comparing])
        if unread is not None:
            core.listeners.append(unread)
        with named(None, "[trace]"):
            self._recorder = recorder_of(config)
        if self._recorder is not None:
            core.listeners.append(self._recorder)
        self._health = Health()
        self._authz: AuthzDoor | None = None
        self._grpc = self._doors()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def found(cls, config: ServeConfig, places: Places) -> Self:
        """Return a picker for the workers that there are; it may have to wait for the first one.

        Raises
        ------
        BrsolverError
            Something of the settings cannot be; one line.
        """
        logger = set_up(config.log, config.folder)
        # Pods that are to be picked may come after their picker.
        patient = not places.envoy
        lookup = Lookup(path=Path(places.folder) / LOOKED_UP)
        specs = await first_workers(config, logger.warning, patient=patient, lookup=lookup)
        hands = ByHand(Path(places.folder) / BY_HAND)
        return cls(config, places, hands.among(specs), hands, lookup)

    def _prefill_tier(self) -> Prefilling | None:
        config = self._config
        if config.tiers is None:
            return None
        return Prefilling(
            config.tiers,
            self._reception,
            _polling(config),
            router=config.router,
            retry_statuses=config.limits.retry_statuses,
            fault=partial(self.core.fault, "prefill"),
            say=self.logger.info,
            complain=self.logger.warning,
            lookup=Lookup(path=Path(self._places.folder) / PREFILL_LOOKED_UP),
            hands=ByHand(Path(self._places.folder) / PREFILL_BY_HAND),
            others=self._fleet,
            folder=config.folder,
            patient=not self._places.envoy,
        )

    def _doors(self) -> GrpcServer:
        """Make the doors: ext_authz or ext_proc, and what Envoy's access log comes in by."""
        places, config = self._places, self._config
        self._envoy = EnvoyAdmin(places.envoy_admin)
        self._reconciler = Reconciler(self._ledger, self._fleet, self._at_envoy)
        log = AccessLog(
            self._ledger,
            broken=self._reconciler.broken if places.envoy else None,
            ours=self._reader.named,
        )
        handlers = [log.handler(), self._health.handler()]
        if places.envoy and config.tiers is None:
            # With ext_proc, too: what a worker did not take comes here.
            self._authz = AuthzDoor(self._reception, body_limit=config.limits.body_bytes)
        if not places.envoy or config.picker.door != "ext_authz":
            # A gateway of others has bounds of its own.
            count, size = config.limits.with_ours if places.envoy else (None, None)
            params = ExtProcParams(
                ends="log" if places.envoy else "stream",
                body_limit=config.limits.body_bytes,
                header_limit=size,
                header_count=count,
            )
            handlers.append(ExtProc(self._reception, params, tiers=self._tiers).handler())
        certificate, key = config.picker.certificate, config.picker.key
        return GrpcServer(
            handlers,
            body_limit=config.limits.body_bytes,
            certificate=None if certificate is None else config.path(certificate),
            key=None if key is None else config.path(key),
        )

    async def start(self) -> None:
        """Begin to serve: Envoy can know the workers, and they have been asked once.

        Raises
        ------
        BrsolverError
            A port cannot be had.
        """
        host, places = self._config.picker.host, self._places
        self._workers_changed(self._fleet.addresses())
        self._tasks.append(asyncio.get_running_loop().create_task(self._poller.run()))
        while not self._poller.rounds and not self._tasks[0].done():
            # What runs there already counts before anything is decided.
            await asyncio.sleep(POLL_S)
        await self._take_over()
        self._membership.restore()
        if self._kv_events is not None:
            self._tasks.append(asyncio.get_running_loop().create_task(self._kv_events.run()))
        if places.envoy:
            self._tasks.append(asyncio.get_running_loop().create_task(self._comparing.run()))
        if self._prefilling is not None:
            # Before anything comes in: a worker that was drained by hand gets nothing.
            await self._prefilling.start()
        await self._grpc.start(host, places.grpc)
        if self._authz is not None:
            await self._authz.start(host, places.door)
        await self._admin.start()
        source = source_of(self._config, self.logger.warning, self._lookup)
        self._membership.follow(source)
        self._health.ready = True

    async def reload(self, config: ServeConfig) -> None:
        """Take in anew which workers there are; all else holds until the next start.

        Raises
        ------
        BrsolverError
            A worker's name is not known; then nothing is changed.
        """
        tiers, prefilling = config.tiers, self._prefilling
        say, beside = self.logger.warning, ""
        decode = await look_anew(config.decoding, config.folder, say, self._lookup)
        if tiers is not None and prefilling is not None:
            prefill = await prefilling.look_anew(tiers, config.folder)
            self._membership.take(decode)
            beside = f", {prefilling.take(prefill)} that compute prompts"
        else:
            self._membership.take(decode)
        self._lookup = decode.lookup
        self.logger.info("settings were read again: %d workers%s", len(self._fleet), beside)

    def proxy_gone(self) -> None:
        """Take in that Envoy has ended, and with it every stream."""
        for name in list(self._ledger.places):
            # Workers are not to blame: after some resets they would all be taken to be down.
            self._ledger.ended(name, End.DISCONNECTED)

    async def stop(self, *, at_once: asyncio.Event) -> None:
        """Let what runs end, as far as that is for the picker to see to, then end."""
        self._health.ready = False
        if self._places.apart and self._authz is not None:
            # What comes from now on Envoy routes by itself, or this would never be empty.
            await self._authz.stop()
        if self._places.apart or not self._places.envoy:
            await first_of(at_once.wait(), self._empty())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._membership.stop()
        await self._reconciler.stop()
        if self._prefilling is not None:
            await self._prefilling.stop()
        if self._authz is not None:
            await self._authz.stop()
        await self._grpc.stop()
        await self._admin.stop()
        self._pump.stop()
        if self._recorder is not None:
            self._recorder.close()

    async def _empty(self) -> None:
        try:
            async with asyncio.timeout(self._config.limits.drain_s):
                while self._ledger.places:
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            self.logger.warning("%d streams still ran", len(self._ledger))

    async def _take_over(self) -> None:
        """Enter what Envoy has from before; what engines run besides is counted as others'."""
        asked_s = time.time()
        there = await self._at_envoy() if self._places.envoy else None
        counted = asked_s, time.time()
        told = self._poller.last
        live = found_running(self.core.workers, there or {}, told)
        if not live:
            return
        self._ledger.take_over(live, counted=counted)
        for worker, gauges in told.items():
            # Of what they run, that much is in the books now.
            self._pump.told(worker, gauges)
        # The log may have had no stream when some of them ended.
        self._reconciler.watch()

    async def _at_envoy(self) -> dict[str, int] | None:
        """Return how many requests Envoy has at each address; None if it is gone."""
        try:
            return {host.address: host.active for host in await self._envoy.hosts()}
        except EnvoyAdminError:
            return None

    def _workers_changed(self, addresses: Sequence[str]) -> None:
        if self._endpoints is not None:
            self._endpoints.write(addresses)

    def _unwell(self) -> str | None:
        return None if self._fleet.live else "no worker answers"


def _kv_events(config: ServeConfig, core: Core, fleet: Fleet) -> KvEvents | None:
    table = config.kv_events
    if table is None:
        return None
    params = KvEventsParams(
        port=table.port,
        replay_port=table.replay_port,
        topic=table.topic,
        add_place=table.add_place,
        places={name: place for place, name in enumerate(config.decoding.addresses)},
        block_tokens=config.router.block_tokens,
    )
    return KvEvents(core, fleet, params)


def recorder_of(config: ServeConfig) -> EventRecorder | None:
    """Return what records what is served, where settings want that.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    trace = config.trace
    if trace.record is None:
        return None
    limit = None if trace.record_mib is None else trace.record_mib * MIB
    return EventRecorder(config.path(trace.record), rotate_bytes=limit)


def _polling(config: ServeConfig) -> PollerParams:
    workers = config.workers
    return PollerParams(
        interval_s=workers.health_interval_s,
        metrics_path=workers.metrics_path,
        health_path=workers.health_path,
        scheme="https" if workers.tls else "http",
        ca=None if workers.ca is None else config.path(workers.ca),
    )
