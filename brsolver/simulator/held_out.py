"""The part of a trace that trains a predictor before the run, which no run may contain."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from brsolver._code import joined, require_same, without_script
from brsolver.registry import PredictorSpec
from brsolver.stand_ins import as_predictor
from brsolver.streams import stream
from brsolver.traces.prints import print_of
from brsolver.wiring import name_of, prints_behind, read_predictor, require_unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from brsolver.predictors import BasePredictor, Predictor
    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What a trained predictor leaves of a trace to be run.

    Attributes
    ----------
    trace : Trace
        The requests that did not train it.
    predictor : BasePredictor or PredictorSpec
        The trained predictor, to be copied for every run; of one that is not trained before the
        run, the specification.
    predictor_name : str
        What results call it.
    note : str or None
        What to say of it.
    trained_by : str
        What tells apart the requests that did; empty if there are none.
    code : str
        What tells apart what the predictor is made from; see `brsolver.wiring.code_of`.
    """

    trace: Trace
    predictor: BasePredictor | PredictorSpec
    predictor_name: str
    note: str | None = None
    trained_by: str = ""
    code: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return _remade, (values, without_script(prints_behind(self.predictor)))


def _remade(values: Mapping[str, Any], prints: Mapping[str, str]) -> HeldOut:
    held = HeldOut(**values)
    # A predictor takes along what it has learnt; its methods are those of the class over there.
    require_same(held.predictor_name, prints, prints_behind(held.predictor))
    return held


def hold_out(
    trace: Trace,
    predictor: str | PredictorSpec | Predictor | None,
    seed: int = 0,
    *,
    horizons: Iterable[int] = (),
) -> HeldOut:
    """Train a predictor on the earlier part of `trace` if its specification asks for it.

    Parameters
    ----------
    trace : Trace
        The whole trace.
    predictor : str, PredictorSpec, Predictor or None
        As of `brsolver.simulator.simulate`.
    seed : int
        Of the random stream that training may use.
    horizons : iterable of int
        Steps that the routers look ahead, as far as known: a predictor that is trained for one
        horizon need not be trained to be refused. Zeros, of those that do not, are left out.
    """
    chosen = read_predictor(predictor)
    whole = HeldOut(
        trace=trace, predictor=chosen, predictor_name=name_of(chosen),
        code=joined(prints_behind(chosen)),
    )  # fmt: skip
    if not isinstance(chosen, PredictorSpec) or not chosen.trained:
        return whole
    ahead = sorted({horizon for horizon in horizons if horizon > 0})
    trained = chosen.make(rng=stream(seed, "predictor"), horizons=ahead, **seen_in(trace))
    require_unchanged(chosen)
    if trained is None:
        return whole
    trained = as_predictor(trained)
    rows = rows_that_trained(trained, trace)
    if rows == 0:
        return whole
    note = told_of_training(rows, len(trace))
    return replace(
        whole, trace=trace.after(rows), predictor=trained, note=note,
        trained_by=print_of(trace.head(rows)),
    )  # fmt: skip


def seen_in(trace: Trace) -> dict[str, Any]:
    """Return what a predictor's constructor may take of a trace."""
    return {"output_tokens": trace.output_tokens, "trace": trace}


def rows_that_trained(predictor: BasePredictor | None, trace: Trace) -> int:
    """Return how many leading requests of `trace` trained the predictor before the run."""
    return 0 if predictor is None else predictor.training_rows(trace)


def told_of_training(rows: int, whole: int) -> str:
    """Say which requests are no part of a run."""
    return (
        f"the first {rows:,} of {whole:,} requests trained the predictor and are not part of "
        "the run"
    )
