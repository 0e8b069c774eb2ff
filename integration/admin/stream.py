"""Server-sent events to pages that are open, none of which can hold up anything."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from integration.admin.guard import HEADERS, refusal
from integration.admin.view import to_json

if TYPE_CHECKING:
    from integration.admin.view import View

RETRY_MS = 1_000
END = b""


class Page:
    """A page that is open, and what has not been sent to it yet."""

    def __init__(self, unread: int, transport: asyncio.Transport | None) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(unread)
        self._transport = transport

    def put(self, message: bytes) -> bool:
        """Add a message; tell whether there was room for it."""
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            return False
        return True

    def end(self) -> None:
        """Let the stream end with what is queued, or at once if that is too much."""
        if not self.put(END):
            self.cut_off()

    def cut_off(self) -> None:
        """Close the connection, whatever has not been sent."""
        if self._transport is not None:
            self._transport.abort()


class Stream:
    """Tells all open pages what has changed, while there are any.

    Every page has a queue of its own. One that reads too slowly for it is cut off; the browser
    connects again by itself and begins with a fresh snapshot.

    Parameters
    ----------
    view : View
    tick_s : float
        Seconds between updates.
    clients : int
        Pages that may be open at once.
    unread : int
        Updates that may wait for a page.
    """

    def __init__(self, view: View, *, tick_s: float, clients: int, unread: int) -> None:
        self._view, self._tick_s = view, tick_s
        self._clients, self._unread = clients, unread
        self._told = -1
        self._ticking: asyncio.TimerHandle | None = None
        self.pages: set[Page] = set()
        self.dropped = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve ``/events`` until the page goes, or is cut off."""
        if len(self.pages) >= self._clients:
            return refusal(503, f"{self._clients} pages are open, which is the most")
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": "text/event-stream; charset=utf-8"}
        )
        if not self.pages:
            self._told = self._view.told
        page = Page(self._unread, request.transport)
        page.put(f"retry: {RETRY_MS}\n".encode() + _message("snapshot", self._view.snapshot()))
        self.pages.add(page)
        self._tick_later()
        try:
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                while message := await page.queue.get():
                    await response.write(message)
        finally:
            self.pages.discard(page)
        return response

    def publish(self) -> None:
        """Send all pages what has changed since they were last told."""
        tick = self._view.tick(self._told)
        self._told = self._view.told
        message = _message("tick", tick)
        for page in list(self.pages):
            if not page.put(message):
                self.dropped += 1
                self.pages.discard(page)
                page.cut_off()

    def close(self) -> None:
        """End all streams."""
        self.stop_ticking()
        for page in list(self.pages):
            page.end()

    def stop_ticking(self) -> None:
        """Publish nothing more by itself, until another page is opened."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def _tick_later(self) -> None:
        if self._ticking is None:
            loop = asyncio.get_running_loop()
            self._ticking = loop.call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        if self.pages:
            self.publish()
            self._tick_later()


def _message(event: str, data: object) -> bytes:
    return f"event: {event}\ndata: {to_json(data)}\n\n".encode()
