"""gRPC's health checks: whether the picker lives, and whether it can pick."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

from integration.messages import services
from integration.messages.health import STATUSES, HealthCheckResponse, HealthListResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIVENESS = "liveness"
READINESS = "readiness"
SERVICES = ("", LIVENESS, READINESS, services.EXTERNAL_PROCESSOR)
"""All that can be asked about; an empty name is the server itself."""


class Health:
    """Answers health checks.

    Liveness is told as soon as anything is; all else goes by `ready`.
    """

    def __init__(self) -> None:
        self._ready = False
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether requests can be picked for: workers are known, and nothing drains."""
        return self._ready

    @ready.setter
    def ready(self, value: bool) -> None:
        if value == self._ready:
            return
        self._ready = value
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def handler(self) -> Any:
        """Return the handler for ``server.add_generic_rpc_handlers``."""
        return services.handler(
            services.HEALTH, Check=self._check, List=self._list, Watch=self._watch
        )

    def status(self, service: str) -> int:
        """Return the status of a service, by its name; ``SERVICE_UNKNOWN`` of any other."""
        if service not in SERVICES:
            return STATUSES["SERVICE_UNKNOWN"]
        serving = self._ready or service == LIVENESS
        return STATUSES["SERVING" if serving else "NOT_SERVING"]

    async def _check(self, request: Any, context: Any) -> Any:
        status = self.status(request.service)
        if status == STATUSES["SERVICE_UNKNOWN"]:
            await context.abort(_not_found(), f"no service {request.service!r} here")
        return HealthCheckResponse(status=status)

    async def _list(self, request: Any, context: Any) -> Any:  # noqa: ARG002 # grpc's signature
        statuses = {name: HealthCheckResponse(status=self.status(name)) for name in SERVICES}
        return HealthListResponse(statuses=statuses)

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002 # the same
        last = None
        while True:
            changed = self._changed
            status = self.status(request.service)
            if status != last:
                yield HealthCheckResponse(status=status)
                last = status
            await changed.wait()


def _not_found() -> Any:
    return import_module("grpc").StatusCode.NOT_FOUND
