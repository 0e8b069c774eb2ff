"""A discrete-time hazard model of the remaining length, as a scikit-learn estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from brsolver.errors import ParameterError
from classifiers.extra import require_extra

require_extra()

from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402  # after the clear message
from sklearn.utils import check_random_state  # noqa: E402  # likewise
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402  # likewise

from classifiers import features as feature_columns  # noqa: E402  # likewise
from classifiers import person_period  # noqa: E402  # likewise
from classifiers._hazard_kernels import (  # noqa: E402  # likewise
    D_LOGIT,
    D_MU,
    forecast_additive,
    forecast_trees,
)
from classifiers.baseline import SURE  # noqa: E402  # likewise
from classifiers.design import check_required  # noqa: E402  # likewise
from classifiers.training import Recipe, groups_of, lengths_of  # noqa: E402  # likewise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from brsolver.predictors import FloatArray
    from brsolver.traces.trace import Trace

KINDS = ("gb", "lr")
CALIBRATIONS = ("auto", "sigmoid", "isotonic")
RECENT = ("auto", "use", "ignore")

FEWEST_REQUESTS = 100
"""Requests with a known outcome that training on a trace needs at least."""

MAX_SAMPLES = 250_000
"""Samples that training on a trace draws at most."""

SLOPE = 1e-6
"""Cumulative hazard per step added to the baseline's curve."""

_LEAF = (np.zeros((1, 2), np.uint32), np.full(1, np.inf, np.float32), np.zeros(1), 0)
STUMPS = (_LEAF, _LEAF)
"""Trees that say nothing, where the baseline is used alone."""


class HazardClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Whether a request ends within H steps, and when if it does.

    Two stages as in [BR] §3, on samples of (request, age) with the features of
    `classifiers.features`. Both start from a Kaplan-Meier baseline by age and add to it what
    the features say, as far as that held good on requests that came later: forecasts of
    time-ordered folds calibrate the model, and decide whether it or the bare baseline is used
    (`classifiers.calibration`). The result is distilled: what is evaluated at run time, and
    what was calibrated, is one deep regression tree per stage (``kind="gb"``) or a sum of
    one-dimensional tables (``kind="lr"``), compiled.

    The classes are False and True, "ends within the horizon", though `fit` takes remaining
    lengths: stage 2 and the baseline need them.

    Parameters
    ----------
    kind : {"gb", "lr"}
        Gradient-boosted trees, or linear models on splines.
    horizon : int
        Steps H, at least 1.
    calibration : {"auto", "sigmoid", "isotonic"}
        Logistic weights of baseline and model, or isotonic regression on top of them;
        automatically the latter for ``kind="lr"``, whose shape cannot follow every curve.
    distil : bool
        False evaluates the trained models themselves: slow, for comparison.
    features : tuple of str, or None
        What the columns of X are, of `classifiers.features.FEATURES` or other names. None
        takes all columns as they are; without ``"age"`` the baseline is one and the same for
        all requests.
    recent : {"auto", "use", "ignore"}
        Whether to use the feature ``recent_mean``; automatically if it improves the forecasts
        of later folds.
    rounds : int
        Rounds of boosting.
    leaves : int
        Most leaves of each distilled tree.
    random_state : int, RandomState instance or None
        Seed of the training.

    Attributes
    ----------
    classes_ : ndarray of bool, shape (2,)
    n_features_in_ : int
    design_ : Design
        How features become columns of the model, with the Kaplan-Meier baseline.
    used_ : ndarray of int64
        Columns of the design matrix that the model uses.
    teachers_ : tuple or None
        The trained scikit-learn estimators of both stages; None where only the baseline is
        used, and in classifiers read from a file.
    evaluator_ : StudentTrees, AdditiveTables or None
        What they were distilled into.
    calibration_ : Calibration
        Weights and levels.

    References
    ----------
    Singer and Willett, It's about time: using discrete-time survival analysis, Journal of
    Educational Statistics 18 (1993); Bu et al., arXiv:2605.06113, §3.
    """

    def __init__(
        self,
        kind: str = "gb",
        *,
        horizon: int = 80,
        calibration: str = "auto",
        distil: bool = True,
        features: tuple[str, ...] | None = feature_columns.FEATURES,
        recent: str = "auto",
        rounds: int = 60,
        leaves: int = 2048,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.kind = kind
        self.horizon = horizon
        self.calibration = calibration
        self.distil = distil
        self.features = features
        self.recent = recent
        self.rounds = rounds
        self.leaves = leaves
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train, calibrate and distil.

        Parameters
        ----------
        X : array of float, shape (n, features)
            In order of time; see `classifiers.features.build`. NaN where a feature is missing.
        y : array, shape (n,)
            Remaining lengths, at least 1 step. Any value above the horizon means that the
            request outlives it.
        groups : array of int, shape (n,), optional
            Request of each sample, non-decreasing. Each sample one of its own without.

        Raises
        ------
        ParameterError
            If a parameter is out of range, the columns are not those of `features`, a required
            feature is missing somewhere, or a length is below 1.
        """
        self._check_params()
        rows, lengths = validate_data(self, X, y, ensure_all_finite="allow-nan", dtype=np.float64)
        self._check_columns(rows)
        remaining, group = lengths_of(lengths), groups_of(groups, len(rows))
        self.classes_ = np.array([False, True])
        recipe = self._recipe()
        self.design_ = recipe.design(rows, remaining, group)
        self.used_, self.calibration_ = recipe.choose(self.design_, rows, remaining, group)
        self.teachers_, self.evaluator_ = None, None
        if self.finds_more_than_age:
            trained = recipe.train(self.design_, rows, remaining, self.used_)
            self.teachers_, self.evaluator_ = trained
        return self

    @property
    def finds_more_than_age(self) -> bool:
        """Whether the model says anything that its baseline by age does not."""
        return bool(self.calibration_.weights[1:].any())

    def fit_trace(
        self,
        trace: Trace,
        *,
        max_samples: int = MAX_SAMPLES,
        refresh_steps: int = 32,
        token_s: float = feature_columns.TOKEN_S,
    ) -> Self:
        """Train on the requests of a trace, at the ages at which a router would ask.

        Parameters
        ----------
        trace : Trace
            Requests to learn from, all of them.
        max_samples : int
            Samples to draw at most.
        refresh_steps : int
            Decode steps ΔT between a router's refreshes.
        token_s : float
            Seconds per output token, for what had finished when.

        Raises
        ------
        ParameterError
            If too few requests have a known outcome.
        """
        rng = check_random_state(self.random_state)
        periods = person_period.sample(
            trace,
            self.horizon,
            refresh_steps=refresh_steps,
            max_samples=max_samples,
            random_state=int(rng.randint(2**31 - 1)),
        )
        known = np.flatnonzero(periods.known)
        requests = len(np.unique(periods.row[known]))
        if requests < FEWEST_REQUESTS:
            raise ParameterError(
                f"{trace.name}: {requests} of {len(trace)} requests show whether they end within "
                f"{self.horizon} steps before their max_tokens cuts them, training needs "
                f"{FEWEST_REQUESTS}; use survival"
            )
        X = feature_columns.build(trace, periods, token_s=token_s)
        return self.fit(X[known], periods.remaining[known], groups=periods.row[known])

    def forecast(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return p and μ of each row: what routers call.

        Parameters
        ----------
        X : ndarray of float64, shape (n, features)

        Returns
        -------
        p_finish, mu_remaining : ndarray of float64, shape (n,)

        Raises
        ------
        ParameterError
            If the number of columns is wrong or a required feature is missing.
        """
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise ParameterError(
                f"features of shape {X.shape}: this model takes {self.n_features_in_} columns"
            )
        check_required(self.features, X)
        if not self.distil and self.evaluator_ is not None:
            return self.forecast_plainly(X)
        return self._compiled(np.ascontiguousarray(X, np.float64))

    def forecast_plainly(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return what `forecast` does, by scikit-learn's own evaluation.

        Raises
        ------
        ParameterError
            The estimators that this was distilled from are not there: it comes from a file.
        """
        if self.evaluator_ is not None and self.teachers_ is None:
            raise ParameterError("this classifier was read from a file, without its teachers")
        design = self.design_.matrix(X)
        base_logit, base_mu = design[:, D_LOGIT], design[:, D_MU]
        raw_logit, raw_mu = base_logit, base_mu
        if self.evaluator_ is not None:
            trained = (self.teachers_, self.evaluator_)
            raw_logit, raw_mu = self._recipe().raw(design, self.used_, trained)
        weights, knots, levels = self.calibration_
        p = 1.0 / (1.0 + np.exp(-weights[0] * base_logit - weights[1] * (raw_logit - base_logit)))
        p = np.interp(p, knots, levels) if len(knots) else p
        mu = base_mu + weights[2] * (raw_mu - base_mu)
        return p, np.clip(mu, 1.0, self.horizon)

    def check_deployable(self) -> None:
        """Refuse a classifier that a router could not use.

        Raises
        ------
        ParameterError
            It is not fitted, or takes other features than `classifiers.features.FEATURES`.
        """
        if not hasattr(self, "calibration_"):
            raise ParameterError("this HazardClassifier is not fitted; call fit_trace")
        if tuple(self.features or ()) != feature_columns.FEATURES:
            raise ParameterError(
                f"this classifier takes {self.n_features_in_} columns that are not "
                f"{', '.join(feature_columns.FEATURES)}"
            )

    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """Return the probabilities of outliving and of ending within the horizon."""
        p, _ = self.forecast(self._validated(X))
        return np.column_stack([1.0 - p, p])

    def predict(self, X: ArrayLike) -> NDArray[np.bool_]:
        """Tell which requests rather end within the horizon than not, shape (n,)."""
        p, _ = self.forecast(self._validated(X))
        chosen: NDArray[np.bool_] = self.classes_[(p >= 0.5).astype(np.int64)]
        return chosen

    def survival(self, X: FloatArray, steps: int | None = None) -> FloatArray:
        """Return the probability of still running h = 0..`steps` steps from now.

        The baseline's curve with its hazards scaled by one factor per request,
        ``S_i(h) = S(h | age)^θ``, such that ``S_i(H) = 1 - p``; the factor holds beyond H too.

        Parameters
        ----------
        X : array of float, shape (n, features)
        steps : int, optional
            How far; by default H.

        Returns
        -------
        ndarray of float64, shape (n, steps + 1)
        """
        p, _ = self.forecast(X)
        steps = self.horizon if steps is None else steps
        reach = max(steps, self.horizon)
        curve = self.design_.baseline.curve(self.design_.age(X), reach)
        # A floor keeps logarithms finite, a slope lets requests without baseline hazard end.
        hazard = -np.log(np.maximum(curve, SURE)) + SLOPE * np.arange(reach + 1)
        left = np.log1p(-np.minimum(p, 1.0 - SURE))
        curves: FloatArray = np.exp(
            hazard[:, : steps + 1] * (left / hazard[:, self.horizon])[:, None]
        )
        return curves

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the share of requests whose class is predicted right.

        Parameters
        ----------
        X : array of float, shape (n, features)
        y : array, shape (n,)
            Remaining lengths, as in `fit`.
        sample_weight : array of float, shape (n,), optional
        """
        ends = lengths_of(np.asarray(y)) <= self.horizon
        return float(super().score(X, ends, sample_weight))

    def __sklearn_tags__(self) -> Any:
        """State what scikit-learn may ask of this estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.features is None
        tags.classifier_tags.multi_class = False
        tags.target_tags.positive_only = True
        return tags

    def _validated(self, X: ArrayLike) -> FloatArray:
        check_is_fitted(self)
        checked: FloatArray = validate_data(
            self, X, reset=False, ensure_all_finite="allow-nan", dtype=np.float64
        )
        return checked

    def _recipe(self) -> Recipe:
        isotonic = self.calibration == "isotonic"
        isotonic |= (self.calibration, self.kind) == ("auto", "lr")
        return Recipe(
            kind=self.kind,
            names=self.features,
            horizon=self.horizon,
            isotonic=isotonic,
            distil=self.distil,
            recent=self.recent,
            rounds=self.rounds,
            leaves=self.leaves,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
        )

    def _check_params(self) -> None:
        for name, known in (("kind", KINDS), ("calibration", CALIBRATIONS), ("recent", RECENT)):
            if (value := getattr(self, name)) not in known:
                raise ParameterError(f"{name} is {value!r}, must be one of {', '.join(known)}")
        for name in ("horizon", "rounds", "leaves"):
            if not getattr(self, name) >= 1:
                raise ParameterError(f"{name} is {getattr(self, name)}, must be at least 1")

    def _check_columns(self, X: FloatArray) -> None:
        if self.features is not None and X.shape[1] != len(self.features):
            raise ParameterError(
                f"{X.shape[1]} columns for the {len(self.features)} features "
                f"{', '.join(self.features)}"
            )
        check_required(self.features, X)

    def _compiled(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        weights, knots, levels = self.calibration_
        rest = (weights, float(self.horizon), knots, levels)
        if self.evaluator_ is None:
            return forecast_trees(X, *self.design_.arrays, STUMPS, *rest)
        arrays = self.evaluator_.arrays
        if self.kind == "lr":
            return forecast_additive(X, *self.design_.arrays, arrays, *rest)
        return forecast_trees(X, *self.design_.arrays, arrays, *rest)
