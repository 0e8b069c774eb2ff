"""Changes the policy while serving: a TOML file that is read again when it changes."""

from __future__ import annotations

import asyncio
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from integration.vllm.config import ROUTER, from_environment
from integration.vllm.guard import logger
from integration.vllm.router import Router, warm_up

if TYPE_CHECKING:
    from integration.vllm.adapter import Adapter
    from integration.vllm.config import AdapterConfig


def watch(adapter: Adapter) -> None:
    """Look at the file every `reload_s` seconds, if that is asked for and there is a file."""
    every_s = adapter.config.params.reload_s
    path = os.environ.get(ROUTER, "").strip()
    if every_s <= 0 or not path.endswith(".toml"):
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        logger.warning("brsolver: %s is not watched: no event loop is running", path)
        return
    _Watch(adapter, Path(path), every_s, loop).again()


class _Watch:
    def __init__(
        self, adapter: Adapter, path: Path, every_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._adapter = weakref.ref(adapter)
        self._path = path
        self._every_s = every_s
        self._loop = loop
        self._seen = _stamp(path)

    def again(self) -> None:
        self._loop.call_later(self._every_s, self._look)

    def _look(self) -> None:
        adapter = self._adapter()
        if adapter is None or not adapter.guard.active:
            return
        stamp = _stamp(self._path)
        if stamp not in (None, self._seen):
            self._seen = stamp
            try:
                _take_in(adapter)
            except Exception as error:  # noqa: BLE001 # a bad file must not end serving
                adapter.guard.note("reload", f"{type(error).__name__}: {error}")
        self.again()


def _take_in(adapter: Adapter) -> None:
    config = from_environment(os.environ)
    if config is None:
        return
    switch(adapter, config)
    adapter.metrics.reloaded()
    logger.info("brsolver: now policy %s, %s", config.params.policy, config.params.mode)


def switch(adapter: Adapter, config: AdapterConfig) -> None:
    """Let another policy go on from where this one is.

    Raises
    ------
    BrsolverError
        There is no such policy, or several API servers have agreed on another horizon.
    """
    known, old = adapter.deployment, adapter.router
    warm_up(config)
    router = Router(
        config,
        ranks=old.books.ranks,
        slots=known.slots,
        capacity=known.capacity,
        clients=known.clients,
    )
    if adapter.board is not None:
        adapter.board.require_horizon(router.horizon)
    router.board = adapter.board
    router.books.adopt(old.books)
    adapter.take_over(config, router)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
