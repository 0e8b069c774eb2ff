"""The adapter of one vLLM client: routes its requests and keeps the books of its engines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from brsolver._state_kernels import W_ACTIVE
from brsolver.policy import Waiting
from integration.vllm.deployment import identities
from integration.vllm.guard import FAILED, Guard, logger
from integration.vllm.messages import read
from integration.vllm.metrics import Metrics
from integration.vllm.pool import Held
from integration.vllm.release import Releaser
from integration.vllm.sharing import S_RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from integration.vllm.config import AdapterConfig
    from integration.vllm.deployment import Deployment
    from integration.vllm.recorder import Recorder
    from integration.vllm.requests import Request
    from integration.vllm.router import Router
    from integration.vllm.sharing import Board
    from integration.vllm.wrapping import Originals


T = TypeVar("T")


class Adapter:
    """Stands between a `DPLBAsyncMPClient` and its engines.

    Parameters
    ----------
    config : AdapterConfig
    deployment : Deployment
    router : Router
    originals : Originals
        vLLM's own methods and message classes.
    board : Board or None
        What other API servers tell, where there are any.
    recorder : Recorder or None

    Attributes
    ----------
    guard : Guard
        Knows whether the adapter still routes.
    """

    def __init__(
        self,
        config: AdapterConfig,
        deployment: Deployment,
        router: Router,
        originals: Originals,
        *,
        board: Board | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.config = config
        self.deployment = deployment
        self.router = router
        self.originals = originals
        self.board = board
        self.recorder = recorder
        self.mode = config.params.mode
        self.metrics = Metrics(self.mode, primary=deployment.index == 0)
        self.guard = Guard(
            config.params.budget_ms / 1000,
            config.params.max_failures,
            failed=self.metrics.fell_back,
            stood_down=self._stood_down,
        )
        self.releaser = Releaser(self)
        self._ranks = 0
        self._index_of: dict[int, int] = {}
        self._began = time.monotonic()
        self._announced = False
        self._keeps_books = True
        self._held: dict[str, Request] = {}
        self._alone = Waiting(np.zeros(1, np.int64), np.zeros(1, np.int64))
        self.metrics.set_active(active=self.mode != "observe")

    @property
    def clock_s(self) -> float:
        """Seconds since the adapter was made."""
        return time.monotonic() - self._began

    def sync(self, client: Any) -> None:
        """Take in ranks that have come or gone."""
        if len(client.core_engines) != self._ranks:
            self._ranks = len(client.core_engines)
            self._index_of = {rank: at for at, rank in enumerate(identities(client))}
            self._close(self.router.books.resize(self._ranks))

    def routes(self, client: Any, message: Any) -> bool:
        """Tell whether a request is the adapter's to route."""
        return (
            self.guard.active
            and self.mode != "observe"
            and message.data_parallel_rank is None
            and message.pooling_params is None
            and message.sampling_params is not None
            and message.request_id not in client.reqs_in_flight
            and message.request_id not in self.releaser.pool
            and not getattr(message, "abort_immediately", False)
        )

    def pick(self, client: Any, message: Any) -> int | None:
        """Choose a rank, an index into `core_engines`; None leaves it to vLLM."""
        try:
            placed = self.releaser.placed(message.request_id)
            if placed is not None:
                return placed if 0 <= placed < len(client.core_engines) else None
            return self._place(client, message) if self.routes(client, message) else None
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.guard.fail("decision", f"{type(error).__name__}: {error}")
            return None

    def sent(self, client: Any, message: Any, engine: bytes) -> None:
        """Charge a request to the engine that vLLM sends it to, if that is not done yet."""
        if not self._keeps_books or message.sampling_params is None:
            return
        began = time.perf_counter()
        try:
            request = self._enter(client, message, client.core_engines.index(engine))
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.books_failed(error)
            return
        if request.spent_s:
            self.metrics.routed(request.spent_s + time.perf_counter() - began)
            request.spent_s = 0.0

    def unsent(self, name: str) -> None:
        """Take back what was charged or held for a request that vLLM did not send after all."""
        try:
            gone = self._release([name])
            request = self._held.pop(name, None)
            if request is not None and not gone:
                self.router.books.forget(request)
                gone = [request]
            self._close(gone)
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.books_failed(error)

    def hold(self, client: Any, message: Any) -> bool:
        """Hold a request back; tell whether that was done."""
        if self.mode != "pooled" or not self.routes(client, message) or message.resumable:
            return False
        try:
            return self._hold(client, message)
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.guard.fail("hold", f"{type(error).__name__}: {error}")
            self.releaser.pool.drop(message.request_id)
            self.unsent(message.request_id)
            return False

    def cancelled(self, client: Any, names: list[str]) -> list[str]:
        """End those requests that are still held; return the others."""
        return [name for name in names if not self._cancel(client, name)]

    def _cancel(self, client: Any, name: str) -> bool:
        try:
            return self.releaser.cancel(client, name)
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.guard.fail("cancel", f"{type(error).__name__}: {error}")
            return False

    def reported(self, client: Any, batch: Any) -> None:
        """Enter what an engine reports, and release held requests into what it frees."""
        if not self._keeps_books:
            return
        try:
            self._reported(client, batch)
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.books_failed(error)

    def _reported(self, client: Any, batch: Any) -> None:
        began = time.perf_counter()
        count = self._enter_batch(client, batch)
        self._refresh()
        self._prepare()
        self.share()
        if batch.finished_requests or batch.outputs:
            self.releaser.step_reported(client, freed=bool(batch.finished_requests))
        self.metrics.accounted(time.perf_counter() - began, count)
        self.metrics.flush(self.router.books, len(self.releaser.pool))

    def _refresh(self) -> None:
        """Make forecasts anew if it is time."""
        if (
            self.guard.active
            and self.router.refresh_due()
            and self.guard.run("forecast", self.router.refresh) is FAILED
        ):
            # A predictor that fails must not be asked again at every batch.
            self.router.skip_refresh()

    def _prepare(self) -> None:
        """Project now: a request that comes next should not have to wait for that."""
        if self.guard.active:
            try:
                self.router.prepare()
            except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
                self.router.skip_preparing()
                self.guard.fail("forecast", f"{type(error).__name__}: {error}")

    def share(self) -> None:
        """Tell other API servers, and hear of them."""
        if self.board is not None:
            self.router.publish(len(self.releaser.pool))
            self.router.hear()

    def take_over(self, config: AdapterConfig, router: Router) -> None:
        """Go on with another policy, whose router has taken over the books."""
        self.config, self.router = config, router
        self.metrics.flush(router.books, len(self.releaser.pool), now=True)
        self.mode = self.metrics.mode = config.params.mode
        self.metrics.set_active(active=self.mode != "observe")
        self._announced = False
        for request in self._held.values():
            if request.name not in router.books:
                router.books.identify(request)
        self.releaser.pool.renumber()
        if self.mode != "pooled":
            self.releaser.give_up()

    def _request_of(self, message: Any) -> Request:
        return read(message, keyed=self.recorder is not None or self.router.keyed)

    def announce(self) -> None:
        """Say, once, that the adapter routes: earlier its message would have been swallowed."""
        if not self._announced:
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
            if self.board is not None and self.board.attached < self.board.servers:
                logger.warning(
                    "brsolver: %d of %d API servers share what they know so far; if that stays "
                    "so, set --api-server-count 1",
                    self.board.attached,
                    self.board.servers,
                )

    def record(self, request: Request) -> None:
        """Note, for the trace, a request that comes."""
        if self.recorder is not None:
            self.recorder.arrived(request)

    def idle(self) -> bool:
        """Tell whether no rank runs anything, other API servers' requests included."""
        books = self.router.books
        return not (books.state.workers[W_ACTIVE] + books.others[S_RUNNING]).any()

    def _place(self, client: Any, message: Any) -> int | None:
        began = time.perf_counter()
        self.sync(client)
        request = self._request_of(message)
        rank = self.locked(self._place_one, request)
        if rank is None:
            return None
        self.record(request)
        self.announce()
        request.spent_s = time.perf_counter() - began
        self.metrics.decided(request.spent_s, 1)
        return rank

    def _place_one(self, request: Request) -> int | None:
        router, books = self.router, self.router.books
        router.hear()
        books.identify(request)
        waiting = self._alone
        waiting.prompt_tokens[0] = request.prompt_tokens
        waiting.request[0] = request.identity
        waiting.since[0] = books.step
        router.room(immediate=True)
        answer = self.guard.run("decision", self._decide_one, waiting)
        if answer is FAILED:
            books.forget(request)
            return None
        rank = answer
        assert isinstance(rank, int)  # noqa: S101 # the only other answer
        try:
            books.charge(request, rank)
        except Exception:
            books.discard(request)
            raise
        router.publish(len(self.releaser.pool))
        return rank

    def _decide_one(self, waiting: Waiting) -> int:
        return self.router.place(waiting, self.clock_s, immediate=True)[0][1]

    def locked(self, call: Callable[..., T], *args: Any) -> T:
        """Call while no other API server decides."""
        if self.board is None:
            return call(*args)
        with self.board.locked():
            return call(*args)

    def _hold(self, client: Any, message: Any) -> bool:
        began = time.perf_counter()
        self.sync(client)
        request = self._request_of(message)
        capacity = self.router.books.capacity
        if capacity is not None and request.prompt_tokens > capacity:
            return False
        self.router.books.identify(request)
        self.record(request)
        self._held[request.name] = request
        self.releaser.hold(client, Held(message, request, self.router.books.step))
        request.spent_s = time.perf_counter() - began
        return True

    def _enter(self, client: Any, message: Any, index: int) -> Request:
        self.sync(client)
        books = self.router.books
        request = books.get(message.request_id)
        held = self._held.pop(message.request_id, None)
        if request is None:
            request = held or self._request_of(message)
            if held is None:
                self.record(request)
            books.charge(request, index)
        elif request.worker != index:
            books.move(request, index)
        elif request.sent and message.resumable:
            books.extend(request, len(message.prompt_token_ids or ()))
        request.sent = True
        self.share()
        return request

    def _enter_batch(self, client: Any, batch: Any) -> int:
        self.sync(client)
        books = self.router.books
        count = 0
        rank = self._index_of.get(batch.engine_index)
        if batch.outputs:
            if batch.outputs[0].new_token_ids and rank is not None and books.report(rank):
                self.metrics.stepped(books)
            count = books.progress(batch.outputs)
        if batch.finished_requests:
            self._close(self._release(batch.finished_requests))
        # With other API servers, the blocks are in part their requests'.
        if rank is not None and self.board is None and batch.scheduler_stats is not None:
            books.told(rank, batch.scheduler_stats)
        return count

    def _release(self, names: Iterable[str]) -> list[Request]:
        books = self.router.books
        gone = books.release(names)
        if books.fault is not None:
            fault, books.fault = books.fault, None
            self.guard.fail("accounting", f"{type(fault).__name__}: {fault}")
        return gone

    def _close(self, gone: list[Request]) -> None:
        if self.recorder is not None:
            for request in gone:
                self.recorder.ended(request)

    def books_failed(self, error: Exception) -> None:
        """Count it, and enter anew all that is known; failing that, stand down."""
        self.guard.fail("accounting", f"{type(error).__name__}: {error}")
        try:
            if self.guard.active:
                self.router.books.rebuild()
        except Exception as again:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.guard.stand_down(f"the books are lost: {type(again).__name__}: {again}")
        if not self.guard.active:
            self._keeps_books = False
            if self.board is not None:
                self.board.withdraw()

    def _stood_down(self) -> None:
        self.metrics.set_active(active=False)
        self.router.books.ignore()
        self.releaser.give_up()
