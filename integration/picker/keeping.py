"""A worker kept for a request of several sequences, which others would pass for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.picker.params import PickerParams
    from integration.picker.requests import Request
    from integration.routing.pool import Held

_SHARE = 0.5
"""Of the longest wait, after which a worker is kept."""


class Keeping:
    """Tells when a worker is to be kept for the oldest held request.

    Slots become free one by one, and what needs one each takes them. Whoever needs several on one
    worker waits for its share of the longest wait, or until enough have passed it.

    Parameters
    ----------
    params : PickerParams

    Attributes
    ----------
    worker : int or None
        The one that is kept at the moment: nobody else gets its slots.
    """

    def __init__(self, params: PickerParams) -> None:
        self._params = params
        self._oldest: Held[Request] | None = None
        self._passed = 0
        self.worker: int | None = None

    def passed(self, oldest: Held[Request] | None, placed: int) -> None:
        """Take in that a decision placed so many while that request was the oldest."""
        if oldest is not self._oldest:
            self._oldest, self._passed = oldest, 0
        self._passed += placed

    def is_due(self, oldest: Held[Request], now: float, slots: int) -> bool:
        """Tell whether the oldest request is to have a worker kept for it.

        Parameters
        ----------
        oldest : Held
        now : float
        slots : int
            Of all workers.
        """
        if oldest.request.ask.sequences == 1:
            return False
        params = self._params
        if now - oldest.request.since_s >= _SHARE * params.wait_max_s:
            return True
        return oldest is self._oldest and self._passed > params.overtakes * slots
