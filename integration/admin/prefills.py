"""Figures of a prefill tier for Prometheus."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from integration import metric_names as of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from integration.doors.prefill_figures import PrefillTier

CALLS = of.Metric("brsolver_prefill_calls", "Prefill calls, by how they ended")
PROMPTS = of.Metric("brsolver_prefill_prompts", "Prompts, by what became of them")
WAITING = of.Metric(
    "brsolver_prefill_waiting_requests", "Requests that wait for a prefill worker with room"
)
UP = of.Metric("brsolver_prefill_worker_up", "1 if prompts may go there")
TOKENS = of.Metric("brsolver_prefill_tokens", "Prompt tokens under way at a prefill worker")


class Prefills:
    """Collects what a prefill tier says of itself.

    Parameters
    ----------
    told : callable
        Returns how it stands.
    """

    def __init__(self, told: Callable[[], PrefillTier]) -> None:
        self._told = told
        families = import_module("prometheus_client.core")
        self._counter, self._gauge = families.CounterMetricFamily, families.GaugeMetricFamily

    def collect(self) -> Iterable[Any]:
        """Return a family per figure."""
        tier = self._told()
        calls = self._counter(*CALLS, labels=("worker", "result"))
        for worker, results in tier.calls.items():
            for result, count in results.items():
                calls.add_metric((worker, result), count)
        prompts = self._counter(*PROMPTS, labels=("result",))
        for result, count in tier.prompts.items():
            prompts.add_metric((result,), count)
        up, tokens = (self._gauge(*metric, labels=("worker",)) for metric in (UP, TOKENS))
        for each in tier.workers:
            up.add_metric((each.name,), each.state == "up")
            tokens.add_metric((each.name,), each.tokens)
        yield from (calls, prompts, up, tokens)
        yield self._gauge(*WAITING, value=tier.waiting)
