"""The live page of a source of traffic, in a real browser, with time that is the test's own."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from integration.admin.admin import Admin
from integration.admin.demo_source import DemoSource
from integration.admin.params import AdminParams, ShadowParams, WindowParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 60


def _chromium() -> Any:
    """Return what starts a browser for the reports' pages; test folders are no packages."""
    path = Path(__file__).parents[1] / "brsolver/report/browser.py"
    spec = importlib.util.spec_from_file_location("browser_of_reports", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.chromium


chromium = _chromium()


class Served:
    """A source, its admin listener, and the thread whose event loop both live in."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.source = DemoSource(workers=6, per_second=24.0, start_s=1_000.0)
        self.port = 0
        self.admin = self._made()

    def _made(self) -> Admin:
        params = AdminParams(
            port=self.port, tick_s=0.05, window=WindowParams(buckets=120),
            shadows=ShadowParams(policies=("vllm", "jsq-load"), patience_s=5.0),
        )  # fmt: skip
        about: dict[str, object] = {"version": "1.2.3", "back_end": "6 ranks"}
        return Admin(self.source.replay.core, params, clock=self.source.clock, about=about)

    def do(self, call: Callable[[], Any]) -> Any:
        """Call within the event loop, and return what that returns."""

        async def called() -> Any:
            made = call()
            return await made if asyncio.iscoroutine(made) else made

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(LIMIT_S)

    def live(self, seconds: float) -> None:
        """Let so much time go by at the source."""
        self.do(lambda: self.source.live_until(self.source.clock() + seconds))

    def begin(self) -> None:
        self.do(self.admin.start)
        self.port = self.admin.server.port

    def end(self) -> None:
        self.do(self.admin.stop)

    def begin_again(self) -> None:
        self.admin = self._made()
        self.begin()


@contextmanager
def page_served() -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        served = Served(loop)
        served.begin()
        yield served
        served.end()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT_S)
        loop.close()
