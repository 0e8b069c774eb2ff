"""What engines run beyond our own requests: of a picker before this one, or of other senders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.cluster.session import FIGURES, S_LOAD, S_RUNNING

if TYPE_CHECKING:
    from brsolver.cluster.view import IntArray
    from integration.picker.workers import Worker, Workers

TOKENS_EACH = 1024
"""KV tokens of a request of which nothing is told."""


class Foreign:
    """Further requests at the workers, for the session: `brsolver.cluster.session.Others`.

    Engines tell now and then, and a request of ours may just have come or gone. Requests that they
    have beyond our own count as far as they told it twice, or at once where there are none of our
    own yet. KV tokens beyond those that the books have there count as well, whosever they are:
    prompts may be longer than they were taken to be.

    Parameters
    ----------
    workers : Workers
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._before: dict[int, int] = {}
        self._tokens: dict[int, int] = {}

    def told(self, worker: Worker, held_tokens: int) -> None:
        """Take in what an engine has just told.

        Parameters
        ----------
        worker : Worker
        held_tokens : int
            KV tokens that our own requests have, or will have, there by the books.
        """
        requests = None if worker.gauges is None else worker.gauges.requests
        if requests is None:
            return
        beyond = max(requests - worker.reserved, 0)
        # Before anything of ours was sent there, nothing of ours can have just come or gone.
        first = 0 if worker.reserved else beyond
        worker.foreign = min(beyond, self._before.get(worker.index, first))
        self._before[worker.index] = beyond
        self._tokens[worker.index] = self._beyond_tokens(worker, held_tokens)

    def forget(self, worker: Worker) -> None:
        """Take in that nothing is known of a worker any more."""
        worker.foreign = 0
        self._before.pop(worker.index, None)
        self._tokens.pop(worker.index, None)

    def _beyond_tokens(self, worker: Worker, held_tokens: int) -> int:
        gauges = worker.gauges
        if gauges is None or not gauges.requests:
            return 0
        usage = gauges.kv_usage
        if usage is None or worker.capacity is None:
            return worker.foreign * TOKENS_EACH
        return max(int(usage * worker.capacity) - held_tokens, 0)

    def others(self) -> IntArray:
        """Return their sums per worker, shape (FIGURES, G)."""
        figures: IntArray = np.zeros((FIGURES, len(self._workers)), np.int64)
        for worker in self._workers:
            if not worker.gone:
                figures[S_RUNNING, worker.index] = worker.foreign + worker.withheld
                figures[S_LOAD, worker.index] = self._tokens.get(worker.index, 0)
        return figures

    def others_projected(self, steps: int) -> IntArray:
        """Return their projected loads, shape (G, steps + 1): nobody knows when they end."""
        loads: IntArray = self.others()[S_LOAD]
        return np.repeat(loads[:, None], steps + 1, axis=1)
