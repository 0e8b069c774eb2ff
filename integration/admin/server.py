"""The admin listener: the live page, its stream, metrics, the audit, and the workers."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from aiohttp import web

from brsolver.errors import BrsolverError, ParameterError, UnknownNameError
from integration.admin.fleet import read_prefill_worker, read_worker
from integration.admin.guard import guard, refusal
from integration.admin.stream import Stream
from integration.admin.view import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.admin.fleet import Fleet
    from integration.admin.metrics import Metrics
    from integration.admin.params import AdminParams
    from integration.admin.view import View
    from integration.doors.prefill_figures import PrefillTier
    from integration.picker.params import WorkerSpec

MOST_BODY = 1 << 16
MOST_NAME = 253
STATIC = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Server:
    """Serves the admin listener.

    Parameters
    ----------
    params : AdminParams
    view : View
        What the page is told.
    metrics : Metrics
    audit : callable
        Returns the core's audit, a dataclass.
    fleet : Fleet
    unwell : callable, optional
        Returns why serving does not go on as it should, None if it does.
    prefill : callable, optional
        Returns how the prefill tier stands, where there is one.
    prefill_fleet : Fleet, optional
        Who changes its workers.
    """

    def __init__(
        self,
        params: AdminParams,
        *,
        view: View,
        metrics: Metrics,
        audit: Callable[[], object],
        fleet: Fleet,
        unwell: Callable[[], str | None] = lambda: None,
        prefill: Callable[[], PrefillTier] | None = None,
        prefill_fleet: Fleet | None = None,
    ) -> None:
        self.params = params
        self.stream = Stream(
            view, tick_s=params.tick_s, clients=params.clients, unread=params.unread
        )
        self._metrics, self._audit, self._fleet = metrics, audit, fleet
        self._unwell, self._prefill, self._prefill_fleet = unwell, prefill, prefill_fleet
        self._runner: web.AppRunner | None = None
        self.port = params.port

    @property
    def address(self) -> str:
        """Where the page is."""
        host = f"[{self.params.host}]" if ":" in self.params.host else self.params.host
        return f"http://{host}:{self.port}/"

    async def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        ParameterError
            Address and port cannot be had.
        """
        self._runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.params.host, self.params.port).start()
        except OSError as error:
            await self.stop()
            raise ParameterError(
                f"admin: port is {self.params.port} of {self.params.host}, must be one that is "
                f"free: {error.strerror or error}"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End all streams and stop listening."""
        self.stream.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def app(self) -> web.Application:
        """Return the application, for a listener of one's own."""
        app = web.Application(middlewares=[guard(self.params), _errors], client_max_size=MOST_BODY)
        for path, (name, kind) in STATIC.items():
            app.router.add_get(path, _static(name, kind))
        app.router.add_get("/events", self.stream.handle, allow_head=False)
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/dashboard.json", _static("dashboard.json", "application/json", ""))
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_get("/admin/audit", self._serve_audit)
        app.router.add_get("/admin/workers", self._serve_workers)
        app.router.add_post("/admin/workers", self._add_worker)
        app.router.add_delete("/admin/workers/{name}", self._drain_worker)
        app.router.add_get("/admin/prefill", self._serve_prefill)
        app.router.add_post("/admin/prefill", self._add_prefill)
        app.router.add_delete("/admin/prefill/{name}", self._drain_prefill)
        return app

    async def _serve_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": self._metrics.content_type}
        )

    async def _serve_health(self, _request: web.Request) -> web.Response:
        reason = self._unwell()
        if reason is None:
            return web.json_response({"status": "ok"})
        return web.json_response({"status": "unwell", "reason": reason}, status=503)

    async def _serve_audit(self, _request: web.Request) -> web.Response:
        audit = self._audit()
        told = plain(audit)
        if self._prefill is not None:
            told["prefill"] = plain(self._prefill())
        # A property of the audit rather than a field.
        balanced = getattr(audit, "balanced", None)
        return web.json_response(told if balanced is None else {"balanced": balanced, **told})

    async def _serve_workers(self, _request: web.Request) -> web.Response:
        told = {"workers": [plain(dict(each)) for each in self._fleet.workers()]}
        if self._prefill is not None:
            told["prefill"] = plain(self._prefill().workers)
        return web.json_response(told)

    async def _serve_prefill(self, _request: web.Request) -> web.Response:
        return web.json_response({"workers": [plain(each) for each in self._prefills.workers()]})

    async def _add_worker(self, request: web.Request) -> web.Response:
        return await _added(self._fleet, read_worker(await _object(request)))

    async def _drain_worker(self, request: web.Request) -> web.Response:
        return await _drained(self._fleet, request)

    async def _add_prefill(self, request: web.Request) -> web.Response:
        fleet = self._prefills
        return await _added(fleet, read_prefill_worker(await _object(request)))

    async def _drain_prefill(self, request: web.Request) -> web.Response:
        return await _drained(self._prefills, request)

    @property
    def _prefills(self) -> Fleet:
        if self._prefill_fleet is None:
            raise UnknownNameError("there are no prefill workers, must be named in [tiers] first")
        return self._prefill_fleet


async def _added(fleet: Fleet, spec: WorkerSpec) -> web.Response:
    name = await fleet.add(spec)
    return web.json_response({"status": "added", "name": name}, status=201)


async def _drained(fleet: Fleet, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if len(name) > MOST_NAME:
        raise ParameterError(f"name has {len(name)} letters, must have at most {MOST_NAME}")
    await fleet.drain(name)
    return web.json_response({"status": "draining"}, status=202)


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        value = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise ParameterError("the body is no JSON, must be an object") from error
    if not isinstance(value, dict):
        raise ParameterError(f"the body is a {type(value).__name__}, must be an object")
    return value


def _static(name: str, kind: str, folder: str = "static") -> Any:
    place = files("integration.admin")
    body = (place / folder / name if folder else place / name).read_bytes()

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return handle


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer errors in JSON, in one line."""
    try:
        response: web.StreamResponse = await handler(request)
    except UnknownNameError as error:
        return refusal(404, str(error))
    except BrsolverError as error:
        return refusal(409 if not isinstance(error, ParameterError) else 422, str(error))
    except web.HTTPException as error:
        refused = refusal(error.status, error.reason)
        if "Allow" in error.headers:
            refused.headers["Allow"] = error.headers["Allow"]
        return refused
    return response
