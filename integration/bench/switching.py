"""How the server comes to run the next policy: started anew, or told to change while it runs."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from brsolver.errors import ParameterError
from integration.bench.arms import MODE, ROUTER
from integration.bench.client import warm_up
from integration.bench.counters import parse_counters
from integration.bench.server import Server, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from integration.bench.arms import Arm
    from integration.bench.workload import Workload

    Factory = Callable[[Mapping[str, str], str], Server]
    """Makes a server from additional variables and a label for its files."""

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
    """

    def __init__(self, factory: Factory) -> None:
        self._factory = factory

    def running(self, arm: Arm, label: str) -> AbstractContextManager[Server]:
        """Start a server; leaving the context ends it."""
        return self._factory(arm.environment, label)


class Reloading:
    """One server for all runs, whose adapter reads its policy from a file that changes.

    Runs differ less than between servers, and no time goes into starting them; the adapter must
    be active throughout, so ``off`` cannot be among the arms. Start `server`, then `wake` it.

    Parameters
    ----------
    factory : callable
        Makes the server.
    file : Path
        The TOML file to write.
    arms : sequence of Arm
        All that will run.
    workload : Workload
        Whose first tokens wake the adapter.

    Raises
    ------
    ParameterError
        If the adapter is not active in one of the arms.
    """

    def __init__(
        self, factory: Factory, file: Path, arms: Sequence[Arm], workload: Workload
    ) -> None:
        for arm in arms:
            if not arm.mode:
                raise ParameterError(f"{arm.name!r} needs a server of its own: use --restart")
        self._file, self._workload = file, workload
        self._write(arms[0])
        self._server = factory({ROUTER: str(file), MODE: ""}, "server")

    @property
    def server(self) -> Server:
        """The server, whose context is that of the stage."""
        return self._server

    def wake(self) -> None:
        """Send the first requests: the adapter begins with them, and watches the file from then on.

        Raises
        ------
        ServerError
            The adapter is not active.
        """
        warm_up(self._server, self._workload)
        if self._reloads() is None:
            raise ServerError(f"the adapter is not active (log: {self._server.log})")

    @contextmanager
    def running(self, arm: Arm, label: str) -> Iterator[Server]:
        """Switch the server over; `label` is not needed."""
        del label
        self._switch(arm)
        yield self._server

    def _switch(self, arm: Arm) -> None:
        awaited = (self._reloads() or 0.0) + self._server.params.api_servers
        self._write(arm)
        deadline = time.monotonic() + PATIENCE_S
        while (self._reloads() or 0.0) < awaited:
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the adapter did not take in {arm.name} within {PATIENCE_S:g} s "
                    f"(log: {self._server.log})"
                )
            time.sleep(RELOAD_S)

    def _write(self, arm: Arm) -> None:
        text = (
            f"policy = {json.dumps(arm.policy)}\nmode = {json.dumps(arm.mode)}\n"
            f"reload_s = {RELOAD_S}\n"
        )
        fresh = self._file.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self._file)

    def _reloads(self) -> float | None:
        try:
            text = self._server.get("/metrics", 30.0)
        except (OSError, HTTPException) as error:
            url, condition = self._server.url, self._server.condition()
            raise ServerError(f"{url}/metrics cannot be read: {error}; {condition}") from error
        return parse_counters(text).totals.get(RELOADS)


@contextmanager
def stage_for(
    arms: Sequence[Arm], factory: Factory, workload: Workload, *, restart: bool
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
    """
    if restart:
        yield Restarting(factory)
        return
    with tempfile.TemporaryDirectory(prefix="brsolver-bench-") as folder:
        stage = Reloading(factory, Path(folder) / "router.toml", arms, workload)
        with stage.server:
            stage.wake()
            yield stage
