"""An admin listener of a real core, on a port of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from admin_traffic import served

from integration.admin.admin import Admin
from integration.admin.params import AdminParams, ShadowParams, WindowParams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from integration.admin.replay import Replay

TOKEN = "a-token-of-some-length"  # noqa: S105 # of a test
WINDOW = WindowParams(bucket_s=1.0, buckets=120)


class Serving:
    """The listener, its core, and a client."""

    def __init__(self, admin: Admin, replay: Replay, client: aiohttp.ClientSession) -> None:
        self.admin, self.replay, self.client = admin, replay, client

    @property
    def url(self) -> str:
        return self.admin.server.address.rstrip("/")

    async def get(self, path: str, **fields) -> tuple[int, str]:
        async with self.client.get(self.url + path, **fields) as answer:
            return answer.status, await answer.text()

    async def ask(self, method: str, path: str, **fields) -> tuple[int, dict]:
        async with self.client.request(method, self.url + path, **fields) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def serving(
    shadows: tuple[str, ...] = (), prefill: Any = None, prefill_fleet: Any = None, **fields: Any
) -> AsyncIterator[Serving]:
    replay = served(policy="jsq-load", mode="immediate")
    told = {"port": 0, "tick_s": 0.05, "window": WINDOW, **fields}
    params = AdminParams(shadows=ShadowParams(policies=shadows), **told)
    about = {"version": "1.2.3", "back_end": "4 ranks"}
    tier = {"prefill": prefill, "prefill_fleet": prefill_fleet}
    admin = Admin(replay.core, params, clock=lambda: replay.now_s, about=about, **tier)
    await admin.start()
    try:
        async with aiohttp.ClientSession() as client:
            yield Serving(admin, replay, client)
    finally:
        await admin.stop()
