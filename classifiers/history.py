"""Traces as history: what a predictor may learn from before a run, and what it has learnt from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.predictors import FinishedRequests

if TYPE_CHECKING:
    from brsolver.traces.trace import Trace


def finished_rows(trace: Trace, rows: int | None = None) -> FinishedRequests:
    """Return the first `rows` requests of a trace (all of them if None) as if they had ended.

    Parameters
    ----------
    trace : Trace
        Requests that reached their ``max_tokens`` are censored.
    rows : int, optional
        How many, at least 1.
    """
    past = trace.head(rows)
    column = past.columns.get("max_tokens")
    limits = None if column is None else column.astype(np.int64)
    cut = np.zeros(len(past), np.bool_) if limits is None else past.output_tokens >= limits
    return FinishedRequests(
        request=np.arange(len(past)),
        prompt_tokens=past.prompt_tokens,
        output_tokens=past.output_tokens,
        censored=cut,
        max_tokens=limits,
        arrival_s=None if past.arrival_s is None else past.arrival_s + past.origin_s,
        keys={name: column for name, column in past.columns.items() if name != "max_tokens"},
    )


def check_share(train: float) -> None:
    """Refuse a share of a trace to train on that leaves nothing to run."""
    if not 0.0 <= train < 1.0:
        raise ParameterError(f"train is {train}, must be at least 0 and below 1")


def earliest(trace: Trace | None, train: float) -> tuple[Trace, int]:
    """Return the trace, and how many requests the share `train` of it is, at least 1.

    Raises
    ------
    ParameterError
        There is no trace to train on.
    """
    if trace is None:
        raise ParameterError(f"train is {train}, which needs a trace to learn from; use train=0")
    return trace, max(1, int(train * len(trace)))


class Training:
    """Which leading rows of which trace a predictor has learnt from."""

    def __init__(self) -> None:
        self._rows = 0
        self._fingerprint = ""

    def note(self, trace: Trace, rows: int | None) -> None:
        """Remember what was learnt from."""
        past = trace.head(rows)
        self._rows, self._fingerprint = len(past), past.fingerprint()

    def rows(self, trace: Trace) -> int:
        """Return the leading rows of `trace` that were learnt from: 0 if it is another trace."""
        if not 0 < self._rows <= len(trace):
            return 0
        return self._rows if trace.head(self._rows).fingerprint() == self._fingerprint else 0
