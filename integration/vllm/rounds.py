"""Decisions about held requests: which of them go where, as room comes up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from integration.routing.failsafe import FAILED
from integration.routing.patience import Patience
from integration.vllm.pool import LEFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.cluster.view import IntArray
    from integration.vllm.desk import Desk
    from integration.vllm.pool import Held, Pool, Released
    from integration.vllm.router import Placements

    Send = Callable[[Released], None]


class Rounds:
    """Asks the policy about all that is held, a round at a time.

    Nobody is held for ever: what a policy leaves lying too long, or has no room for while later
    requests take what it needs, goes to vLLM's own rule.

    Parameters
    ----------
    desk : Desk
    pool : Pool
        What is held.

    Attributes
    ----------
    patience : Patience
    """

    def __init__(self, desk: Desk, pool: Pool) -> None:
        self._desk = desk
        self._pool = pool
        self.patience = Patience()

    def run(self, client: Any, send: Send) -> None:
        """Decide while no other API server does, and send what is released."""
        self._desk.sync(client)
        self._desk.locked(self._decide, send)

    def _decide(self, send: Send) -> None:
        desk, pool, router = self._desk, self._pool, self._desk.router
        began = time.perf_counter()
        router.hear()
        room = router.session.look()
        if not room:
            self.patience.used()
            return
        held, queue = pool.offer()
        answer = desk.failsafe.run("decision", self._ask, queue)
        if answer is FAILED:
            self._leave_to_vllm(held[:room], send)
            return
        assert isinstance(answer, list)  # noqa: S101 # the only other answer
        if not answer and (reason := self._unused(held[0])):
            desk.failsafe.fail("decision", reason)
            self._leave_to_vllm(held[:room], send)
            return
        released = [(pool.take([held[at]])[0], rank) for at, rank in answer]
        send(released)
        self._let_the_oldest_go(held[0], len(answer), send)
        self._count(released, time.perf_counter() - began)

    def _ask(self, queue: IntArray) -> Placements:
        return self._desk.router.decide(queue, self._desk.clock_s, immediate=False)

    def _count(self, released: Released, seconds: float) -> None:
        if released:
            self.patience.used()
            for held, _ in released:
                held.request.spent_s += seconds / len(released)
        self._desk.exporter.decided(seconds, len(released))

    def _unused(self, oldest: Held) -> str:
        """Tell what is wrong with a decision that placed nothing, if anything is."""
        desk = self._desk
        return self.patience.unused(
            idle=desk.idle(),
            fits=self._fits(oldest),
            now_s=time.monotonic(),
            # Who says for how long it holds is given that time, too.
            allowed_s=desk.config.params.stall_s + desk.router.session.policy.holds_s,
        )

    def _let_the_oldest_go(self, oldest: Held, placed: int, send: Send) -> None:
        """Hand the oldest request to vLLM once too many that came later took the room it needs.

        Its rank's scheduler then lets nobody past it.
        """
        desk = self._desk
        slots = desk.deployment.slots * desk.router.books.ranks
        passed = oldest.request.name in self._pool and not self._fits(oldest)
        limit = desk.config.params.overtakes * slots
        if self.patience.overtaken(oldest, placed, passed=passed, limit=limit):
            desk.exporter.fell_back("overtaken")
            self._leave_to_vllm([oldest], send)

    def _fits(self, held: Held) -> bool:
        """Tell whether a rank had room for a request when the decision was made."""
        return self._desk.router.session.fits(held.request.prompt_tokens)

    def _leave_to_vllm(self, chosen: list[Held], send: Send) -> None:
        # Standing down within the decision may have sent some of them already.
        send([(held, LEFT) for held in self._pool.take(chosen)])
