"""Changes the policy while serving: a TOML file that is read again when it changes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from brsolver.errors import BrsolverError
from integration.routing.failsafe import in_a_line
from integration.vllm.config import ROUTER, from_environment, read_with_stamp, stamp_of
from integration.vllm.log import logger
from integration.vllm.router import made_ready

if TYPE_CHECKING:
    from integration.vllm.adapter import Adapter
    from integration.vllm.config import AdapterConfig
    from integration.vllm.deployment import Deployment
    from integration.vllm.router import Router
    from integration.vllm.sharing import Board

FIXED = ("budget_ms", "identify", "max_failures", "record", "record_mib")
"""Settings that hold from the start of the server to its end."""


def watch(adapter: Adapter) -> None:
    """Look at the file every `reload_s` seconds, if that is asked for and there is a file.

    What is new is made, compiled and tried in a thread of its own, while the old policy goes on
    routing; only the exchange itself happens between two turns of the event loop. Changes are
    taken in one after the other. What cannot be taken in is warned of, once per content.
    """
    every_s = adapter.desk.config.params.reload_s
    path = os.environ.get(ROUTER, "").strip()
    if every_s <= 0 or not path.endswith(".toml"):
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        logger.warning("brsolver: %s is not watched: no event loop is running", path)
        return
    _Watch(adapter, Path(path), every_s, loop).again()


def switch(adapter: Adapter, config: AdapterConfig) -> None:
    """Let another policy go on from where this one is.

    Raises
    ------
    BrsolverError
        There is no such policy, or several API servers have agreed on another horizon.
    """
    _exchange(adapter, config, _prepared(config, _Place.of(adapter)))


class _Watch:
    def __init__(
        self, adapter: Adapter, path: Path, every_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        # The file must not keep alive what nobody else uses any more.
        self._adapter = weakref.ref(adapter)
        self._path = path
        self._every_s = every_s
        self._loop = loop
        # The policy may have taken long to compile since the file was read.
        self._seen = adapter.desk.config.stamp
        self._content = self._refused = b""
        self._task: asyncio.Task[None] | None = None

    def again(self) -> None:
        if self._every_s > 0 and not self._loop.is_closed():
            self._loop.call_later(self._every_s, self._look)

    def _look(self) -> None:
        if self._serving() is None:
            return
        stamp = stamp_of(self._path)
        if stamp in (None, self._seen):
            self.again()
        else:
            self._seen = stamp
            self._task = self._loop.create_task(self._change())

    async def _change(self) -> None:
        try:
            await self._take_in()
        except Exception as error:  # noqa: BLE001 # a bad file must not end serving
            self._refuse(error)
        self.again()

    async def _take_in(self) -> None:
        # A file that is replaced between looking and reading is one change, not two.
        self._content, self._seen = read_with_stamp(self._path)
        made = await asyncio.to_thread(_made, self._content, self._place())
        adapter = self._serving()
        if made is None or adapter is None:
            return
        config, router = made
        config = _as_far_as_possible(config, adapter.desk.config)
        _exchange(adapter, config, router)
        self._refused, self._every_s = b"", config.params.reload_s
        adapter.desk.exporter.reloaded()
        logger.info("brsolver: now policy %s, %s", config.params.policy, config.params.mode)

    def _serving(self) -> Adapter | None:
        adapter = self._adapter()
        return adapter if adapter is not None and adapter.failsafe.active else None

    def _place(self) -> _Place | None:
        adapter = self._adapter()
        return None if adapter is None else _Place.of(adapter)

    def _refuse(self, error: Exception) -> None:
        adapter = self._serving()
        if adapter is None or self._content == self._refused != b"":
            return
        self._refused = self._content
        # All API servers are told the same, and make the same of it.
        if adapter.desk.deployment.index == 0 or not isinstance(error, BrsolverError):
            logger.warning(
                "brsolver: the changed %s is refused (%s); policy %s goes on",
                self._path,
                in_a_line(error),
                adapter.desk.config.params.policy,
            )


class _Place(NamedTuple):
    """Where a new router is to stand."""

    known: Deployment
    ranks: int
    board: Board | None

    @classmethod
    def of(cls, adapter: Adapter) -> _Place:
        desk = adapter.desk
        return cls(desk.deployment, desk.router.books.ranks, desk.board)

    def board_for(self, horizon: int) -> Board | None:
        """Return the board, if projections over that many steps are exchanged there."""
        if self.board is not None:
            self.board.require_horizon(horizon)
        return self.board


def _made(content: bytes, place: _Place | None) -> tuple[AdapterConfig, Router] | None:
    config = from_environment(os.environ, content=content)
    if config is None or place is None:
        return None
    return config, _prepared(config, place)


def _prepared(config: AdapterConfig, place: _Place) -> Router:
    """Make the router, with all of its kernels; changes nothing of what serves."""
    return made_ready(config, place.known, place.ranks, place.board_for)


def _exchange(adapter: Adapter, config: AdapterConfig, router: Router) -> None:
    try:
        router.go_on_from(adapter.desk.router, config)
        adapter.take_over(config, router)
    except Exception as error:
        # Requests may stand in either books by now.
        adapter.failsafe.stand_down(f"the change of policy failed: {in_a_line(error)}")
        raise


def _as_far_as_possible(new: AdapterConfig, old: AdapterConfig) -> AdapterConfig:
    """Leave settings as they are that cannot change any more, and say so."""
    kept = {name: getattr(old.params, name) for name in FIXED}
    changed = [name for name in FIXED if getattr(new.params, name) != kept[name]]
    if changed:
        logger.warning(
            "brsolver: %s: %s cannot change while serving: %s until the server is restarted",
            new.source,
            ", ".join(changed),
            ", ".join(f"{name} stays {kept[name]}" for name in changed),
        )
    return dataclasses.replace(new, params=dataclasses.replace(new.params, **kept))
