"""When held requests are released, and how they get to vLLM."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from integration.vllm.pool import LEFT, Held, Pool, Released

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.routing.failsafe import Failsafe
    from integration.vllm.requests import Request
    from integration.vllm.wrapping import Originals

POLL_S = 0.05
POLL_SHARED_S = 0.005
"""Of another API server's ends this one is told by nobody, and looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What a releaser asks for, and whom it tells.

    Attributes
    ----------
    decide : callable
        Given the client and what to send with, decides about what is held, and sends what is
        released.
    charge : callable
        Told the requests that are on their way, with their ranks.
    unsent : callable
        Told the name of a request that was held, or charged, and is not sent after all.
    books_failed : callable
        Told of the error that kept requests from being charged.
    """

    decide: Callable[[Any, Callable[[Released], None]], None]
    charge: Callable[[list[tuple[Request, int]]], None]
    unsent: Callable[[str], None]
    books_failed: Callable[[Exception], None]


class Releaser:
    """Holds requests and releases sets of them.

    Arrivals that find a free slot are released with all that came in the same turn of the event
    loop. A slot that frees waits until all ranks have reported the step, or for `settle_ms`, so
    that one decision sees all that the step freed.

    Parameters
    ----------
    pool : Pool
        Where they are held.
    calls : Calls
    originals : Originals
        vLLM's own methods and message classes.
    failsafe : Failsafe
        Told what goes wrong on the way.
    poll_s : float
        Seconds between looks for room that nobody tells of.
    """

    def __init__(
        self, pool: Pool, calls: Calls, originals: Originals, failsafe: Failsafe, *, poll_s: float
    ) -> None:
        self.pool = pool
        self._calls = calls
        self._originals = originals
        self._failsafe = failsafe
        self._poll_s = poll_s
        self._placed: dict[str, int] = {}
        self._leaving: dict[str, Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._due = float("inf")
        self._client_ref: weakref.ref[Any] | None = None

    def placed(self, name: str) -> int | None:
        """Return, once, the rank that a released request was given, or `LEFT`."""
        return self._placed.pop(name, None)

    def hold(self, client: Any, held: Held) -> None:
        """Hold a request, and look for room in this turn of the event loop."""
        self.pool.add(held)
        self.look(client, 0.0)

    def look(self, client: Any, delay_s: float) -> None:
        """Look for room after a while, if not sooner."""
        self._client_ref = weakref.ref(client)
        self._run_in(delay_s)

    def cancel(self, client: Any, name: str) -> bool:
        """End a held request in vLLM's eyes; tell whether it was held."""
        if self.pool.drop(name) is None and self._leaving.pop(name, None) is None:
            return False
        self._placed.pop(name, None)
        self._end(client, name, self._originals.abort)
        self._calls.unsent(name)
        return True

    def give_up(self) -> None:
        """Send all that is held, vLLM choosing where."""
        self._send_all([(held, LEFT) for held in self.pool.drain()])

    def _client(self) -> Any:
        return None if self._client_ref is None else self._client_ref()

    def _run_in(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        if due >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        later = loop.call_later(delay_s, self._run) if delay_s else loop.call_soon(self._run)
        self._timer = later

    def _run(self) -> None:
        self._timer, self._due = None, float("inf")
        client = self._client()
        if not len(self.pool) or client is None:
            return
        try:
            self._calls.decide(client, self._send_all)
        except Exception as error:  # noqa: BLE001 # whatever it is, nobody may be left waiting
            self._failsafe.fail("release", error)
            self.give_up()
        if len(self.pool):
            self._run_in(self._poll_s)

    def _send_all(self, released: Released) -> None:
        """Send requests that are in the pool no more; whatever fails, they are sent."""
        if not released:
            return
        for held, rank in released:
            self._leaving[held.request.name] = held
            self._placed[held.request.name] = rank
        task = asyncio.get_running_loop().create_task(
            self._send(self._client(), [held for held, _ in released])
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        placed = [(held.request, rank) for held, rank in released if rank != LEFT]
        try:
            self._calls.charge(placed)
        except Exception as error:  # noqa: BLE001 # whatever it is, they are on their way
            self._calls.books_failed(error)

    async def _send(self, client: Any, released: list[Held]) -> None:
        for held in released:
            # Cancelled since it was released: it has been ended already.
            if self._leaving.pop(held.request.name, None) is None:
                continue
            try:
                await self._originals.add_request(client, held.message)
            except Exception as error:  # noqa: BLE001 # the request's own task is past the point
                self._lost(client, held, error)

    def _lost(self, client: Any, held: Held, error: Exception) -> None:
        self._placed.pop(held.request.name, None)
        try:
            self._end(client, held.request.name, self._originals.error)
        except Exception as second:  # noqa: BLE001 # others are still to be sent
            self._failsafe.note("end", second)
        self._calls.unsent(held.request.name)
        self._failsafe.fail("send", error)

    def _end(self, client: Any, name: str, reason: Any) -> None:
        """Tell vLLM's output side that a request which no engine knows has ended."""
        client.outputs_queue.put_nowait(self._originals.ending(client, name, reason))
