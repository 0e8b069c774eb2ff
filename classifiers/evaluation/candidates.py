"""The kinds of predictors that can be judged, made from the earlier part of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError, UnknownNameError

if TYPE_CHECKING:
    from brsolver.predictors import BasePredictor
    from brsolver.traces.trace import Trace
    from classifiers.hazard import HazardClassifier

SURVIVAL = "survival"
CLIMATOLOGY = "climatology"
ORACLE = "oracle"
KINDS = (SURVIVAL, "exact", "hazard-lr", "hazard-gb")
TRAINED_KINDS = {"hazard": "gb", "hazard-gb": "gb", "hazard-lr": "lr"}
"""Kinds that make a model file, and which classifier each is."""

MIN_REQUESTS = 50
"""Fewest requests on either side of the split."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Split:
    """A trace cut in two by time.

    Attributes
    ----------
    training, testing : Trace
        The earlier and the later part.
    """

    training: Trace
    testing: Trace


def split_at(trace: Trace, rows: int) -> Split:
    """Cut a trace after its first `rows` requests.

    Raises
    ------
    ParameterError
        Either part is too short to say anything.
    """
    for name, count in (("train on", rows), ("judge forecasts on", len(trace) - rows)):
        if count < MIN_REQUESTS:
            raise ParameterError(
                f"{trace.name}: {max(count, 0)} of {len(trace):,} requests are too few to {name}, "
                f"must be at least {MIN_REQUESTS}"
            )
    return Split(training=trace.head(rows), testing=trace.after(rows))


def rows_of_share(trace: Trace, share: float) -> int:
    """Return how many requests are the share `share` of a trace."""
    if not 0.0 < share <= 1.0:
        raise ParameterError(f"train is {share}, must be above 0 and at most 1")
    return round(share * len(trace))


def check_kind(kind: str, known: tuple[str, ...] = KINDS) -> None:
    """Refuse a kind that is not there, naming the nearest."""
    if kind not in known:
        raise UnknownNameError.suggest("kind", kind, known)


def check_kinds(text: str) -> tuple[str, ...]:
    """Take a comma-separated list of kinds apart.

    Raises
    ------
    ParameterError
        One is missing, unknown or given twice.
    """
    kinds = tuple(kind.strip() for kind in text.split(","))
    if "" in kinds:
        raise ParameterError(f"kinds {text!r}: a name is missing beside a comma")
    for kind in kinds:
        check_kind(kind)
    if len(set(kinds)) < len(kinds):
        raise ParameterError(f"kinds {text!r} names a kind twice")
    return kinds


def make(kind: str, training: Trace, *, horizon: int, seed: int) -> BasePredictor:
    """Make a predictor of a kind that has seen the training part, and nothing later.

    Those that learn online are warmed with it; those that are trained are trained on it, and
    their histories warmed. All but Survival are under guard, as they are by name.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    training : Trace
        The earlier part.
    horizon : int
        Steps H that trained kinds are trained for.
    seed : int
        Of the training.
    """
    check_kind(kind)
    if kind == SURVIVAL:
        from classifiers.survival import SurvivalPredictor

        return SurvivalPredictor().fit(training)
    if kind == "exact":
        from classifiers.exact_match import ExactMatchPredictor
        from classifiers.guard import GuardedPredictor

        return GuardedPredictor(ExactMatchPredictor().fit(training))
    return deployed(train(kind, training, horizon=horizon, seed=seed), training)


def train(kind: str, training: Trace, *, horizon: int, seed: int) -> HazardClassifier:
    """Train the classifier of a trained kind."""
    from classifiers.hazard import HazardClassifier

    check_kind(kind, tuple(TRAINED_KINDS))
    classifier = HazardClassifier(kind=TRAINED_KINDS[kind], horizon=horizon, random_state=seed)
    return classifier.fit_trace(training)


def deployed(classifier: HazardClassifier, past: Trace) -> BasePredictor:
    """Put a classifier to work after the requests of `past` have gone by."""
    from classifiers.guard import GuardedPredictor
    from classifiers.hazard_predictor import HazardPredictor

    predictor = HazardPredictor(classifier)
    predictor.warm(past)
    return GuardedPredictor(predictor)
