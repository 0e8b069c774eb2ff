"""A small HTTP server in the test's own loop, to stand where an engine or an API stands."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable


@contextlib.asynccontextmanager
async def http_server(
    handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    *,
    secure: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve; yields ``host:port``."""
    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=secure)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
