"""Predictors for runs, and the part of a trace that trains them, which no run may contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.registry import (
    make_policy,
    make_predictor,
    parse_predictor,
    policy_class,
    predictor_class,
    wants,
)
from brsolver.simulator.streams import stream
from brsolver.specs import parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from brsolver.policy import Policy
    from brsolver.predictors import Predictor
    from brsolver.traces.model import Trace

DEFAULT_PREDICTOR = "survival"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What a trained predictor leaves of a trace to be run.

    Attributes
    ----------
    trace : Trace
        The requests that did not train it.
    predictor : Predictor, str or None
        The trained predictor, to be copied for every run; a specification of one that is not
        trained before the run, as it was given.
    note : str or None
        What to say of it.
    """

    trace: Trace
    predictor: Predictor | str | None
    note: str | None = None


def hold_out(
    trace: Trace, predictor: str | None, seed: int = 0, *, horizons: Iterable[int] = ()
) -> HeldOut:
    """Train a predictor on the earlier part of `trace` if its specification asks for it.

    Parameters
    ----------
    trace : Trace
        The whole trace.
    predictor : str or None
        A predictor specification.
    seed : int
        Of the random stream that training may use.
    horizons : iterable of int
        As in `predictor_for`.
    """
    if predictor is None or not is_trained(predictor):
        return HeldOut(trace=trace, predictor=predictor)
    trained, _ = predictor_for(predictor, trace, seed, horizons=horizons)
    rows = rows_that_trained(trained, trace)
    if rows == 0:
        return HeldOut(trace=trace, predictor=predictor)
    note = (
        f"the first {rows:,} of {len(trace):,} requests trained the predictor and are not part "
        "of the run"
    )
    return HeldOut(trace=trace.after(rows), predictor=trained, note=note)


def predictor_for(
    predictor: str | Predictor | None,
    trace: Trace,
    seed: int,
    *,
    horizons: Iterable[int] = (),
) -> tuple[Predictor | None, str]:
    """Make the predictor for a run over `trace`.

    Parameters
    ----------
    predictor : str, Predictor or None
        A specification, an object to be used as it is, or None for the default.
    trace : Trace
        What is to be run, the part that trains the predictor included.
    seed : int
        Of the run.
    horizons : iterable of int
        Steps that the routers look ahead, as far as known: a predictor that is trained for one
        horizon need not be trained to be refused. Zeros, of those that do not, are left out.

    Returns
    -------
    predictor : Predictor or None
        None if nothing is to be forecast.
    name : str
        What to call it.
    """
    if predictor is None:
        predictor = DEFAULT_PREDICTOR
    if not isinstance(predictor, str):
        return predictor, type(predictor).__name__
    name, values = parse_predictor(predictor)
    if name == "none":
        return None, "none"
    rng = stream(seed, "predictor")
    ahead = sorted({horizon for horizon in horizons if horizon > 0})
    made = make_predictor(
        name,
        values,
        rng=rng,
        output_tokens=trace.output_tokens,
        trace=trace,
        horizons=ahead,
    )
    return made, predictor


def horizon_of(policy: str | Policy) -> int:
    """Return the steps that a policy looks ahead, as far as it tells before the run.

    0 if it does not, or is specified and made from the very predictor that it asks.
    """
    if isinstance(policy, str):
        name, values = parse_spec(policy)
        if wants(policy_class(name), "predictor"):
            return 0
        policy = make_policy(name, values, rng=stream(0, "policy"))
    return int(getattr(policy, "horizon", 0))


def is_trained(predictor: str) -> bool:
    """Tell whether the predictor specified is one that a trace trains before the run."""
    name, _ = parse_predictor(predictor)
    return name != "none" and callable(getattr(predictor_class(name), "training_rows", None))


def rows_that_trained(predictor: Predictor | None, trace: Trace) -> int:
    """Return how many leading requests of `trace` trained the predictor before the run."""
    rows = getattr(predictor, "training_rows", None)
    return 0 if rows is None else int(rows(trace))
