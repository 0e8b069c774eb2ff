"""The ingress of Ray Serve LLM, in whose process the router is, and what that one's books say."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray.llm._internal.serve.core.ingress.ingress import OpenAiIngress

from integration.fronts import request_body

if TYPE_CHECKING:
    from integration.ray_serve import SessionRouter


class Watched(OpenAiIngress):
    """Answers as ever, and tells of the router's books when they are as wanted."""

    async def books(self, wanted: dict[str, int]) -> dict[str, Any]:
        """Wait until figures of the books are these; return all of them."""
        (handle,) = self._configured_serve_handles.values()
        router = handle._router._asyncio_router
        # Routers have a loop of their own.
        waiting = asyncio.run_coroutine_threadsafe(
            _until(router.request_router, wanted), router._event_loop
        )
        return await asyncio.wrap_future(waiting)


async def _until(router: SessionRouter, wanted: dict[str, int]) -> dict[str, Any]:
    changed = asyncio.Event()
    listener = SimpleNamespace(event=lambda _: changed.set())
    listeners = router._front._core.listeners
    listeners.append(listener)
    try:
        while True:
            found = _told(router)
            if all(found.get(name, 0) == value for name, value in wanted.items()):
                return found
            changed.clear()
            await changed.wait()
    finally:
        listeners.remove(listener)


def _told(router: SessionRouter) -> dict[str, Any]:
    audit = router.audit()
    return {
        **{end.value: times for end, times in audit.ended.items()},
        "begun": audit.begun,
        "held": audit.held,
        "reserved": audit.reserved,
        "started": audit.started,
        "up": sum(worker.state == "up" for worker in audit.workers),
        "wrong": audit.wrong,
        "running": {
            body.user: (attempt.seat.replica, body)
            for attempt in router._attempts._of.values()
            for body in [request_body(attempt.pending.args, attempt.pending.kwargs)]
        },
    }
