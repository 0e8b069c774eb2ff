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
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from brsolver.errors import OutputError
from integration.envoy.bootstrap import ENDPOINTS, Ports, as_text, bootstrap, redacted
from integration.envoy.process import EnvoyProcess, EnvoyStartError
from integration.envoy.program import find_envoy
from integration.serve.by_hand import FILE as BY_HAND
from integration.serve.places import LOOPBACK, Places
from integration.serve.preflight import check_files, check_packages, check_ports, check_workers
from integration.serve.signals import Signals
from integration.serve.sources import specs_of
from integration.serve.trimming import forget_files
from integration.serve.watchdog import ChildError, Watched, WatchParams, first_of
from integration.settings import Address, load, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration.settings import ServeConfig

BAD_INPUT = 2
AGAIN_S = 0.5
"""Before Envoy is started again: one that cannot run must not take the machine."""


class Source(NamedTuple):
    """Where settings are read from, at the start and whenever they are read again.

    Attributes
    ----------
    path : Path
    workers : str or None
        See `integration.settings.load`.
    """

    path: Path
    workers: str | None = None


def run_serve(path: Path, *, envoy: str | None = None, workers: str | None = None) -> int:
    """Serve until told to stop; return the exit status.

    Parameters
    ----------
    path : Path
        Settings.
    envoy : str, optional
        Envoy's program.
    workers : str, optional
        See `integration.settings.load`.

    Raises
    ------
    BrsolverError
        Something that serving needs is not there; one line.
    """
    config = load(path, workers=workers)
    check_packages()
    own = _named(config)
    if envoy is None and own is not None:
        with named(config.file):
            program = find_envoy(own)
    else:
        program = find_envoy(envoy)
    return _run(Source(path, workers), config, program)


def run_picker(path: Path, *, workers: str | None = None) -> int:
    """Pick for a gateway until told to stop; return the exit status; see `run_serve`.

    Raises
    ------
    BrsolverError
        Something that it needs is not there; one line.
    """
    config = load(path, workers=workers)
    check_packages()
    return _run(Source(path, workers), config, None)


def bootstrap_text(path: Path, *, workers: str | None = None) -> str:
    """Return the bootstrap that Envoy would get, without keys.

    Raises
    ------
    BrsolverError
        The settings cannot be.
    """
    config = load(path, workers=workers)
    folder = config.path(config.envoy.folder) if config.envoy.folder else Path.cwd()
    places = Places.choose(config, folder)
    return as_text(redacted(_bootstrap(config, places)))


def _named(config: ServeConfig) -> str | None:
    return None if config.envoy.path is None else str(config.path(config.envoy.path))


def _bootstrap(config: ServeConfig, places: Places) -> dict[str, object]:
    ports = Ports(
        listen=places.listen, admin=places.envoy_admin, door=places.door, grpc=places.grpc
    )
    return bootstrap(config, ports, endpoints=Path(places.folder) / ENDPOINTS)


def _run(source: Source, config: ServeConfig, program: Path | None) -> int:
    with _folder(config) as folder:
        try:
            asyncio.run(_supervise(source, config, program, folder))
        except ChildError as error:
            if error.status == BAD_INPUT:
                return BAD_INPUT  # and has said why
            raise
    return 0


@contextlib.contextmanager
def _folder(config: ServeConfig) -> Iterator[Path]:
    if config.envoy.folder is None:
        with tempfile.TemporaryDirectory(prefix="brsolver-") as name:
            yield Path(name)
        return
    folder = config.path(config.envoy.folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"[envoy] folder is {str(folder)!r}, must be one that can be written: {error.strerror}"
        ) from error
    yield folder


async def _supervise(
    source: Source, config: ServeConfig, program: Path | None, folder: Path
) -> None:
    # What was done by hand holds as long as this serves, whatever becomes of pickers.
    (folder / BY_HAND).unlink(missing_ok=True)
    await preflight(config, envoy=program is not None)
    places = Places.choose(config, folder, envoy=program is not None)
    supervisor = Supervisor(source, config, places, program)
    with Signals() as signals:
        try:
            if await _started(supervisor, signals):
                supervisor.announce()
                forget_files()
                await supervisor.go_on(signals)
                await supervisor.drain(signals)
        finally:
            await supervisor.stop()


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


async def preflight(config: ServeConfig, *, envoy: bool) -> None:
    """Look whether ports are free and workers can be reached.

    Raises
    ------
    PreflightError
        A port is taken, or no worker can be reached.
    """
    wanted = {
        "[admin] port": (config.admin.host, config.admin.port),
        "[picker] grpc_port": (config.picker.host, config.picker.grpc_port),
    }
    if envoy:
        wanted |= {
            "[listen] port": (config.listen.host, config.listen.port),
            "[picker] port": (config.picker.host, config.picker.port),
            "[envoy] admin_port": (LOOPBACK, config.envoy.admin_port),
        }
    with named(config.file):
        check_ports(wanted)
        check_files(config)
        addresses = await asyncio.to_thread(_addresses, config, envoy=envoy)
        unreached = await check_workers(addresses, _setting(config))
    for missing in unreached:
        _say(f"warning: worker {missing} cannot be reached; it gets no requests until it can")


def _setting(config: ServeConfig) -> str:
    """Return what names the workers that are looked for."""
    whence = config.workers.whence
    given = (name for name in ("file", "dns") if getattr(whence, name) is not None)
    return "[tiers]" if config.tiers is not None else whence.label(next(given, "addresses"))


def _addresses(config: ServeConfig, *, envoy: bool) -> list[str]:
    """Return the workers that can be looked for: named in the settings, a file, or by a name.

    Pods that are to be picked may come after their picker, and a service is asked while serving.
    """
    tiers, found = config.tiers, []
    for whence in [config.decoding] if tiers is None else [tiers.prefilling, tiers.decoding]:
        if envoy and not whence.addresses:
            # The picker says which names are not known.
            specs = specs_of(whence, config.folder, lambda _: None)
            found += [each.address for each in specs]
        found += whence.addresses
    return found


class Supervisor:
    """Envoy and a watched picker.

    Parameters
    ----------
    source : Source
        Settings, for the picker to read.
    config : ServeConfig
    places : Places
    program : Path or None
        Envoy; None runs the picker alone.
    """

    def __init__(
        self, source: Source, config: ServeConfig, places: Places, program: Path | None
    ) -> None:
        self._config, self._places = config, places
        command = [sys.executable, "-m", "integration.serve.child"]
        command += [str(source.path), str(places.save())]
        command += [] if source.workers is None else [source.workers]
        params = WatchParams(freeze_s=config.picker.watchdog_s)
        self.picker = Watched(command, params, tell=_say)
        self.envoy = self._made(program) if program is not None else None

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
        """Say on standard output where everything is."""
        listen, places = self._config.listen, self._places
        lines = [f"page on {_url('http', self._config.admin.host, places.admin)}", "ready"]
        if self.envoy is not None:
            scheme = "http" if listen.certificate is None else "https"
            lines.insert(0, f"serving on {_url(scheme, listen.host, places.listen)}")
        else:
            lines.insert(0, f"picking on {Address(self._config.picker.host, places.grpc)} (gRPC)")
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()

    async def go_on(self, signals: Signals) -> None:
        """Serve until told to stop: pass on SIGHUP, start Envoy again if it ends."""
        while True:
            waits = [signals.stop.wait(), signals.reload.wait()]
            if self.envoy is not None:
                waits.append(self.envoy.wait())  # type: ignore[arg-type] # all that is awaited
                waits.append(self._envoy_frozen(self.envoy))  # type: ignore[arg-type] # likewise
            happened = await first_of(*waits)
            if happened == 0:
                return
            if happened == 1:
                signals.reload.clear()
                self.picker.signal(signal.SIGHUP)
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
            except EnvoyStartError as error:
                _say(str(error))
                await first_of(signals.stop.wait(), asyncio.sleep(AGAIN_S))
            else:
                _say("Envoy is back")
                return

    async def drain(self, signals: Signals) -> None:
        """Let running streams end, unless told a second time to stop."""
        if self.envoy is None or not self.envoy.running:
            return
        limit_s = self._config.limits.drain_s
        _say(f"no new requests; running ones have {limit_s:g} s to end")
        await first_of(signals.now.wait(), self.envoy.drain(limit_s))

    async def stop(self) -> None:
        """End both."""
        if self.envoy is not None:
            await self.envoy.stop()
        grace_s = 10.0 if self.envoy is not None else 10.0 + self._config.limits.drain_s
        await self.picker.stop(grace_s=grace_s)


def _url(scheme: str, host: str, port: int) -> str:
    shown = LOOPBACK if host in {"0.0.0.0", "::"} else host  # noqa: S104 # compared only
    return f"{scheme}://{Address(shown, port)}/"


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"brsolver: {' '.join(line.split())}\n")
        sys.stderr.flush()
