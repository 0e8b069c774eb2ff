"""A trained hazard model at work: its forecasts, and the histories that they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from brsolver.errors import ParameterError
from brsolver.predictors import BasePredictor, Forecast, limited
from classifiers.features import of_query
from classifiers.history import Training, check_share, earliest, finished_rows
from classifiers.key_history import KeyHistory
from classifiers.survival import SurvivalPredictor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from brsolver.predictors import FinishedRequests, FloatArray, ForecastQuery
    from brsolver.traces.trace import Trace
    from classifiers.hazard import HazardClassifier

_ENOUGH = 200


class HazardPredictor(BasePredictor):
    """Forecasts of a trained hazard model.

    Key counts and means and the recent mean are kept up to date from finished requests, in
    bounded memory; the model itself stays as it was trained. One that found nothing in its
    features but age is no more than Survival's estimate of the past: from `_ENOUGH` requests on
    an online Survival estimate takes its place, which goes on learning.

    Parameters
    ----------
    classifier : HazardClassifier
        Fitted, with features among `classifiers.features.FEATURES`.
    history : KeyHistory, optional
        What has finished so far; nothing without.

    Raises
    ------
    ParameterError
        The classifier takes other features.
    """

    def __init__(
        self,
        classifier: HazardClassifier,
        *,
        history: KeyHistory | None = None,
    ) -> None:
        classifier.check_deployable()
        self.classifier = classifier
        self._history = KeyHistory() if history is None else history
        self._training = Training()
        self._by_age = None if classifier.finds_more_than_age else SurvivalPredictor()
        self._seen = 0

    def look_ahead(self, horizon: int) -> None:
        """Refuse a router's horizon that is not the one the model was trained for."""
        _check_horizon(horizon, self.classifier.horizon)

    def observe(self, finished: FinishedRequests) -> None:
        """Take in requests that have ended."""
        if len(finished):
            self._history.add(finished.keys, finished.output_tokens)
            self._seen += len(finished)
            if self._by_age is not None:
                self._by_age.observe(finished)

    def set_running(self, query: ForecastQuery) -> None:
        """Take in the ages of running requests, which are censored."""
        if self._by_age is not None:
            self._by_age.set_running(query)

    def notes(self) -> tuple[str, ...]:
        """Say that the model found nothing, if so."""
        if self._by_age is None:
            return ()
        return ("the model found nothing beyond age: its forecasts are Survival's, learned online",)

    def _instead(self) -> SurvivalPredictor | None:
        return self._by_age if self._seen >= _ENOUGH else None

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        """Forecast which of the queried requests end within `horizon` steps, and when.

        Raises
        ------
        ParameterError
            The horizon is not the one that the model was trained for.
        """
        _check_horizon(horizon, self.classifier.horizon)
        if (instead := self._instead()) is not None:
            return instead.predict(query, horizon)
        p_finish, mu_remaining = self.classifier.forecast(self._features(query))
        forecast = Forecast(p_finish=p_finish, mu_remaining=mu_remaining, horizon=horizon)
        return forecast if query.max_tokens is None else limited(forecast, query)

    def survival(self, query: ForecastQuery, horizon: int) -> FloatArray:
        """Return the probability that each request still runs h = 0..`horizon` steps from now.

        Beyond the model's horizon the scaled baseline goes on.
        """
        if (instead := self._instead()) is not None:
            return instead.survival(query, horizon)
        curves = self.classifier.survival(self._features(query), horizon)
        left = query.steps_left(horizon + 1)
        curves[np.arange(horizon + 1) >= left[:, None]] = 0.0
        return curves

    def training_rows(self, trace: Trace) -> int:
        """Return the leading requests of a trace that this was trained on: no fair test."""
        return self._training.rows(trace)

    def warm(self, past: Trace) -> None:
        """Take in requests that went by before, among them those that trained the model."""
        self.observe(finished_rows(past))
        self._training.note(past, None)

    def _features(self, query: ForecastQuery) -> FloatArray:
        return of_query(query, self._history)


@dataclass(frozen=True, slots=True, kw_only=True)
class HazardParams:
    """Parameters of `TrainedHazardPredictor`.

    Attributes
    ----------
    kind : {"gb", "lr"}
        Gradient-boosted trees, or linear models on splines.
    train : float
        Earliest share of the trace to train on, above 0 and below 1.
    horizon : int
        Steps H to forecast, at least 1.
    calibration : {"auto", "sigmoid", "isotonic"}
        See `classifiers.hazard.HazardClassifier`.
    seed : int
        Of the training.
    """

    kind: Literal["gb", "lr"] = "gb"
    train: float = 0.5
    horizon: int = 80
    calibration: Literal["auto", "sigmoid", "isotonic"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_share(self.train)
        if self.train == 0:
            raise ParameterError(
                "train is 0.0, must be above 0: a hazard model needs requests to train on"
            )
        if self.horizon < 1:
            raise ParameterError(f"horizon is {self.horizon}, must be at least 1 step")


class TrainedHazardPredictor(HazardPredictor):
    """A hazard model trained on the earliest part of the trace that is to be run.

    Parameters
    ----------
    params : HazardParams, optional
        What to train on which share.
    trace : Trace
        Where the share is taken from.
    horizons : iterable of int
        Steps that the routers will ask for, as far as known: checked before training.

    Raises
    ------
    ParameterError
        There is no trace, the share holds too few requests, or a router has another horizon.
    """

    Params = HazardParams

    def __init__(
        self,
        params: HazardParams | None = None,
        *,
        trace: Trace | None = None,
        horizons: Iterable[int] = (),
    ) -> None:
        from classifiers.hazard import HazardClassifier

        params = params or HazardParams()
        for horizon in horizons:
            _check_horizon(horizon, params.horizon)
        whole, rows = earliest(trace, params.train)
        past = whole.head(rows)
        classifier = HazardClassifier(
            params.kind,
            horizon=params.horizon,
            calibration=params.calibration,
            random_state=params.seed,
        )
        super().__init__(classifier.fit_trace(past))
        self.warm(past)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParams:
    """Parameters of `ModelPredictor`.

    Attributes
    ----------
    path : str
        A file that ``brsolver classifier train`` has written.
    """

    path: str


class ModelPredictor(HazardPredictor):
    """A hazard model read from a file.

    If the trace to be run starts with the requests that trained the model, their history is
    taken in, and `training_rows` says so.

    Parameters
    ----------
    params : ModelParams
        Which file.
    trace : Trace, optional
        What is to be run.
    horizons : iterable of int
        Steps that the routers will ask for, as far as known.

    Raises
    ------
    ModelError
        The file is not a model that can be trusted.
    ParameterError
        The trace is only a part of what trained the model, or a router has another horizon.
    """

    Params = ModelParams
    positional = "path"

    def __init__(
        self, params: ModelParams, *, trace: Trace | None = None, horizons: Iterable[int] = ()
    ) -> None:
        from classifiers.model_file import load

        classifier, header = load(params.path)
        super().__init__(classifier)
        self.header = header
        for horizon in horizons:
            self.look_ahead(horizon)
        if trace is not None:
            header.check_unseen(trace)
        if trace is not None and header.trained_on(trace):
            self.warm(trace.head(header.training_rows))


def _check_horizon(asked: int, own: int) -> None:
    if asked != own:
        raise ParameterError(
            f"horizon is {asked}, must be {own}, which this model was trained for; set the "
            f"router's horizon={own}, or train a model for {asked} steps"
        )
