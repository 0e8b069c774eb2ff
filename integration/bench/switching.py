"""How the server comes to run the next policy: started anew, or told to change while it runs."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, Self

from brsolver.errors import ParameterError
from brsolver.hardware import read_hardware
from integration.bench.arms import MODE, ROUTER
from integration.bench.client import warm_up
from integration.bench.counters import parse_counters
from integration.bench.server import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from integration.bench.arms import Arm
    from integration.bench.server import Server
    from integration.bench.workload import Workload

    Factory = Callable[[Mapping[str, str], str, tuple[str, ...]], Server]
    """Makes a server from additional variables, a label for its files and further arguments."""

    Settings = Mapping[str, str]
    """Of the adapter, by name, besides policy and mode; the same for all arms."""

RELOAD_S = 0.25
PATIENCE_S = 120.0
RELOADS = "brsolver_reloads_total"


class Stage(Protocol):
    """Where runs take place."""

    def running(self, arm: Arm, label: str) -> AbstractContextManager[Server]:
        """Give a server that runs `arm`, idle and with nothing learned."""
        ...


class Restarting:
    """A server of its own for every run.

    Parameters
    ----------
    factory : callable
        Makes the server of a run.
    file : Path
        The TOML file to write.
    settings : mapping of str to str
    """

    def __init__(self, factory: Factory, file: Path, settings: Settings) -> None:
        self._factory, self._file, self._settings = factory, file, settings

    def running(self, arm: Arm, label: str) -> AbstractContextManager[Server]:
        """Start a server; leaving the context ends it."""
        environment = {}
        if arm.mode:
            write_settings(self._file, arm, self._settings)
            environment = {ROUTER: str(self._file), MODE: ""}
        return self._factory(environment, label, arm.arguments)


class Reloading:
    """One server for all runs, whose adapter reads its policy from a file that changes.

    Runs differ less than between servers, and no time goes into starting them; the adapter must
    be active throughout, so ``off`` cannot be among the arms. Where an arm's server is started
    with other arguments than the last one's, it takes that one's place. Leave the context of the
    stage to end the server.

    Parameters
    ----------
    factory : callable
        Makes servers.
    file : Path
        The TOML file to write.
    arms : sequence of Arm
        All that will run.
    workload : Workload
        Whose first tokens wake the adapter: it begins with them, and watches the file from then
        on.
    settings : mapping of str to str, optional

    Raises
    ------
    ParameterError
        If the adapter is not active in one of the arms.
    """

    def __init__(
        self,
        factory: Factory,
        file: Path,
        arms: Sequence[Arm],
        workload: Workload,
        settings: Settings = MappingProxyType({}),
    ) -> None:
        for arm in arms:
            if not arm.mode:
                raise ParameterError(f"{arm.name!r} needs a server of its own: use --restart")
        self._factory, self._file, self._workload = factory, file, workload
        self._settings = settings
        self._open = ExitStack()
        self._server: Server | None = None
        self._arguments: tuple[str, ...] = ()
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @contextmanager
    def running(self, arm: Arm, label: str) -> Iterator[Server]:
        """Switch the server over, or start one; `label` is not needed.

        Raises
        ------
        ServerError
            The server does not start, or its adapter is not active.
        """
        del label
        if self._server is None or arm.arguments != self._arguments:
            self._server = self._start(arm)
        else:
            self._switch(self._server, arm)
        yield self._server

    def _start(self, arm: Arm) -> Server:
        self._open.close()
        self._write(arm)
        self._started += 1
        label = f"server{self._started}" if self._started > 1 else "server"
        environment = {ROUTER: str(self._file), MODE: ""}
        server = self._open.enter_context(self._factory(environment, label, arm.arguments))
        self._arguments = arm.arguments
        warm_up(server, self._workload)
        if _reloads(server) is None:
            raise ServerError(f"the adapter is not active (log: {server.log})")
        return server

    def _switch(self, server: Server, arm: Arm) -> None:
        awaited = (_reloads(server) or 0.0) + server.params.api_servers
        self._write(arm)
        deadline = time.monotonic() + PATIENCE_S
        while (_reloads(server) or 0.0) < awaited:
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the adapter did not take in {arm.name} within {PATIENCE_S:g} s "
                    f"(log: {server.log})"
                )
            time.sleep(RELOAD_S)

    def _write(self, arm: Arm) -> None:
        write_settings(self._file, arm, self._settings, reload_s=RELOAD_S)


def settings_of(hardware: str | None) -> dict[str, str]:
    """Return the adapter's settings that say what a step costs; a file's path is made absolute.

    Raises
    ------
    BrsolverError
        There is no such hardware.
    """
    if hardware is None:
        return {}
    read_hardware(hardware)
    is_file = hardware.lower().endswith(".toml")
    return {"hardware": str(Path(hardware).resolve()) if is_file else hardware}


def write_settings(file: Path, arm: Arm, settings: Settings, *, reload_s: float = 0.0) -> None:
    """Write, at once, the file that the adapter is to read for an arm."""
    named = {"policy": arm.policy.text, "mode": arm.mode, **settings}
    lines = [f"{name} = {json.dumps(value)}" for name, value in named.items()]
    fresh = file.with_suffix(".new")
    fresh.write_text("\n".join([*lines, f"reload_s = {reload_s}", ""]), encoding="utf-8")
    fresh.replace(file)


def _reloads(server: Server) -> float | None:
    try:
        text = server.get("/metrics", 30.0)
    except (OSError, HTTPException) as error:
        raise ServerError(
            f"{server.url}/metrics cannot be read: {error}; {server.condition()}"
        ) from error
    return parse_counters(text).totals.get(RELOADS)


@contextmanager
def stage_for(
    arms: Sequence[Arm],
    factory: Factory,
    workload: Workload,
    *,
    restart: bool,
    settings: Settings = MappingProxyType({}),
) -> Iterator[Stage]:
    """Give the stage of a session, for as long as the context lasts.

    Parameters
    ----------
    arms : sequence of Arm
    factory : callable
        Makes servers.
    workload : Workload
        Whose first tokens wake the adapter.
    restart : bool
        Whether every run gets a server of its own.
    settings : mapping of str to str, optional
        Of the adapter, besides policy and mode.
    """
    with tempfile.TemporaryDirectory(prefix="brsolver-bench-") as folder:
        file = Path(folder) / "router.toml"
        if restart:
            yield Restarting(factory, file, settings)
            return
        with Reloading(factory, file, arms, workload, settings) as stage:
            yield stage
