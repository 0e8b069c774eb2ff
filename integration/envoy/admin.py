"""Envoy's admin interface: whether it is ready, its figures, its workers, its drain."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any, NamedTuple

from brsolver.errors import BrsolverError
from integration.envoy.bootstrap import MARK
from integration.envoy.listener import STATS
from integration.envoy.routes import WORKERS

TIMEOUT_S = 5.0
"""Seconds for one answer."""
_ACTIVE = f"http.{STATS}.downstream_rq_active"


class EnvoyAdminError(BrsolverError, RuntimeError):
    """Envoy's admin interface does not answer, or not as it should."""


class Host(NamedTuple):
    """A worker as Envoy sees it.

    Attributes
    ----------
    address : str
        ``ip:port``.
    active : int
        Requests that it has now.
    healthy : bool
        By Envoy's own looks at its health.
    ejected : bool
        Left out for a while, because it broke several times.
    """

    address: str
    active: int
    healthy: bool
    ejected: bool


class EnvoyAdmin:
    """Speaks to the admin interface.

    Parameters
    ----------
    port : int
        On loopback.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    async def ready(self) -> bool:
        """Whether Envoy takes requests; False also while nothing answers."""
        try:
            status, _ = await asyncio.to_thread(self._ask, "GET", "/ready")
        except OSError:
            return False
        return status == 200

    async def answers(self) -> bool:
        """Whether anything is answered, ready or not."""
        try:
            await asyncio.to_thread(self._ask, "GET", "/ready")
        except OSError:
            return False
        return True

    async def mark(self) -> str:
        """Return what the bootstrap that it was started with is marked by, or an empty text."""
        answer = await self._done("GET", "/server_info")
        try:
            return str(json.loads(answer)["node"]["metadata"][MARK])
        except (ValueError, LookupError, TypeError):
            return ""  # of another make, or no Envoy at all

    async def figures(self, *names: str) -> dict[str, int]:
        """Return figures by name.

        Parameters
        ----------
        *names : str
            Which; none is all that have ever been written to.
        """
        wanted = "|".join(name.replace(".", r"\.") for name in names)
        query = f"&filter=^({wanted})$" if names else "&usedonly"
        found = await self._json(f"/stats?format=json{query}")
        return {s["name"]: s["value"] for s in found["stats"] if "name" in s and "value" in s}

    async def prometheus(self) -> str:
        """Return all figures in Prometheus's format."""
        return (await self._done("GET", "/stats/prometheus?usedonly")).decode()

    async def active(self) -> int:
        """Return how many requests of clients are under way, held ones included."""
        return (await self.figures(_ACTIVE)).get(_ACTIVE, 0)

    async def hosts(self) -> list[Host]:
        """Return the workers."""
        found = await self._json("/clusters?format=json")
        named = (c for c in found["cluster_statuses"] if c["name"] == WORKERS)
        return [_host(each) for c in named for each in c.get("host_statuses", ())]

    async def refuse_health(self) -> None:
        """Have health checks of the front door fail, so that no more is sent here."""
        await self._done("POST", "/healthcheck/fail")

    async def drain(self) -> None:
        """Take no more connections; those that are there are told to close when idle."""
        await self._done("POST", "/drain_listeners?graceful")

    async def quit(self) -> None:
        """End Envoy."""
        await self._done("POST", "/quitquitquit")

    async def _json(self, path: str) -> Any:
        return json.loads(await self._done("GET", path))

    async def _done(self, method: str, path: str) -> bytes:
        try:
            status, body = await asyncio.to_thread(self._ask, method, path)
        except OSError as error:
            raise EnvoyAdminError(
                f"Envoy's admin interface at 127.0.0.1:{self.port} does not answer: {error}"
            ) from error
        if status != 200:
            raise EnvoyAdminError(f"Envoy's admin interface answers {status} to {method} {path}")
        return body

    def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()


def _host(each: dict[str, Any]) -> Host:
    where = each["address"]["socket_address"]
    host = where["address"]
    text = f"[{host}]:{where['port_value']}" if ":" in host else f"{host}:{where['port_value']}"
    stats = {s["name"]: int(s.get("value", 0)) for s in each.get("stats", ())}
    health = each.get("health_status", {})
    failed = health.get("failed_active_health_check", False)
    ejected = health.get("failed_outlier_check", False)
    return Host(text, stats.get("rq_active", 0), not failed, bool(ejected))
