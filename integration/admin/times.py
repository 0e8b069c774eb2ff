"""Times to first tokens and per token, by worker, as somebody measured them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from integration import metric_names as of
from integration.picker.events import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from integration.admin.window import Window
    from integration.picker.asks import Gauges, Measured

TTFT = of.Metric(
    "brsolver_ttft_seconds", "Time from a worker's being sent a request to its first token"
)
TPOT = of.Metric("brsolver_tpot_seconds", "Time between tokens of a request")
ENGINE, ENVOY = "engine", "envoy"
"""Who measured: a worker has one source of each, the engine's own figures if it publishes any."""


@dataclass(slots=True)
class _Sums:
    """What Envoy saw of the streams of a worker."""

    firsts: int = 0
    firsts_s: float = 0.0
    gaps: int = 0
    gaps_s: float = 0.0


class Times:
    """Collects sums and counts: what engines publish, else what Envoy saw of their streams.

    Parameters
    ----------
    window : Window
        Knows workers by name.
    told : callable
        Returns what the engine of a worker said last, by the worker's index; None if it is silent.
    """

    def __init__(self, window: Window, told: Callable[[int], Gauges | None]) -> None:
        self._window, self._told = window, told
        self._seen: dict[str, _Sums] = {}
        self._summary = import_module("prometheus_client.core").SummaryMetricFamily

    def add(self, worker: int, times: Measured) -> None:
        """Take in what was measured of a stream."""
        if worker == NOWHERE:
            return
        sums = self._seen.setdefault(self._window.worker(worker).name, _Sums())
        if times.worker_ttft_s is not None:
            sums.firsts += 1
            sums.firsts_s += times.worker_ttft_s
        if times.decode_s is not None and times.decoded:
            sums.gaps += times.decoded
            sums.gaps_s += times.decode_s

    def forget(self, worker: str) -> None:
        """Forget what was measured of a worker that is gone, by its name."""
        self._seen.pop(worker, None)

    def collect(self) -> Iterable[Any]:
        """Return the families."""
        yield self._family(TTFT, "firsts")
        yield self._family(TPOT, "gaps")

    def _family(self, metric: of.Metric, counts: str) -> Any:
        family = self._summary(*metric, labels=("worker", "source"))
        for index, worker in enumerate(self._window.workers):
            if worker.state == "gone":
                # Its engine says nothing more, and for Envoy to take its place would be wrong.
                continue
            for source, found in (
                (ENGINE, self._told(index)),
                (ENVOY, self._seen.get(worker.name)),
            ):
                count = getattr(found, counts, None)
                seconds = getattr(found, f"{counts}_s", None)
                if count is not None and seconds is not None:
                    family.add_metric((worker.name, source), count, seconds)
                    break
        return family
