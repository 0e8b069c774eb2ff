"""When held requests are released, and how they get to vLLM."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TYPE_CHECKING, Any

from integration.vllm.guard import FAILED
from integration.vllm.pool import Held, Pool

if TYPE_CHECKING:
    from integration.vllm.adapter import Adapter
    from integration.vllm.requests import Request

POLL_S = 0.05
POLL_SHARED_S = 0.005
"""Of another API server's ends this one is told by nobody, and looks."""


LEFT = -1
"""In place of a rank: vLLM's own rule decides."""


class Releaser:
    """Holds requests and releases sets of them.

    Arrivals that find a free slot are released with all that came in the same turn of the event
    loop. A slot that frees waits until all ranks have reported the step, or for `settle_ms`, so
    that one decision sees all that the step freed.

    Parameters
    ----------
    adapter : Adapter
        Whose requests.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.pool = Pool()
        self._adapter = adapter
        self._placed: dict[str, int] = {}
        self._leaving: dict[str, Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._due = float("inf")
        self._client_ref: weakref.ref[Any] | None = None
        self._oldest: Held | None = None
        self._overtaken = 0
        self._unused_since_s: float | None = None

    def placed(self, name: str) -> int | None:
        """Return, once, the rank that a released request was given, or `LEFT`."""
        return self._placed.pop(name, None)

    def hold(self, client: Any, held: Held) -> None:
        """Hold a request, and look for room in this turn of the event loop."""
        self._client_ref = weakref.ref(client)
        self.pool.add(held)
        self._run_in(0.0)

    def step_reported(self, client: Any, *, freed: bool) -> None:
        """Look for room after a rank has reported."""
        if not len(self.pool):
            return
        self._client_ref = weakref.ref(client)
        if self._adapter.router.books.settled():
            self._run_in(0.0)
        elif freed:
            self._run_in(self._adapter.config.params.settle_ms / 1000)

    def cancel(self, client: Any, name: str) -> bool:
        """End a held request in vLLM's eyes; tell whether it was held."""
        if self.pool.drop(name) is None and self._leaving.pop(name, None) is None:
            return False
        self._placed.pop(name, None)
        self._end(client, name, self._adapter.originals.abort)
        self._adapter.unsent(name)
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
        client, adapter = self._client(), self._adapter
        if not len(self.pool) or client is None:
            return
        try:
            adapter.sync(client)
            adapter.locked(self._pass)
        except Exception as error:  # noqa: BLE001 # whatever it is, nobody may be left waiting
            adapter.guard.fail("release", f"{type(error).__name__}: {error}")
            self.give_up()
        if len(self.pool):
            self._run_in(POLL_S if adapter.board is None else POLL_SHARED_S)

    def _pass(self) -> None:
        adapter = self._adapter
        began = time.perf_counter()
        adapter.router.hear()
        room = adapter.router.room()
        if not room:
            self._unused_since_s = None
            return
        held, waiting = self.pool.offer()
        answer = adapter.guard.run("decision", self._decide, waiting)
        if answer is FAILED:
            self._leave_to_vllm(held[:room])
            return
        assert isinstance(answer, list)  # noqa: S101 # the only other answer
        if not answer and (reason := self._unused(held[0])):
            adapter.guard.fail("decision", reason)
            self._leave_to_vllm(held[:room])
            return
        released = [(self._take([held[at]])[0], rank) for at, rank in answer]
        self._send_all(released)
        self._let_the_oldest_go(held[0], len(answer))
        self._count(released, time.perf_counter() - began)

    def _decide(self, waiting: Any) -> list[tuple[int, int]]:
        adapter = self._adapter
        return adapter.router.place(waiting, adapter.clock_s, immediate=False)

    def _count(self, released: list[tuple[Held, int]], seconds: float) -> None:
        if released:
            self._unused_since_s = None
            for held, _ in released:
                held.request.spent_s += seconds / len(released)
        self._adapter.metrics.decided(seconds, len(released))

    def _unused(self, oldest: Held) -> str:
        """Tell what is wrong with a decision that placed nothing, if anything is.

        To wait until there is room for the oldest is a policy's good right.
        """
        adapter = self._adapter
        if adapter.idle():
            return "placed nothing on idle ranks"
        if not adapter.router.fits(oldest.request.prompt_tokens):
            self._unused_since_s = None
            return ""
        now, allowed_s = time.monotonic(), adapter.config.params.stall_s
        if self._unused_since_s is None:
            self._unused_since_s = now
        if now - self._unused_since_s < allowed_s:
            return ""
        self._unused_since_s = None
        return f"left free slots unused for {allowed_s:g} s while the oldest request would fit"

    def _let_the_oldest_go(self, oldest: Held, placed: int) -> None:
        """Hand the oldest request to vLLM once too many that came later took the room it needs.

        Its rank's scheduler then lets nobody past it. Whom a policy merely passes over is the
        policy's own affair.
        """
        if oldest is not self._oldest:
            self._oldest, self._overtaken = oldest, 0
        adapter = self._adapter
        # The view is still the one that was decided by.
        if oldest.request.name not in self.pool or adapter.router.fits(
            oldest.request.prompt_tokens
        ):
            return
        self._overtaken += placed
        slots = adapter.deployment.slots * adapter.router.books.ranks
        if self._overtaken > adapter.config.params.overtakes * slots:
            adapter.metrics.fell_back("overtaken")
            self._leave_to_vllm([oldest])

    def _leave_to_vllm(self, chosen: list[Held]) -> None:
        self._send_all([(held, LEFT) for held in self._take(chosen)])

    def _take(self, chosen: list[Held]) -> list[Held]:
        # Standing down within the decision may have sent some of them already.
        return [each for each in chosen if self.pool.drop(each.request.name) is not None]

    def _send_all(self, released: list[tuple[Held, int]]) -> None:
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
            self._charge(placed)
        except Exception as error:  # noqa: BLE001 # whatever it is, they are on their way
            self._adapter.books_failed(error)

    def _charge(self, placed: list[tuple[Request, int]]) -> None:
        adapter = self._adapter
        for request, rank in placed:
            adapter.router.books.charge(request, rank)
        adapter.router.publish(len(self.pool))
        if placed:
            adapter.announce()

    async def _send(self, client: Any, released: list[Held]) -> None:
        for held in released:
            # Cancelled since it was released: it has been ended already.
            if self._leaving.pop(held.request.name, None) is None:
                continue
            try:
                await self._adapter.originals.add_request(client, held.message)
            except Exception as error:  # noqa: BLE001 # the request's own task is past the point
                self._lost(client, held, error)

    def _lost(self, client: Any, held: Held, error: Exception) -> None:
        adapter = self._adapter
        self._placed.pop(held.request.name, None)
        try:
            self._end(client, held.request.name, adapter.originals.error)
        except Exception as second:  # noqa: BLE001 # others are still to be sent
            adapter.guard.note("end", f"{type(second).__name__}: {second}")
        adapter.unsent(held.request.name)
        adapter.guard.fail("send", f"{type(error).__name__}: {error}")

    def _end(self, client: Any, name: str, reason: Any) -> None:
        """Tell vLLM's output side that a request which no engine knows has ended."""
        client.outputs_queue.put_nowait(self._adapter.originals.ending(client, name, reason))
