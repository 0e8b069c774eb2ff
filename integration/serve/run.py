"""The supervisor: runs Envoy and, beside it, a picker that it watches.

It does nothing heavy itself, so that it always sees when the picker comes round no more. Envoy runs
on whatever becomes of the picker; without one it routes by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from brsolver.errors import OutputError, ParameterError
from integration.envoy.admin import EnvoyAdmin
from integration.envoy.bootstrap import ENDPOINTS, Ports, as_text, bootstrap, mark_of, redacted
from integration.envoy.process import EnvoyProcess, EnvoyStartError
from integration.envoy.program import find_envoy
from integration.serve.apart import Apart, hindrances, require_settled
from integration.serve.by_hand import FILE as BY_HAND
from integration.serve.by_hand import PREFILL_FILE as PREFILL_BY_HAND
from integration.serve.folder import held_folder
from integration.serve.kept import FILE as KEPT
from integration.serve.kept import Kept
from integration.serve.lookup import LOOKED_UP, PREFILL_LOOKED_UP
from integration.serve.places import LOOPBACK, Places
from integration.serve.preflight import check_packages, preflight
from integration.serve.signals import Signals
from integration.serve.trimming import forget_files
from integration.serve.watchdog import ChildError, Watched, WatchParams, first_of
from integration.settings import Address, built, load, named, read_tables

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from integration.settings import ServeConfig

BAD_INPUT = 2
AGAIN_S = 0.5
"""Before Envoy is started again: one that cannot run must not take the machine."""


class Source(NamedTuple):
    """Settings, and where they are read from again.

    Attributes
    ----------
    kept : Kept
        As they were read at the start.
    workers : str or None
        See `integration.settings.load`.
    """

    kept: Kept
    workers: str | None = None


def run_serve(
    path: Path, *, envoy: str | None = None, workers: str | None = None, apart: bool = False
) -> int:
    """Serve until told to stop; return the exit status.

    Parameters
    ----------
    path : Path
        Settings.
    envoy : str, optional
        Envoy's program.
    workers : str, optional
        See `integration.settings.load`.
    apart : bool
        Whether no Envoy is started: there is one that somebody else starts and ends.

    Raises
    ------
    BrsolverError
        Something that serving needs is not there; one line.
    """
    if apart and envoy is not None:
        raise ParameterError("--envoy and --no-envoy exclude each other; give one")
    source, config = _read(path, workers)
    check_packages()
    if apart:
        require_settled(config)
        return _run(source, config, None, apart=True)
    own = _named(config)
    if envoy is None and own is not None:
        with named(config.file):
            program = find_envoy(own)
    else:
        program = find_envoy(envoy)
    return _run(source, config, program)


def run_picker(path: Path, *, workers: str | None = None) -> int:
    """Pick for a gateway until told to stop; return the exit status; see `run_serve`.

    Raises
    ------
    BrsolverError
        Something that it needs is not there; one line.
    """
    source, config = _read(path, workers)
    check_packages()
    return _run(source, config, None)


def bootstrap_text(path: Path, *, workers: str | None = None, keys: bool = False) -> str:
    """Return the bootstrap that Envoy would get; say what keeps another Envoy from using it.

    Parameters
    ----------
    path : Path
        Settings.
    workers : str, optional
        See `integration.settings.load`.
    keys : bool
        Whether API keys are in it. Without, Envoy does not take it where there are some.

    Raises
    ------
    BrsolverError
        The settings cannot be.
    """
    config = load(path, workers=workers)
    for line in hindrances(config, keys=keys):
        _say(f"warning: {line}")
    folder = config.path(config.envoy.folder) if config.envoy.folder else Path.cwd()
    made = _bootstrap(config, Places.choose(config, folder))
    return as_text(made if keys else redacted(made))


def _read(path: Path, workers: str | None) -> tuple[Source, ServeConfig]:
    tables = read_tables(path, workers=workers)
    return Source(Kept(tables, path), workers), built(tables, path)


def _named(config: ServeConfig) -> str | None:
    return None if config.envoy.path is None else str(config.path(config.envoy.path))


def _bootstrap(config: ServeConfig, places: Places) -> dict[str, Any]:
    ports = Ports(
        listen=places.listen, admin=places.envoy_admin, door=places.door, grpc=places.grpc
    )
    return bootstrap(config, ports, endpoints=Path(places.folder) / ENDPOINTS)


def _run(source: Source, config: ServeConfig, program: Path | None, *, apart: bool = False) -> int:
    with held_folder(config) as folder:
        envoy = apart or program is not None
        try:
            asyncio.run(_supervise(source, config, program, folder, envoy=envoy))
        except ChildError as error:
            if error.status == BAD_INPUT:
                return BAD_INPUT  # and has said why
            raise
    return 0


async def _supervise(
    source: Source, config: ServeConfig, program: Path | None, folder: Path, *, envoy: bool
) -> None:
    # What was done by hand, and taken in, holds while this serves, whatever becomes of pickers.
    for left in (BY_HAND, PREFILL_BY_HAND, KEPT, LOOKED_UP, PREFILL_LOOKED_UP):
        (folder / left).unlink(missing_ok=True)
    apart = envoy and program is None
    for line in await preflight(config, envoy=envoy, apart=apart):
        _say(f"warning: {line}")
    places = Places.choose(config, folder, envoy=envoy, apart=apart)
    supervisor = Supervisor(source, config, places, program)
    with Signals() as signals:
        try:
            if await _started(supervisor, signals):
                supervisor.announce()
                forget_files()
                await supervisor.go_on(signals)
                await supervisor.drain(signals)
        finally:
            await supervisor.stop(signals)


async def _started(supervisor: Supervisor, signals: Signals) -> bool:
    """Start all; tell whether it has come to that before it was to stop."""
    starting = asyncio.ensure_future(supervisor.start())
    await first_of(signals.stop.wait(), asyncio.wait([starting]))
    if starting.done():
        await starting
        return True
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    return False


class Supervisor:
    """Envoy and a watched picker.

    Parameters
    ----------
    source : Source
        Settings, for the picker.
    config : ServeConfig
        The same.
    places : Places
    program : Path or None
        Envoy; None runs the picker alone.
    """

    def __init__(
        self, source: Source, config: ServeConfig, places: Places, program: Path | None
    ) -> None:
        self._kept, self._config, self._places = source.kept, config, places
        command = [sys.executable, "-m", "integration.serve.child"]
        command += [str(source.kept.file), str(places.file)]
        command += [] if source.workers is None else [source.workers]
        params = WatchParams(freeze_s=config.picker.watchdog_s)
        self.picker = Watched(command, params, tell=_say, prepare=self._prepare)
        self.envoy = self._made(program) if program is not None else None
        self.apart = self._looked_after() if places.apart else None

    def _prepare(self) -> None:
        """Put in its place what a picker reads, should it have been lost meanwhile.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        self._places.save()
        folder = Path(self._places.folder)
        try:
            self._kept = Kept.load(folder, self._kept.file)
        except (OSError, ValueError):
            self._kept.save(folder)

    def _looked_after(self) -> Apart:
        mark = mark_of(_bootstrap(self._config, self._places))
        return Apart(EnvoyAdmin(self._places.envoy_admin), mark, _say)

    def _made(self, program: Path) -> EnvoyProcess:
        return EnvoyProcess(
            program,
            _bootstrap(self._config, self._places),
            admin_port=self._places.envoy_admin,
            folder=Path(self._places.folder),
            threads=self._config.envoy.threads,
        )

    async def start(self) -> None:
        """Start the picker, which writes what Envoy needs, then Envoy.

        Raises
        ------
        ChildError, EnvoyStartError
            One of them did not come up.
        """
        await self.picker.start()
        if self.envoy is not None:
            await self.envoy.start()

    def announce(self) -> None:
        """Say on standard output where everything is, and what it leaves to others on the other."""
        page = _url("http", self._config.admin.host, self._places.admin)
        lines = [self._served(), f"page on {page}"]
        sys.stdout.write("\n".join([*lines, "ready", ""]))
        sys.stdout.flush()
        if self.apart is not None and self._config.keys:
            _say("API keys are looked at by Envoy alone: those that it was started with hold")

    def _served(self) -> str:
        listen, places = self._config.listen, self._places
        if not places.envoy:
            return f"picking on {Address(self._config.picker.host, places.grpc)} (gRPC)"
        scheme = "http" if listen.certificate is None else "https"
        url = _url(scheme, listen.host, places.listen)
        return f"picking for an Envoy apart, on {url}" if places.apart else f"serving on {url}"

    async def go_on(self, signals: Signals) -> None:
        """Serve until told to stop: pass on SIGHUP, start Envoy again if it ends."""
        while True:
            waits: list[Awaitable[object]] = [signals.stop.wait(), signals.reload.wait()]
            if self.envoy is not None:
                waits += [self.envoy.wait(), self._envoy_frozen(self.envoy)]
            if self.apart is not None:
                waits.append(self.apart.watch())
            happened = await first_of(*waits)
            if happened == 0:
                return
            if happened == 1:
                signals.reload.clear()
                self.picker.ask(signal.SIGHUP)
            else:
                await self._envoy_again(signals)

    async def _envoy_frozen(self, envoy: EnvoyProcess) -> None:
        """Wait until Envoy has been frozen for too long, and end it."""
        limit_s = self._config.envoy.watchdog_s
        await envoy.silent(limit_s or math.inf)
        _say(f"Envoy has not answered for {limit_s:g} s and is killed")
        await envoy.kill()

    async def _envoy_again(self, signals: Signals) -> None:
        """Start Envoy anew; the picker is told first that all streams have ended."""
        envoy = self.envoy
        if envoy is None:
            return
        _say("Envoy has ended; starting another")
        while not signals.stop.is_set():
            self.picker.signal(signal.SIGUSR1)
            try:
                await envoy.start()
            except (EnvoyStartError, OutputError) as error:
                # A disk that is full is so for a while.
                _say(str(error))
                await first_of(signals.stop.wait(), asyncio.sleep(AGAIN_S))
            else:
                _say("Envoy is back")
                return

    async def drain(self, signals: Signals) -> None:
        """Let running streams end, unless told a second time to stop."""
        limit_s = self._config.limits.drain_s
        if self.apart is not None:
            _say(
                f"what has been placed has {limit_s:g} s to end; Envoy stays, and routes by itself"
            )
        if self.envoy is None or not self.envoy.running:
            return
        _say(f"no new requests; running ones have {limit_s:g} s to end")
        await first_of(signals.now.wait(), self.envoy.drain(limit_s))

    async def stop(self, signals: Signals) -> None:
        """End both; a picker that lets streams end is told of the second time to stop."""
        if self.envoy is not None:
            await self.envoy.stop()
        grace_s = 10.0 if self.envoy is not None else 10.0 + self._config.limits.drain_s
        ending = asyncio.ensure_future(self.picker.stop(grace_s=grace_s))
        await first_of(asyncio.wait([ending]), signals.now.wait())
        # Two of a kind that come together are one.
        self.picker.signal(signal.SIGINT)
        await ending


def _url(scheme: str, host: str, port: int) -> str:
    shown = LOOPBACK if host in {"0.0.0.0", "::"} else host  # noqa: S104 # compared only
    return f"{scheme}://{Address(shown, port)}/"


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"brsolver: {' '.join(line.split())}\n")
        sys.stderr.flush()
