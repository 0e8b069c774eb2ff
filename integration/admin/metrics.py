"""Figures for Prometheus, in a registry of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import MissingExtraError
from brsolver.results.barrier import PARTS, netted
from integration import metric_names as of
from integration.admin.prefills import Prefills
from integration.admin.times import Times
from integration.picker.events import (
    Decided,
    Ended,
    Fault,
    FirstToken,
    Refusal,
    Requested,
    Returned,
    Stepped,
    WorkerChanged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from integration.admin.shadow import ShadowFigures
    from integration.admin.window import Window
    from integration.doors.prefill_figures import PrefillTier
    from integration.picker.asks import Gauges
    from integration.picker.events import Event, Measured

WAIT_BUCKETS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0),
)
TOKEN_BUCKETS = (
    *(0.002, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0),
)
"""Seconds per output token."""
KEPT_S = 300.0
"""How long what was counted of a worker that is gone is still told: time to ask once more."""


class Metrics:
    """Listens to a core and counts; levels are read off a window when somebody asks.

    Parameters
    ----------
    window : Window
        Which listens to the same core.
    shadows : callable, optional
        Returns what shadow routers have found.
    told : callable, optional
        Returns what the engine of a worker said last, by the worker's index; None if it is silent.
    prefill : callable, optional
        Returns how the prefill tier stands, where there is one.

    Raises
    ------
    MissingExtraError
        prometheus-client is not installed.
    """

    def __init__(
        self,
        window: Window,
        shadows: Callable[[], Sequence[ShadowFigures]] | None = None,
        told: Callable[[int], Gauges | None] | None = None,
        prefill: Callable[[], PrefillTier] | None = None,
    ) -> None:
        try:
            self._client = import_module("prometheus_client")
        except ImportError as error:
            raise MissingExtraError.for_extra("prometheus-client", "proxy") from error
        self._window = window
        self._registry = self._client.CollectorRegistry(auto_describe=True)
        self._sums = _Sums()
        self._children: dict[tuple[Any, ...], Any] = {}
        self._gone: dict[str, float] = {}
        self._make_counters()
        self._make_histograms()
        self._registry.register(_Levels(window, shadows or (lambda: ())))
        self._times = Times(window, told or (lambda _: None))
        self._registry.register(self._times)
        if prefill is not None:
            self._registry.register(Prefills(prefill))
        self._takes: dict[type, Callable[[Any], None]] = {
            Requested: self._requested,
            Decided: self._decided,
            Refusal: self._refused,
            Returned: self._came_back,
            FirstToken: lambda _: None,
            Ended: self._ended,
            Stepped: self._stepped,
            WorkerChanged: self._changed,
            Fault: self._fault,
        }

    @property
    def content_type(self) -> str:
        """What `render` returns, for the header of that name."""
        return str(self._client.CONTENT_TYPE_LATEST)

    def event(self, event: Event) -> None:
        """Take in what happened; kinds that are not known are passed over."""
        take = self._takes.get(type(event))
        if take is not None:
            take(event)

    def render(self) -> bytes:
        """Return all figures in the text format of Prometheus."""
        self._window.settle()
        self._forget_gone()
        self._flush()
        return bytes(self._client.generate_latest(self._registry))

    def value(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        """Return one sample's value, None if there is no such sample."""
        self._flush()
        found: float | None = self._registry.get_sample_value(name, labels or {})
        return found

    def _counter(self, metric: of.Metric, *labels: str) -> Any:
        return self._client.Counter(*metric, labels, registry=self._registry)

    def _histogram(self, metric: of.Metric, buckets: Iterable[float], *labels: str) -> Any:
        return self._client.Histogram(*metric, labels, registry=self._registry, buckets=buckets)

    def _make_counters(self) -> None:
        counter = self._counter
        self._requests = counter(of.Metric("brsolver_requests", "Requests that came"))
        self._routed = counter(of.ROUTED, "policy")
        self._decision_s = counter(of.DECISION_SECONDS)
        self._fallbacks = counter(of.FALLBACKS, "reason")
        self._refusals = counter(of.Metric("brsolver_refused_requests", "Refused"), "status")
        self._returned = counter(
            of.Metric("brsolver_returned_requests", "Not taken by a worker, placed anew"), "worker"
        )
        self._ends = counter(of.Metric("brsolver_ended_requests", "Ended, by how"), "worker", "end")
        self._prompt = counter(of.Metric("brsolver_prompt_tokens", "Prompt tokens of what ended"))
        self._output = counter(
            of.Metric("brsolver_output_tokens", "Output tokens of what ended, as engines told")
        )
        self._untold = counter(
            of.Metric(
                "brsolver_untold_output_tokens",
                "Those of what ended without usage, by its bytes or the picker's model",
            )
        )
        self._faults = counter(of.Metric("brsolver_faults", "What went wrong"), "kind")
        self._changes = counter(
            of.Metric("brsolver_worker_changes", "Workers that joined, left or changed"), "what"
        )
        self._steps = counter(of.STEPS)
        self._step_s = counter(of.Metric("brsolver_step_seconds", "What these lasted"))
        self._max_tokens, self._mean_tokens = counter(of.MAX_TOKENS), counter(of.MEAN_TOKENS)
        self._lost = counter(
            of.Metric("brsolver_lost_seconds", "Of step seconds, lost at the barrier by load"),
            "part",
        )
        self._lost_by_part = [self._lost.labels(part) for part in PARTS]

    def _make_histograms(self) -> None:
        self._routing = self._histogram(of.ROUTING, of.DECISION_BUCKETS)
        self._held = self._histogram(
            of.Metric("brsolver_held_seconds", "Time in the pool"), WAIT_BUCKETS
        )
        # As Envoy saw streams, and as the picker's model had requests.
        self._ttft, self._tpot = self._pair("brsolver_stream", "of streams as Envoy saw them")
        self._model_ttft, self._model_tpot = self._pair("brsolver_model", "by the picker's model")
        latencies = (self._ttft, self._tpot, self._model_ttft, self._model_tpot)
        self._by_worker = (self._returned, self._ends, *latencies)

    def _pair(self, prefix: str, whose: str) -> tuple[Any, Any]:
        ttft = of.Metric(f"{prefix}_ttft_seconds", f"Time to first token {whose}, held included")
        tpot = of.Metric(f"{prefix}_tpot_seconds", f"Mean time per further token {whose}")
        return (
            self._histogram(ttft, WAIT_BUCKETS, "worker"),
            self._histogram(tpot, TOKEN_BUCKETS, "worker"),
        )

    def _requested(self, _event: Requested) -> None:
        self._requests.inc()

    def _decided(self, event: Decided) -> None:
        self._child(self._routed, event.policy).inc()
        self._decision_s.inc(event.decision_s)
        self._routing.observe(event.decision_s)
        self._held.observe(event.held_s)
        if event.fallback:
            self._fallbacks.labels("fail-safe").inc()

    def _refused(self, event: Refusal) -> None:
        self._refusals.labels(str(event.answer.status)).inc()

    def _came_back(self, event: Returned) -> None:
        self._child(self._returned, self._name(event.worker)).inc()

    def _ended(self, event: Ended) -> None:
        worker = self._name(event.worker)
        self._child(self._ends, worker, event.end.value).inc()
        if event.ttft_s is not None:
            self._child(self._model_ttft, worker).observe(event.ttft_s)
        if event.tpot_s is not None:
            self._child(self._model_tpot, worker).observe(event.tpot_s)
        if event.measured is not None:
            self._measured(worker, event.worker, event.measured)
        self._count_tokens(event)

    def _count_tokens(self, event: Ended) -> None:
        """Add tokens up; what nobody counted apart from what engines did."""
        usage = event.usage
        if usage is not None:
            self._prompt.inc(usage.prompt_tokens or 0)
        told = usage is not None and usage.completion_tokens is not None
        (self._output if told else self._untold).inc(event.tokens)

    def _measured(self, name: str, worker: int, times: Measured) -> None:
        self._child(self._ttft, name).observe(times.ttft_s)
        if times.tpot_s is not None:
            self._child(self._tpot, name).observe(times.tpot_s)
        self._times.add(worker, times)

    def _stepped(self, event: Stepped) -> None:
        # What happens per step is added up here, and handed over when somebody asks.
        sums, step = self._sums, event.step
        sums.steps += 1
        sums.step_s += step.duration_s
        sums.lost_s = [a + b for a, b in zip(sums.lost_s, step.lost_s, strict=True)]
        tokens = self._window.kv_tokens_there()
        if tokens:
            sums.max_tokens += max(tokens)
            sums.mean_tokens += sum(tokens) / len(tokens)

    def _flush(self) -> None:
        sums, self._sums = self._sums, _Sums()
        self._steps.inc(sums.steps)
        self._step_s.inc(sums.step_s)
        self._max_tokens.inc(sums.max_tokens)
        self._mean_tokens.inc(sums.mean_tokens)
        # Parts may be negative, counters may not shrink.
        lost = netted(np.asarray(sums.lost_s))
        for counter, seconds in zip(self._lost_by_part, lost, strict=True):
            counter.inc(float(seconds))

    def _changed(self, event: WorkerChanged) -> None:
        self._changes.labels(event.what).inc()
        self._forget_gone()
        name = self._name(event.worker)
        if event.what == "gone":
            self._gone[name] = self._window.clock()
        else:
            # One of its name counts on where it had come to.
            self._gone.pop(name, None)

    def _forget_gone(self) -> None:
        """Drop what was counted of workers long gone: every pod may have a name of its own."""
        now = self._window.clock()
        for name in [name for name, at_s in self._gone.items() if at_s + KEPT_S <= now]:
            del self._gone[name]
            self._times.forget(name)
            for metric, first, *more in list(self._children):
                if first == name and metric in self._by_worker:
                    del self._children[metric, first, *more]
                    metric.remove(first, *more)

    def _fault(self, event: Fault) -> None:
        self._faults.labels(event.kind).inc()

    def _child(self, metric: Any, *labels: str) -> Any:
        """Return a metric with labels; looking it up anew takes most of the time of counting."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def _name(self, worker: int | None) -> str:
        if worker is None or worker < 0:
            return ""
        return self._window.worker(worker).name


@dataclass(slots=True)
class _Sums:
    """What steps came to since somebody last asked."""

    steps: int = 0
    step_s: float = 0.0
    lost_s: list[float] = field(default_factory=lambda: [0.0] * len(PARTS))
    max_tokens: int = 0
    mean_tokens: float = 0.0


class _Levels:
    """Collects what stands where at the moment of asking."""

    def __init__(self, window: Window, shadows: Callable[[], Sequence[ShadowFigures]]) -> None:
        self._window, self._shadows = window, shadows
        self._gauge = import_module("prometheus_client.core").GaugeMetricFamily

    def collect(self) -> Iterable[Any]:
        """Return a family per level."""
        window = self._window
        yield from self._per_worker()
        yield self._one(of.HELD, window.held)
        yield self._one(
            of.Metric("brsolver_oldest_held_seconds", "Wait of the oldest request in the pool"),
            window.oldest_held_s(),
        )
        tokens = window.kv_tokens_there()
        total = sum(tokens)
        yield self._one(of.IMBALANCE, max(tokens) * len(tokens) / total if total else 1.0)
        yield from self._of_shadows()

    def _one(self, metric: of.Metric, value: float) -> Any:
        return self._gauge(*metric, value=float(value))

    def _per_worker(self) -> Iterable[Any]:
        window = self._window
        columns: tuple[tuple[of.Metric, Sequence[float]], ...] = (
            (of.KV_TOKENS, window.kv_tokens.tolist()),
            (of.RUNNING, window.running.tolist()),
            (of.BACKLOG, window.backlog.tolist()),
            (
                of.Metric("brsolver_active_requests", "Requests reserved at a worker"),
                [worker.reserved for worker in window.workers],
            ),
            (
                of.Metric("brsolver_worker_up", "1 if requests may go there"),
                [worker.state == "up" for worker in window.workers],
            ),
        )
        for metric, values in columns:
            family = self._gauge(*metric, labels=("worker",))
            for worker, value in zip(window.workers, values, strict=False):
                if worker.state != "gone":
                    family.add_metric((worker.name,), value)
            yield family

    def _of_shadows(self) -> Iterable[Any]:
        found = self._shadows()
        for name, metric in SHADOWED.items():
            family = self._gauge(*metric, labels=("policy",))
            for figures in found:
                value = getattr(figures, name)
                if value is not None:
                    family.add_metric((figures.policy,), float(value))
            yield family


SHADOWED = {
    "tpot_s": of.Metric("brsolver_shadow_tpot_seconds", "Mean time per token under this policy"),
    "ttft_s": of.Metric(
        "brsolver_shadow_ttft_seconds", "Mean time to first token under this policy"
    ),
    "tokens_per_s": of.Metric(
        "brsolver_shadow_tokens_per_second", "Output tokens per second under this policy"
    ),
    "lost_share": of.Metric(
        "brsolver_shadow_lost_ratio", "Share of step time lost at the barrier under this policy"
    ),
    "behind_s": of.Metric("brsolver_shadow_behind_seconds", "How far the shadow is behind"),
}
