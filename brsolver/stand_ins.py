"""Predictors that stand for others: wrappers, and plain objects taken for predictors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brsolver.errors import ParameterError
from brsolver.predictors import BasePredictor, Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brsolver.predictors import FinishedRequests, Forecast, ForecastQuery
    from brsolver.traces.trace import Trace

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class PredictorWrapper(BasePredictor):
    """Passes everything on to another predictor; derive from it and change what is to change.

    One that overrides `observe` learns, and one that overrides `set_running` watches, whatever is
    within. Its label is its own. One that overrides
    `predict` or `survival` is asked them: it has no table and no lengths.

    Parameters
    ----------
    base : BasePredictor
    """

    def __init__(self, base: BasePredictor) -> None:
        self.base = as_predictor(base)

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast which of the queried requests end within `horizon` steps, and when."""
        return self.base.predict(query, horizon)

    @property
    def sees_future(self) -> bool:
        """Whether the predictor is an oracle."""
        return self.base.sees_future

    @property
    def trust(self) -> float:
        """How far routers should believe the forecasts."""
        return self.base.trust

    @property
    def learns(self) -> bool:
        """Whether finished requests should be handed to `observe`."""
        return type(self).observe is not PredictorWrapper.observe or self.base.learns

    @property
    def watches(self) -> bool:
        """Whether running requests should be handed to `set_running`."""
        return type(self).set_running is not PredictorWrapper.set_running or self.base.watches

    @property
    def has_survival(self) -> bool:
        """Whether `survival` answers."""
        return type(self).survival is not PredictorWrapper.survival or self.base.has_survival

    @property
    def table(self) -> FloatArray | None:
        """``P(O > a)``, if the predictor depends on age alone, and forecasts by itself."""
        return None if self._forecasts else self.base.table

    @property
    def lengths(self) -> IntArray | None:
        """Output lengths by identity, if the predictor is an oracle, and forecasts by itself."""
        return None if self._forecasts else self.base.lengths

    @property
    def _forecasts(self) -> bool:
        """Whether this one has forecasts of its own, which tables and lengths would go past."""
        own = type(self)
        return (
            own.predict is not PredictorWrapper.predict
            or own.survival is not PredictorWrapper.survival
        )

    def look_ahead(self, horizon: int) -> None:
        """Take in the horizon of the router that asks."""
        self.base.look_ahead(horizon)

    def observe(self, finished: FinishedRequests) -> None:
        """Learn from the requests that ended since the last refresh."""
        self.base.observe(finished)

    def set_running(self, query: ForecastQuery) -> None:
        """Take in all running requests."""
        self.base.set_running(query)

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the probability that each request still runs h = 0..`horizon` steps from now."""
        return self.base.survival(query, horizon)

    def training_rows(self, trace: Trace) -> int:
        """Return how many leading requests of `trace` trained it."""
        return self.base.training_rows(trace)

    def notes(self) -> Sequence[str]:
        """Return what results should say about the run."""
        return self.base.notes()


class PlainPredictor(BasePredictor):
    """An object with `predict`, and whichever of `BasePredictor`'s members it happens to have.

    A member that is None, or a method that cannot be called, counts as one that it has not.

    Parameters
    ----------
    plain : Predictor
    """

    def __init__(self, plain: Predictor) -> None:
        self.plain = plain

    def _own(self, name: str, otherwise: Any) -> Any:
        found = getattr(self.plain, name, None)
        return otherwise if found is None else found

    def _method(self, name: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
        found: Callable[..., Any] | None = getattr(self.plain, name, None)
        return found if callable(found) else otherwise

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Ask the object; see `Predictor`."""
        return self.plain.predict(query, horizon)

    @property
    def sees_future(self) -> bool:
        """Whether the object says that it is an oracle."""
        return bool(self._own("sees_future", super().sees_future))

    @property
    def trust(self) -> float:
        """How far routers should believe the forecasts."""
        return float(self._own("trust", super().trust))

    @property
    def learns(self) -> bool:
        """Whether the object takes finished requests."""
        return callable(self._own("observe", None))

    @property
    def watches(self) -> bool:
        """Whether the object takes running requests."""
        return callable(self._own("set_running", None))

    @property
    def has_survival(self) -> bool:
        """Whether the object has survival curves."""
        return callable(self._own("survival", None))

    @property
    def table(self) -> FloatArray | None:
        """``P(O > a)``, if the object has such a table."""
        found: FloatArray | None = self._own("table", super().table)
        return found

    @property
    def lengths(self) -> IntArray | None:
        """Output lengths by identity, if the object has them."""
        found: IntArray | None = self._own("lengths", super().lengths)
        return found

    def look_ahead(self, horizon: int) -> None:
        """Hand the horizon on, if the object takes it."""
        self._method("look_ahead", super().look_ahead)(horizon)

    def observe(self, finished: FinishedRequests) -> None:
        """Hand finished requests on, if the object takes them."""
        self._method("observe", super().observe)(finished)

    def set_running(self, query: ForecastQuery) -> None:
        """Hand running requests on, if the object takes them."""
        self._method("set_running", super().set_running)(query)

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the object's survival curves, if it has any."""
        found: FloatArray = self._method("survival", super().survival)(query, horizon)
        return found

    def training_rows(self, trace: Trace) -> int:
        """Return how many leading requests of `trace` trained the object, if it says."""
        return int(self._method("training_rows", super().training_rows)(trace))

    def notes(self) -> Sequence[str]:
        """Return the object's own notes, if it has any to give."""
        return tuple(self._method("notes", super().notes)())

    @property
    def label(self) -> str:
        """What messages call it."""
        return type(self.plain).__name__


def as_predictor(predictor: object) -> BasePredictor:
    """Return a predictor with all members that callers may ask for.

    Raises
    ------
    ParameterError
        It has no method ``predict``.
    """
    if isinstance(predictor, BasePredictor):
        return predictor
    if isinstance(predictor, Predictor) and not isinstance(predictor, type):
        return PlainPredictor(predictor)
    raise ParameterError(
        f"predictor is {type(predictor).__name__}, must be a name or an object with predict()"
    )
