"""The predictors that go by name, each under a guard of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal

from classifiers.exact_match import ExactMatchParams, ExactMatchPredictor
from classifiers.guard import GuardedPredictor, GuardParams
from classifiers.hazard_predictor import (
    HazardParams,
    ModelParams,
    ModelPredictor,
    TrainedHazardPredictor,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from brsolver.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactParams(ExactMatchParams):
    """Parameters of `Exact`: those of `ExactMatchPredictor`, and whether it is withdrawn.

    Attributes
    ----------
    withdraw : bool
        Whether the guard withdraws forecasts that are worse than Survival's.
    """

    withdraw: bool = True


class Exact(GuardedPredictor):
    """`ExactMatchPredictor` under guard.

    Parameters
    ----------
    params : ExactParams, optional
    trace : Trace, optional
        Whose earliest requests to learn from, if ``params.train`` is above 0.
    """

    Params = ExactParams

    def __init__(self, params: ExactParams | None = None, *, trace: Trace | None = None) -> None:
        params = params or ExactParams()
        super().__init__(ExactMatchPredictor(params, trace=trace), _guarding(params.withdraw))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedParams:
    """Parameters of `HazardGB` and `HazardLR`.

    Attributes
    ----------
    train : float
        Earliest share of the trace to train on, above 0 and below 1; no run contains it.
    horizon : int
        Steps H to forecast, the router's own.
    calibration : {"auto", "sigmoid", "isotonic"}
        See `classifiers.hazard.HazardClassifier`.
    seed : int
        Of the training.
    withdraw : bool
        Whether the guard withdraws forecasts that are worse than Survival's.
    """

    train: float = 0.5
    horizon: int = 80
    calibration: Literal["auto", "sigmoid", "isotonic"] = "auto"
    seed: int = 0
    withdraw: bool = True

    def __post_init__(self) -> None:
        self.hazard("gb")

    def hazard(self, kind: Literal["gb", "lr"]) -> HazardParams:
        """Return what trains a model of this kind."""
        shared = {field.name for field in fields(HazardParams)} - {"kind"}
        return HazardParams(kind=kind, **{name: getattr(self, name) for name in shared})


class _Trained(GuardedPredictor):
    """`TrainedHazardPredictor` of one kind, under guard.

    Parameters
    ----------
    params : TrainedParams, optional
    trace : Trace
        What is to be run; its earliest share trains the model and is left out.
    horizons : iterable of int
        Steps that the routers will ask for, as far as known: checked before training.
    """

    Params = TrainedParams
    kind: ClassVar[Literal["gb", "lr"]]

    def __init__(
        self,
        params: TrainedParams | None = None,
        *,
        trace: Trace | None = None,
        horizons: Iterable[int] = (),
    ) -> None:
        params = params or TrainedParams()
        base = TrainedHazardPredictor(params.hazard(self.kind), trace=trace, horizons=horizons)
        super().__init__(base, _guarding(params.withdraw))


class HazardGB(_Trained):
    """A hazard model with gradient-boosted trees, trained on the earliest part of the trace."""

    kind = "gb"


class HazardLR(_Trained):
    """A hazard model linear in splines, trained on the earliest part of the trace."""

    kind = "lr"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileParams(ModelParams):
    """Parameters of `Model`.

    Attributes
    ----------
    withdraw : bool
        Whether the guard withdraws forecasts that are worse than Survival's.
    """

    withdraw: bool = True


class Model(GuardedPredictor):
    """`ModelPredictor` under guard: ``model:FILE``.

    Parameters
    ----------
    params : FileParams
    trace : Trace, optional
        What is to be run.
    horizons : iterable of int
        Steps that the routers will ask for, as far as known.
    """

    Params = FileParams
    positional = "path"

    def __init__(
        self, params: FileParams, *, trace: Trace | None = None, horizons: Iterable[int] = ()
    ) -> None:
        base = ModelPredictor(params, trace=trace, horizons=horizons)
        super().__init__(base, _guarding(params.withdraw))


def _guarding(withdraw: bool) -> GuardParams:
    return GuardParams(withdraw=withdraw)
