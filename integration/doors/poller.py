"""Engines asked how they are: their metrics become `Gauges`, their silence takes them out.

Envoy's ``override_host`` sends requests to a worker whatever its health, so it is the picker that
must know: a server that misses probes in a row (`PickerParams.down_after`) is down, with all its
ranks, until it answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.errors import MissingExtraError, ParameterError
from integration.doors.engine_metrics import read_metrics
from integration.doors.trust import trusting

if TYPE_CHECKING:
    from pathlib import Path

    from integration.doors.fleet import Fleet
    from integration.picker import Gauges, Pump


MOST_BYTES = 8 * 2**20
"""Of an answer that are looked at; the metrics of a hundred ranks have a few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollerParams:
    """How engines are asked.

    Attributes
    ----------
    interval_s : float
        Seconds between two polls of a server.
    timeout_s : float
        Seconds that a server has for an answer.
    metrics_path, health_path : str
        Where servers are asked; empty asks nothing. A server that answers 404 for its health, as
        small ones do, is up.
    scheme : str
        ``"http"`` or ``"https"``.
    ca : Path or None
        PEM file of who signs engines' certificates; None takes the system's.
    """

    interval_s: float = 1.0
    timeout_s: float = 2.0
    metrics_path: str = "/metrics"
    health_path: str = "/health"
    scheme: str = "http"
    ca: Path | None = None

    def __post_init__(self) -> None:
        for name in ("interval_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name} is {getattr(self, name)}, must be above 0")
        if self.scheme not in {"http", "https"}:
            raise ParameterError(f"scheme is {self.scheme!r}, must be 'http' or 'https'")
        for name in ("metrics_path", "health_path"):
            path = getattr(self, name)
            if path and not path.startswith("/"):
                raise ParameterError(f"{name} is {path!r}, must begin with '/' or be empty")


class Poller:
    """Polls every server of a fleet.

    Parameters
    ----------
    pump : Pump
    fleet : Fleet
    params : PollerParams, optional

    Attributes
    ----------
    last : dict of int to Gauges
        What was read last, by worker.
    rounds : int
        Times that all servers were asked that do not hang.
    """

    def __init__(self, pump: Pump, fleet: Fleet, params: PollerParams | None = None) -> None:
        self._pump = pump
        self._fleet = fleet
        self._params = PollerParams() if params is None else params
        secure = self._params.scheme == "https"
        self._trust = trusting(self._params.ca) if secure else False
        self.last: dict[int, Gauges] = {}
        self.rounds = 0

    async def run(self) -> None:
        """Poll until cancelled.

        Raises
        ------
        MissingExtraError
            If aiohttp is not installed.
        """
        aiohttp = _aiohttp()
        timeout = aiohttp.ClientTimeout(total=self._params.timeout_s)
        connector = aiohttp.TCPConnector(limit=0, ssl=self._trust)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            await self.round(client)
            await self._go_on(client)

    async def _go_on(self, client: Any) -> None:
        """Ask each server at its own pace: one that hangs keeps no other's figures waiting."""
        under_way: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                await asyncio.sleep(self._params.interval_s)
                under_way = {a: task for a, task in under_way.items() if not task.done()}
                for address in self._fleet.addresses():
                    if address not in under_way:
                        asked = self._ask(client, address)
                        under_way[address] = asyncio.get_running_loop().create_task(asked)
                self.rounds += 1
        finally:
            for task in under_way.values():
                task.cancel()
            await asyncio.gather(*under_way.values(), return_exceptions=True)

    async def round(self, client: Any) -> None:
        """Ask every server once, all at the same time.

        Parameters
        ----------
        client : aiohttp.ClientSession
        """
        addresses = self._fleet.addresses()
        await asyncio.gather(*(self._ask(client, address) for address in addresses))
        self.rounds += 1

    async def _ask(self, client: Any, address: str) -> None:
        try:
            why = await self._what_is_wrong(client, address)
        except Exception as error:  # noqa: BLE001 # whatever one answers, others are asked all the same
            why = f"what it answers cannot be read: {type(error).__name__}"
        for worker in self._fleet.at(address):
            self._pump.reported(worker, ok=not why, why=why)

    async def _what_is_wrong(self, client: Any, address: str) -> str:
        """Ask a server, and take in what it tells; return what is wrong with it, if anything is."""
        params, why = self._params, ""
        if params.health_path:
            status, text = await self._get(client, address, params.health_path)
            if status is None:
                why = text
            elif status >= 400 and status not in {404, 405}:
                why = f"{params.health_path} answers {status}"
        if not why and params.metrics_path:
            status, text = await self._get(client, address, params.metrics_path)
            if status == 200:
                self._told(address, text)
            why = text if status is None else ""
        return why

    async def _get(self, client: Any, address: str, path: str) -> tuple[int | None, str]:
        """Return status and text, or None and why there was no answer."""
        url = f"{self._params.scheme}://{address}{path}"
        try:
            async with client.get(url, allow_redirects=False) as response:
                return int(response.status), await _beginning(response)
        except (_aiohttp().ClientError, ValueError, OSError) as error:
            return None, f"{path} does not answer: {type(error).__name__}"

    def _told(self, address: str, text: str) -> None:
        found = read_metrics(text)
        for worker in self._fleet.at(address):
            rank = self._fleet.specs[worker].rank
            gauges = found.get(rank)
            if gauges is None and len(found) == 1:
                gauges = next(iter(found.values())) if rank is None else None
            if gauges is not None:
                self.last[worker] = gauges
                self._pump.told(worker, gauges)


async def _beginning(response: Any) -> str:
    """Return the text of an answer: UTF-8, whatever it says of itself, and no more than is due."""
    text = bytearray()
    async for piece in response.content.iter_any():
        text += piece
        if len(text) >= MOST_BYTES:
            break
    return text.decode("utf-8", "replace")


def _aiohttp() -> Any:
    try:
        return import_module("aiohttp")
    except ImportError as error:
        raise MissingExtraError.for_extra("aiohttp", "proxy") from error
