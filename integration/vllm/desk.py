"""Where requests are entered, decided on and let go: what routing needs besides vLLM's client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from brsolver.cluster._state_kernels import W_ACTIVE
from brsolver.cluster.session import S_RUNNING
from brsolver.cluster.view import QUEUE_ROWS, REQUEST, SINCE, TOKENS
from integration.routing.failsafe import FAILED, named
from integration.vllm.deployment import identities
from integration.vllm.identification import Identification
from integration.vllm.log import logger
from integration.vllm.messages import read
from integration.vllm.pool import Held
from integration.vllm.pricing import remarks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from brsolver.cluster.view import IntArray
    from integration.routing.failsafe import Failsafe
    from integration.vllm.config import AdapterConfig
    from integration.vllm.deployment import Deployment
    from integration.vllm.pool import Pool
    from integration.vllm.prometheus import Exporter
    from integration.vllm.recorder import Recorder
    from integration.vllm.requests import Request
    from integration.vllm.router import Router

T = TypeVar("T")


class Desk:
    """The router of one client, and all that has to be told what becomes of requests.

    Parameters
    ----------
    config : AdapterConfig
    deployment : Deployment
    router : Router
    pool : Pool
        Requests that are held back, of which others are told the number.
    failsafe : Failsafe
    exporter : Exporter
    recorder : Recorder or None

    Attributes
    ----------
    config, router
        Those of now: they are exchanged as one, by `take_over` alone.
    deployment, failsafe, exporter, recorder
        As given.
    board : Board or None
        What other API servers tell, where there are any; every router's.
    held : dict of str to Request
        Requests that have been held back and that vLLM has not sent yet, by name.
    keeps_books : bool
        False once the books are given up.
    identification : Identification
        Of the step time, whatever routes.
    """

    def __init__(
        self,
        config: AdapterConfig,
        deployment: Deployment,
        router: Router,
        *,
        pool: Pool,
        failsafe: Failsafe,
        exporter: Exporter,
        recorder: Recorder | None = None,
    ) -> None:
        self.config = config
        self.deployment = deployment
        self.router = router
        self.failsafe = failsafe
        self.exporter = exporter
        self.board = router.board
        self.held: dict[str, Request] = {}
        self.keeps_books = True
        self._pool = pool
        self.recorder = recorder
        self.identification = Identification(config, deployment)
        self._ranks = 0
        self._index_of: dict[int, int] = {}
        self._began = time.monotonic()
        self._announced = False
        self._queue_of_one: IntArray = np.zeros((QUEUE_ROWS, 1), np.int64)

    @property
    def mode(self) -> str:
        """The routing mode of now."""
        return self.config.params.mode

    @property
    def clock_s(self) -> float:
        """Seconds since the desk was set up."""
        return time.monotonic() - self._began

    def sync(self, client: Any) -> None:
        """Take in ranks that have come or gone."""
        if len(client.core_engines) != self._ranks:
            self._ranks = len(client.core_engines)
            self._index_of = {rank: at for at, rank in enumerate(identities(client))}
            self._close(self.router.books.resize(self._ranks))

    def locked(self, call: Callable[..., T], *args: Any) -> T:
        """Call while no other API server decides."""
        if self.board is None:
            return call(*args)
        with self.board.locked():
            return call(*args)

    def idle(self) -> bool:
        """Tell whether no rank runs anything, other API servers' requests included."""
        books = self.router.books
        return not (books.state.workers[W_ACTIVE] + books.others[S_RUNNING]).any()

    def publish(self) -> None:
        """Tell other API servers."""
        self.router.publish(len(self._pool))

    def share(self) -> None:
        """Tell other API servers, and hear of them."""
        if self.board is not None:
            self.publish()
            self.router.hear()

    def place(self, client: Any, message: Any) -> int | None:
        """Decide where a request goes, and charge it there; None leaves it to vLLM."""
        began = time.perf_counter()
        self.sync(client)
        request = self._request_of(message)
        rank = self.locked(self._place, request)
        if rank is None:
            return None
        self._record(request)
        self._announce()
        request.spent_s = time.perf_counter() - began
        self.exporter.decided(request.spent_s, 1)
        return rank

    def _place(self, request: Request) -> int | None:
        router, books, queue = self.router, self.router.books, self._queue_of_one
        router.hear()
        books.identify(request)
        queue[TOKENS, 0], queue[REQUEST, 0] = request.prompt_tokens, request.identity
        queue[SINCE, 0] = books.step
        router.session.look(immediate=True)
        rank = self.failsafe.run("decision", self._decide_one)
        if not isinstance(rank, int):
            books.forget(request)
            return None
        try:
            books.charge(request, rank)
        except Exception:  # whatever it is, nobody may stay charged; `Adapter.pick` counts it
            books.discard(request)
            raise
        self.publish()
        return rank

    def _decide_one(self) -> int:
        return self.router.decide(self._queue_of_one, self.clock_s, immediate=True)[0][1]

    def take_in(self, client: Any, message: Any) -> Held | None:
        """Take in a request that is to be held; None if no rank could ever take it."""
        self.sync(client)
        request = self._request_of(message)
        books = self.router.books
        if books.capacity is not None and request.prompt_tokens > books.capacity:
            return None
        books.identify(request)
        self._record(request)
        self.held[request.name] = request
        return Held(message, request, books.step)

    def charge(self, placed: list[tuple[Request, int]]) -> None:
        """Enter requests that have been held, and are on their way."""
        for request, rank in placed:
            self.router.books.charge(request, rank)
        self.publish()
        if placed:
            self._announce()

    def enter(self, client: Any, message: Any, index: int) -> Request:
        """Enter a request that vLLM sends to a rank."""
        self.sync(client)
        books = self.router.books
        request = books.get(message.request_id)
        held = self.held.pop(message.request_id, None)
        if request is None:
            request = held or self._request_of(message)
            if held is None:
                self._record(request)
            books.charge(request, index)
        elif request.rank != index:
            books.move(request, index)
        elif request.sent and message.resumable:
            books.extend(request, len(message.prompt_token_ids or ()))
        request.sent = True
        self.share()
        return request

    def unsent(self, name: str) -> None:
        """Take back what was charged or held for a request that vLLM did not send after all."""
        try:
            gone = self._release([name])
            request = self.held.pop(name, None)
            if request is not None and not gone:
                self.router.books.forget(request)
                gone = [request]
            self._close(gone)
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.books_failed(error)

    def enter_batch(self, client: Any, batch: Any) -> int:
        """Enter what an engine reports; return how many requests it was about."""
        self.sync(client)
        books = self.router.books
        count = 0
        rank = self._index_of.get(batch.engine_index)
        if batch.outputs:
            if batch.outputs[0].new_token_ids and rank is not None and books.report(rank):
                self.exporter.stepped(books)
            count = books.progress(batch.outputs)
        if rank is not None:
            books.stepped(rank, batch)
            self.identification.reported(rank, batch, books)
        if batch.finished_requests:
            self._close(self._release(batch.finished_requests))
        # With other API servers, the blocks are in part their requests'.
        if rank is not None and self.board is None and batch.scheduler_stats is not None:
            books.told(rank, batch.scheduler_stats)
        self._refresh()
        self._prepare()
        self.share()
        return count

    def _refresh(self) -> None:
        """Make forecasts anew if it is time."""
        if (
            self.failsafe.active
            and self.router.refresh_due()
            and self.failsafe.run("forecast", self.router.refresh) is FAILED
        ):
            # A predictor that fails must not be asked again at every batch.
            self.router.skip_refresh()

    def _prepare(self) -> None:
        """Project now: a request that comes next should not have to wait for that."""
        if self.failsafe.active:
            session = self.router.session
            try:
                session.prepare()
            except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
                session.skip_preparing()
                self.failsafe.fail("forecast", error)

    def take_over(self, config: AdapterConfig, router: Router) -> None:
        """Go on with another policy, whose router has taken over the books."""
        self.config, self.router = config, router
        self.tell(now=True)
        self.exporter.change_mode(self.mode)
        self.exporter.set_active(active=self.mode != "observe")
        self._announced = False
        for request in self.held.values():
            if request.name not in router.books:
                router.books.identify(request)
        self._pool.renumber()

    def tell(self, *, now: bool = False) -> None:
        """Hand figures over to Prometheus, if it is time, and what was identified to the router."""
        if self.exporter.flush(self.router.books, len(self._pool), now=now):
            self._tell_tally()
            self.identification.tell(self.exporter, self.router, self.config)

    def _tell_tally(self) -> None:
        try:
            self.exporter.tallied(self.router.session.policy)
        except Exception as error:  # noqa: BLE001 # a stranger's policy may count what it likes
            self.failsafe.note("tally", error)

    def stood_down(self) -> None:
        """Keep nothing for decisions from now on."""
        self.exporter.set_active(active=False)
        self.router.books.ignore()

    def books_failed(self, error: Exception) -> None:
        """Count it, and enter anew all that is known; failing that, stand down."""
        self.failsafe.fail("accounting", error)
        try:
            if self.failsafe.active:
                self.router.books.rebuild()
        except Exception as again:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.failsafe.stand_down(f"the books are lost: {named(again)}")
        if not self.failsafe.active:
            self.keeps_books = False
            if self.board is not None:
                self.board.withdraw()

    def _release(self, names: Iterable[str]) -> list[Request]:
        books = self.router.books
        gone = books.release(names)
        fault = books.take_fault()
        if fault is not None:
            self.failsafe.fail("accounting", fault)
        return gone

    def _request_of(self, message: Any) -> Request:
        return read(
            message,
            keyed=self.recorder is not None or self.router.keyed,
            block_tokens=self.router.block_tokens,
        )

    def _record(self, request: Request) -> None:
        """Note, for the trace, a request that comes."""
        if self.recorder is not None:
            self.recorder.arrived(request)

    def _close(self, gone: list[Request]) -> None:
        if self.recorder is not None:
            for request in gone:
                self.recorder.ended(request)

    def _announce(self) -> None:
        """Say, once, that the adapter routes: earlier its message would have been swallowed."""
        if self._announced:
            return
        self._announced = True
        known = self.deployment
        capacity = "" if known.capacity is None else f", {known.capacity:,} KV tokens each"
        logger.info(
            "brsolver: active: policy %s, %s, %d ranks of %d sequences%s",
            self.config.params.policy,
            self.mode,
            self._ranks,
            known.slots,
            capacity,
        )
        self._remark()
        if self.board is not None and self.board.attached < self.board.servers:
            logger.warning(
                "brsolver: %d of %d API servers share what they know so far; if that stays "
                "so, set --api-server-count 1",
                self.board.attached,
                self.board.servers,
            )

    def _remark(self) -> None:
        """Say what an operator must know of a policy that holds; all API servers know the same."""
        known, session = self.deployment, self.router.session
        if known.index != 0 or self.mode != "pooled":
            return
        named, costs = self.config.params.hardware is not None, session.costs
        # What is found out does not count where hardware is named.
        priced = costs.prices_prefill if costs is not None else False
        priced = priced or (self.identification.active and not named)
        # Without a barrier, or with prompts that come computed, there is nothing to hold for.
        due = known.moe is not False and self.router.books.scheduling.computes
        for line in remarks(session.policy, known, priced=priced or not due, named=named):
            logger.warning("brsolver: %s", line)
