"""The step time identified while serving: switched on or off, kept from harm, handed to routers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from integration.routing.failsafe import named
from integration.vllm.log import logger
from integration.vllm.observer import StepObserver
from integration.vllm.pricing import NOTICED, Pricing

if TYPE_CHECKING:
    from brsolver.hardware.online import OnlineEstimate
    from integration.vllm.accounting import Books
    from integration.vllm.config import AdapterConfig
    from integration.vllm.deployment import Deployment
    from integration.vllm.prometheus import Exporter
    from integration.vllm.router import Router

AUTO = "auto"
MOST = 1_000_000


class Identification:
    """Takes in what engines report; whatever goes wrong in it ends it, and nothing else.

    Parameters
    ----------
    config : AdapterConfig
    deployment : Deployment
        With several API servers each sees a part of every step only, and ranks of a model without
        experts do not wait for each other: then nothing is identified.
    """

    def __init__(self, config: AdapterConfig, deployment: Deployment) -> None:
        self._observer: StepObserver | None = None
        self._pricing = Pricing(deployment.budget)
        if config.params.identify and deployment.clients == 1 and deployment.moe is not False:
            self._observer = StepObserver(deployment.budget, deployment.chunk)

    @property
    def active(self) -> bool:
        """Whether steps are taken in."""
        return self._observer is not None

    def reported(self, rank: int, batch: Any, books: Books) -> None:
        """Take in a batch of a rank's outputs, which the books have entered but not released."""
        # What says nothing of a step: an answer to a call, requests that were cancelled.
        if self._observer is None or not (batch.outputs or batch.scheduler_stats is not None):
            return
        if not batch.outputs:
            books.begun.clear()
        try:
            self._observer.reported(rank, batch, books, time.monotonic())
        except Exception as error:  # noqa: BLE001 # whatever it is, routing must go on
            self._give_up(error)

    def tell(self, exporter: Exporter, router: Router, config: AdapterConfig) -> None:
        """Publish what is known now, and let a router weigh by it what is not configured.

        Parameters
        ----------
        exporter : Exporter
        router : Router
        config : AdapterConfig
            The router's.
        """
        if self._observer is None:
            return
        session = router.session
        try:
            estimate = self._observer.fit.estimate()
            exporter.identified(estimate)
            if config.params.request_tokens == AUTO:
                hand_over(estimate, session)
            if config.params.hardware is None:
                computes = router.books.scheduling.computes
                session.costs = self._pricing.learned(estimate, session.policy, computes=computes)
        except Exception as error:  # noqa: BLE001 # as above
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._observer = None
        logger.warning("brsolver: the step time is not identified any more: %s", named(error))


def hand_over(estimate: OnlineEstimate, session: Any) -> None:
    """Let a session weigh requests by the ratio that was found, once there is one."""
    found = estimate.request_tokens
    if found is None:
        return
    found = min(found, MOST)
    if abs(found - session.request_tokens) > NOTICED * session.request_tokens:
        session.request_tokens = found
