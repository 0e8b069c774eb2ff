"""Forecasts kept up to date as steps go by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.routing.failsafe import FAILED
from integration.routing.identities import hand_over

if TYPE_CHECKING:
    from brsolver.cluster.session import ClusterSession
    from integration.picker.books import Books
    from integration.routing.failsafe import Failsafe


class Forecasts:
    """Has all forecasts made anew when that is due, and whoever learns told what has ended.

    Parameters
    ----------
    session : ClusterSession
    books : Books
    failsafe : Failsafe
    refresh_steps : int
        Steps for which a refresh that failed is put off.
    """

    def __init__(
        self, session: ClusterSession, books: Books, failsafe: Failsafe, *, refresh_steps: int
    ) -> None:
        self._session = session
        self._books = books
        self._failsafe = failsafe
        self._refresh_steps = refresh_steps
        self._not_before = 0

    def stepped(self, step: int) -> None:
        """Take in that a step was done."""
        if self._session.forecaster is None or not self._failsafe.active:
            self._drop()
            return
        if step >= self._not_before and self._session.due(step):
            if self._failsafe.run("forecast", self._refresh, step) is FAILED:
                # A predictor that fails must not be asked again at every step.
                self._not_before = step + self._refresh_steps
                self._drop()
        else:
            self._failsafe.run("forecast", self._session.prepare)

    def _refresh(self, step: int) -> None:
        hand_over(self._session, self._books.take_finished(), self._books.forget)
        self._session.forecast(self._books.take_admitted(), step)

    def _drop(self) -> None:
        for request in self._books.take_finished().requests:
            self._books.forget(request)
        self._books.take_admitted()
