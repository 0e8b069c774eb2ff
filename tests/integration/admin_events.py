"""A core's events without a core: what a listener is told of a small cluster."""

from __future__ import annotations

import numpy as np

from brsolver.hardware._step_kernels import LOAD_ROWS, N_PREFILL, N_SEQUENCES, N_TOKENS
from brsolver.simulator.live import LiveStep
from integration.picker.asks import Refused
from integration.picker.events import (
    Ask,
    Decided,
    End,
    Ended,
    Fault,
    FirstToken,
    Measured,
    Refusal,
    Requested,
    Returned,
    Started,
    Stepped,
    Usage,
    WorkerChanged,
)


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Tells listeners what a core would."""

    def __init__(self, clock: Clock, *listeners) -> None:
        self.clock, self.listeners = clock, listeners

    def tell(self, event) -> None:
        for listener in self.listeners:
            listener.event(event)

    def requested(self, name: str, prompt_tokens: int = 100, **fields) -> None:
        self.tell(Requested(name, Ask(name, prompt_tokens, **fields), self.clock.now))

    def decided(self, name: str, worker: int = 0, held_s: float = 0.0, **fields) -> None:
        told = {"decision_s": 2e-4, "policy": "br-t", "fallback": False, **fields}
        self.tell(Decided(name, worker, held_s, **told))

    def started(self, name: str, worker: int = 0) -> None:
        self.tell(Started(name, worker))

    def returned(self, name: str, worker: int = 0) -> None:
        self.tell(Returned(name, worker))

    def first(self, name: str) -> None:
        self.tell(FirstToken(name, self.clock.now))

    def ended(
        self, name: str, worker: int = 0, end: End = End.FINISHED, tokens: int | None = 10,
        ttft_s: float | None = 0.1, tpot_s: float | None = 0.02, prompt_tokens: int = 100,
        measured: Measured | None = None, counted: int = 0,
    ) -> None:  # fmt: skip
        usage = None if tokens is None else Usage(prompt_tokens, tokens)
        times = {"ttft_s": ttft_s, "tpot_s": tpot_s, "measured": measured}
        # What nobody told, the core has by itself.
        times["tokens"] = counted if tokens is None else tokens
        self.tell(Ended(name, worker, end, usage, self.clock.now, **times))

    def refused(self, name: str, status: int = 429) -> None:
        self.tell(Refusal(name, Refused(status, "the pool is full", 1.0)))

    def stepped(
        self, kv_tokens, *, duration_s: float = 0.04, lost_s=(0.0, 0.0, 0.0, 0.0),
        running=None, held: int = 0, backlog=None,
    ) -> None:  # fmt: skip
        """Do a step, which ends `duration_s` later."""
        self.clock.now += duration_s
        loads = np.zeros((LOAD_ROWS, len(kv_tokens)), np.int64)
        loads[N_TOKENS] = kv_tokens
        loads[N_SEQUENCES] = (
            [1 if each else 0 for each in kv_tokens] if running is None else running
        )
        loads[N_PREFILL] = 0
        left = np.zeros(len(kv_tokens), np.int64) if backlog is None else np.asarray(backlog)
        step = LiveStep(duration_s, lost_s, [], [], loads)
        total = int(np.maximum(loads[N_SEQUENCES], 0).sum())
        self.tell(Stepped(step, self.clock.now, total, held, left))

    def changed(self, worker: int, what: str, why: str = "") -> None:
        self.tell(WorkerChanged(worker, what, why))

    def fault(self, kind: str, text: str = "something broke") -> None:
        self.tell(Fault(kind, text))

    def served(self, name: str, worker: int = 0, **fields) -> None:
        """Let a request come, run and end at once."""
        self.requested(name)
        self.decided(name, worker)
        self.started(name, worker)
        self.first(name)
        self.ended(name, worker, **fields)
