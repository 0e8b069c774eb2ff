"""Figures for Prometheus, through the registry that vLLM serves."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.cluster._state_kernels import W_ACTIVE, W_BACKLOG, W_LOAD, W_QUEUED
from brsolver.cluster.session import S_LOAD, S_RUNNING
from brsolver.hardware.online import LOADS
from integration import metric_names as of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.hardware.online import OnlineEstimate
    from brsolver.policy import BasePolicy
    from integration.vllm.accounting import Books

FLUSH_S = 0.25

HOLDING = {
    "waves": ("waves", "Waves in which the policy released what it held"),
    "released": ("wave_requests", "Requests that these released"),
    "filled": ("filled_requests", "Requests that went while other ranks computed prompts"),
    "held_s": ("holding_seconds", "Seconds that requests which could run were held, summed"),
    "stalled_s": ("stall_seconds", "Seconds that the waves were to keep the ranks waiting"),
}
"""Of a policy's tally (`brsolver.policy.BasePolicy.tally`): metric, and what it is."""


class Exporter:
    """Counts on every event, tells Prometheus now and then.

    A counter of Prometheus costs a lock and, with several API servers, a write to a mapped file;
    what happens per step is therefore added up here and handed over every `FLUSH_S` seconds.

    Parameters
    ----------
    mode : str
        Routing mode, a label.
    primary : bool
        Whether this API server is the one to count steps: those with requests of its own.
    """

    def __init__(self, mode: str, *, primary: bool) -> None:
        self.mode = mode
        self._primary = primary
        self._registered = _Registered.get()
        self._next_flush = 0.0
        self._routed = self._decisions = 0
        self._decision_s = 0.0
        self._output_s = 0.0
        self._outputs = 0
        self._steps = 0
        self._max_tokens = 0
        self._mean_tokens = 0.0
        self._preempted: list[int] = []
        self._cached = self._expected = 0
        self._tallied: BasePolicy | None = None
        self._tally: Mapping[str, float] = {}

    def decided(self, seconds: float, requests: int) -> None:
        """Count a decision that took `seconds` and placed `requests`."""
        self._decisions += 1
        self._decision_s += seconds
        self._routed += requests

    def routed(self, seconds: float) -> None:
        """Count a request that routing, from its coming to its sending, delayed by `seconds`."""
        self._registered.routing.observe(seconds)

    def fell_back(self, reason: str) -> None:
        """Count a request or decision that was left to vLLM."""
        self._registered.fallbacks.labels(reason).inc()

    def stepped(self, books: Books) -> None:
        """Count a decode step, with what runs at the ranks."""
        if self._primary:
            loads = books.state.workers[W_LOAD] + books.others[S_LOAD]
            self._steps += 1
            self._max_tokens += int(loads.max())
            self._mean_tokens += float(loads.mean())

    def accounted(self, seconds: float, outputs: int) -> None:
        """Count a batch of outputs that took `seconds` to enter."""
        self._output_s += seconds
        self._outputs += outputs

    def reloaded(self) -> None:
        """Count a configuration taken in while running."""
        self._registered.reloads.inc()

    def change_mode(self, mode: str) -> None:
        """Count what is routed from now on under another routing mode."""
        self.mode = mode

    def set_active(self, *, active: bool) -> None:
        """Say whether this API server routes."""
        self._registered.active.set(int(active))

    def identified(self, estimate: OnlineEstimate) -> None:
        """Say what a step is found to cost."""
        to = self._registered
        costs = (estimate.per_sequence, estimate.per_token, estimate.per_prefill_token)
        for gauge, cost in zip(
            (to.sequence_s, to.kv_token_s, to.prefill_token_s), costs, strict=True
        ):
            gauge.set(cost)
        to.base_s.set(estimate.base)
        to.step_error.set(estimate.error)
        to.observed.set(estimate.steps)
        to.changes.set(estimate.changes)
        ratio = estimate.request_tokens
        to.request_tokens.set(float("nan") if ratio is None else ratio)
        for load, known, moving in zip(LOADS, estimate.identified, estimate.moving, strict=True):
            to.known.labels(load).set(int(known))
            to.frozen.labels(load).set(int(not moving))

    def tallied(self, policy: BasePolicy) -> None:
        """Say what the policy that routes now has counted."""
        tally = policy.tally()
        before = self._tally if policy is self._tallied else {}
        for name in HOLDING.keys() & tally.keys():
            counter = getattr(self._registered, f"holding_{name}")
            counter.inc(tally[name] - before.get(name, 0))
        self._tallied, self._tally = policy, tally

    def flush(self, books: Books, held: int, *, now: bool = False) -> bool:
        """Hand over what has been added up, if it is time; tell whether it was."""
        clock = time.monotonic()
        # Nobody comes by again when all is done.
        if not now and len(books) and clock < self._next_flush:
            return False
        self._next_flush = clock + FLUSH_S
        self._flush_sums(books)
        self._flush_levels(books, held)
        return True

    def _flush_sums(self, books: Books) -> None:
        to = self._registered
        to.routed.labels(self.mode).inc(self._routed)
        to.decisions.inc(self._decisions)
        to.decision_s.inc(self._decision_s)
        to.output_s.inc(self._output_s)
        to.outputs.inc(self._outputs)
        to.steps.inc(self._steps)
        to.max_tokens.inc(self._max_tokens)
        to.mean_tokens.inc(self._mean_tokens)
        to.cached.inc(books.cached_tokens - self._cached)
        self._cached = books.cached_tokens
        to.expected.inc(books.prefixes.expected_tokens - self._expected)
        self._expected = books.prefixes.expected_tokens
        self._routed = self._decisions = self._outputs = self._steps = self._max_tokens = 0
        self._decision_s = self._output_s = self._mean_tokens = 0.0
        self._preempted += [0] * (books.ranks - len(self._preempted))
        for rank, total in enumerate(books.preemptions):
            to.preemptions.labels(rank).inc(total - self._preempted[rank])
            self._preempted[rank] = total

    def _flush_levels(self, books: Books, held: int) -> None:
        to, workers = self._registered, books.state.workers
        for rank in range(books.ranks):
            to.kv_tokens.labels(rank).set(int(workers[W_LOAD, rank]))
            to.running.labels(rank).set(int(workers[W_ACTIVE, rank]))
            to.queued.labels(rank).set(int(workers[W_QUEUED, rank]))
            to.backlog.labels(rank).set(int(workers[W_BACKLOG, rank]))
        to.held.set(held)
        loads = workers[W_LOAD] + books.others[S_LOAD]
        if self._primary and (workers[W_ACTIVE] + books.others[S_RUNNING]).any():
            to.imbalance.set(float(loads.max() / max(1.0, loads.mean())))


class _Registered:
    """The collectors of this process; a name can be registered once."""

    _made: _Registered | None = None

    @classmethod
    def get(cls) -> Any:
        if cls._made is None:
            try:
                cls._made = cls()
            except ImportError:
                # vLLM brings it along; without vLLM nobody asks for figures.
                return _Silent()
        return cls._made

    def __init__(self) -> None:
        p = import_module("prometheus_client")

        def level(name: str, text: str, labels: tuple[str, ...] = (), mode: Any = "livesum") -> Any:
            return p.Gauge(name, text, labels, multiprocess_mode=mode)

        self.active = level("brsolver_active", "API servers in which brsolver routes")
        self.routed = p.Counter(*of.ROUTED, ("mode",))
        self.routing = p.Histogram(*of.ROUTING, buckets=of.DECISION_BUCKETS)
        self.decisions = p.Counter("brsolver_decisions", "Routing decisions")
        self.decision_s = p.Counter(*of.DECISION_SECONDS)
        self.fallbacks = p.Counter(*of.FALLBACKS, ("reason",))
        self.reloads = p.Counter("brsolver_reloads", "Configurations taken in while running")
        self.output_s = p.Counter("brsolver_output_seconds", "Time spent on output batches")
        self.outputs = p.Counter("brsolver_output_requests", "Outputs of requests entered")
        self.steps = p.Counter(*of.STEPS)
        self.max_tokens = p.Counter(*of.MAX_TOKENS)
        self.mean_tokens = p.Counter(*of.MEAN_TOKENS)
        self.preemptions = p.Counter("brsolver_preemptions", "Preemptions reported", ("rank",))
        self.cached = p.Counter("brsolver_cached_tokens", "Prompt tokens found in the KV cache")
        self.expected = p.Counter(
            "brsolver_expected_cached_tokens", "The same, as expected when requests were sent"
        )
        self.kv_tokens = level(*of.KV_TOKENS, ("rank",))
        self.running = level(*of.RUNNING, ("rank",))
        self.queued = level("brsolver_queued_requests", "Requests queued at a rank", ("rank",))
        self.backlog = level(*of.BACKLOG, ("rank",))
        for name, (metric, text) in HOLDING.items():
            setattr(self, f"holding_{name}", p.Counter(f"brsolver_{metric}", text))
        self.held = level(*of.HELD)
        self.imbalance = level(*of.IMBALANCE, mode="mostrecent")
        self._register_step_time(level)

    def _register_step_time(self, level: Any) -> None:
        def one(name: str, text: str, labels: tuple[str, ...] = ()) -> Any:
            return level(f"brsolver_step_{name}", text, labels, mode="mostrecent")

        self.base_s = one("base_seconds", "Found: seconds of a step at zero load")
        self.sequence_s = one("per_sequence_seconds", "Found: seconds per decoding sequence")
        self.kv_token_s = one("per_kv_token_seconds", "Found: seconds per KV token read")
        self.prefill_token_s = one("per_prefill_token_seconds", "Found: seconds per prefill token")
        self.step_error = one("relative_error", "Typical error of a step's predicted duration")
        self.observed = one("observations", "Steps that these were found from")
        self.changes = one("changes", "Times that the hardware was found to have changed")
        self.request_tokens = one("request_tokens", "KV tokens that cost what a sequence costs")
        self.known = one("identified", "1 if the steps tell what a load costs", ("load",))
        self.frozen = one("frozen", "1 while a load does not vary", ("load",))


class _Silent:
    """Takes any figure and tells nobody."""

    def __getattr__(self, name: str) -> _Silent:
        return self

    def __call__(self, *_: object) -> _Silent:
        return self
