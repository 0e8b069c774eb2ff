"""The adapter of one vLLM client: routes its requests and keeps the books of its engines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from integration.routing.failsafe import Failsafe, Words
from integration.vllm.desk import Desk
from integration.vllm.log import logger
from integration.vllm.pool import Pool
from integration.vllm.prometheus import Exporter
from integration.vllm.release import POLL_S, POLL_SHARED_S, Calls, Releaser
from integration.vllm.rounds import Rounds

if TYPE_CHECKING:
    from integration.vllm.config import AdapterConfig
    from integration.vllm.deployment import Deployment
    from integration.vllm.recorder import Recorder
    from integration.vllm.router import Router
    from integration.vllm.wrapping import Originals


class Adapter:
    """Stands between a `DPLBAsyncMPClient` and its engines: what the wrapped methods call.

    Nothing it is called for raises: what goes wrong is counted, and vLLM goes on.

    Parameters
    ----------
    config : AdapterConfig
    deployment : Deployment
    router : Router
    originals : Originals
        vLLM's own methods and message classes.
    recorder : Recorder or None

    Attributes
    ----------
    desk : Desk
        Decides and keeps the books.
    releaser : Releaser
        Holds requests, and sends them.
    failsafe : Failsafe
        Knows whether the adapter still routes.
    """

    def __init__(
        self,
        config: AdapterConfig,
        deployment: Deployment,
        router: Router,
        originals: Originals,
        *,
        recorder: Recorder | None = None,
    ) -> None:
        exporter = Exporter(config.params.mode, primary=deployment.index == 0)
        self.failsafe = Failsafe(
            config.params.budget_ms / 1000,
            config.params.max_failures,
            failed=exporter.fell_back,
            words=Words(logger, "vLLM goes on without", "vLLM routes by itself"),
        )
        pool = Pool()
        self.desk = desk = Desk(
            config,
            deployment,
            router,
            pool=pool,
            failsafe=self.failsafe,
            exporter=exporter,
            recorder=recorder,
        )
        self.rounds = Rounds(desk, pool)
        calls = Calls(
            decide=self.rounds.run,
            charge=desk.charge,
            unsent=desk.unsent,
            books_failed=desk.books_failed,
        )
        poll_s = POLL_S if router.board is None else POLL_SHARED_S
        self.releaser = Releaser(pool, calls, originals, self.failsafe, poll_s=poll_s)
        self.failsafe.when_down(desk.stood_down)
        self.failsafe.when_down(self.releaser.give_up)
        exporter.set_active(active=desk.mode != "observe")

    def routes(self, client: Any, message: Any) -> bool:
        """Tell whether a request is the adapter's to route."""
        return (
            self.failsafe.active
            and self.desk.mode != "observe"
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
            return self.desk.place(client, message) if self.routes(client, message) else None
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.failsafe.fail("decision", error)
            return None

    def sent(self, client: Any, message: Any, engine: bytes) -> None:
        """Charge a request to the engine that vLLM sends it to, if that is not done yet."""
        desk = self.desk
        if not desk.keeps_books or message.sampling_params is None:
            return
        began = time.perf_counter()
        try:
            request = desk.enter(client, message, client.core_engines.index(engine))
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            desk.books_failed(error)
            return
        if request.spent_s:
            desk.exporter.routed(request.spent_s + time.perf_counter() - began)
            request.spent_s = 0.0

    def unsent(self, name: str) -> None:
        """Take back what was charged or held for a request that vLLM did not send after all."""
        self.desk.unsent(name)

    def hold(self, client: Any, message: Any) -> bool:
        """Hold a request back; tell whether that was done."""
        if self.desk.mode != "pooled" or not self.routes(client, message) or message.resumable:
            return False
        try:
            return self._hold(client, message)
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.failsafe.fail("hold", error)
            self.releaser.pool.drop(message.request_id)
            self.unsent(message.request_id)
            return False

    def _hold(self, client: Any, message: Any) -> bool:
        began = time.perf_counter()
        held = self.desk.take_in(client, message)
        if held is None:
            return False
        self.releaser.hold(client, held)
        held.request.spent_s = time.perf_counter() - began
        return True

    def cancelled(self, client: Any, names: list[str]) -> list[str]:
        """End those requests that are still held; return the others."""
        return [name for name in names if not self._cancel(client, name)]

    def _cancel(self, client: Any, name: str) -> bool:
        try:
            return self.releaser.cancel(client, name)
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.failsafe.fail("cancel", error)
            return False

    def reported(self, client: Any, batch: Any) -> None:
        """Enter what an engine reports, and release held requests into what it frees."""
        if not self.desk.keeps_books:
            return
        try:
            self._reported(client, batch)
        except Exception as error:  # noqa: BLE001 # whatever it is, vLLM must go on
            self.desk.books_failed(error)

    def _reported(self, client: Any, batch: Any) -> None:
        began = time.perf_counter()
        count = self.desk.enter_batch(client, batch)
        if (batch.finished_requests or batch.outputs) and len(self.releaser.pool):
            self._look(client, freed=bool(batch.finished_requests))
        self.desk.exporter.accounted(time.perf_counter() - began, count)
        self.desk.tell()

    def _look(self, client: Any, *, freed: bool) -> None:
        if self.desk.router.books.settled():
            self.releaser.look(client, 0.0)
        elif freed:
            self.releaser.look(client, self.desk.config.params.settle_ms / 1000)

    def take_over(self, config: AdapterConfig, router: Router) -> None:
        """Go on with another policy, whose router has taken over the books."""
        self.desk.take_over(config, router)
        if self.desk.mode != "pooled":
            self.releaser.give_up()
