"""A Brier score beside a reference's, exponentially weighted over batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from classifiers._pending import Batch


class RunningScore:
    """Running means of two scores and the standard error of their difference.

    Batches are the units: forecasts of one refresh share the cluster and are not independent.

    Parameters
    ----------
    memory : float
        Batches after which a score counts half.
    """

    def __init__(self, memory: float) -> None:
        self._keep = 0.5 ** (1 / memory)
        self.batches = 0
        self._weight = 0.0
        self._squares = 0.0
        self._own = 0.0
        self._other = 0.0
        self._difference_squared = 0.0

    @property
    def mean(self) -> float:
        """Running score of the predictor; NaN before the first batch."""
        return self._own / self._weight if self._weight else math.nan

    @property
    def reference(self) -> float:
        """Running score of the reference."""
        return self._other / self._weight if self._weight else math.nan

    @property
    def error(self) -> float:
        """Standard error of the difference of the two; infinite for fewer than two batches."""
        if self.batches < 2:
            return math.inf
        mean = self.mean - self.reference
        variance = max(self._difference_squared / self._weight - mean**2, 0.0)
        effective = self._weight**2 / self._squares
        return math.sqrt(variance / max(effective - 1, 1e-9))

    def add(self, batch: Batch) -> None:
        """Take in a batch whose outcomes are known; one without any changes nothing."""
        told, usual = batch.scores()
        if not told.shape[0]:
            return
        own, other = float(told.mean()), float(usual.mean())
        self.batches += 1
        self._weight = self._keep * self._weight + 1
        self._squares = self._keep**2 * self._squares + 1
        self._own = self._keep * self._own + own
        self._other = self._keep * self._other + other
        self._difference_squared = self._keep * self._difference_squared + (own - other) ** 2
