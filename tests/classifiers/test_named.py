"""Predictors by name: what specifications resolve to, and what they carry."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("sklearn")

from brsolver import BRH, BRHParams, SimulationParams, Trace, simulate
from brsolver.compare import compare
from brsolver.errors import BrsolverError, ParameterError
from brsolver.oracles.gap import gap
from brsolver.predictors import ForecastQuery
from brsolver.registry import PredictorSpec, predictor_class
from brsolver.simulator.held_out import hold_out
from classifiers import named
from classifiers.exact_match import ExactMatchPredictor
from classifiers.guard import GuardedPredictor
from classifiers.hazard import HazardClassifier
from classifiers.hazard_predictor import ModelPredictor, TrainedHazardPredictor
from classifiers.history import finished_rows
from classifiers.model_file import save

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brsolver.predictors import Predictor

ROWS = 150
HORIZON = 20


def made_trace(n: int = 300) -> Trace:
    """Return a trace whose outputs follow its sessions."""
    rng = np.random.default_rng(0)
    session = rng.integers(0, 20, n)
    return Trace(
        prompt_tokens=rng.integers(1, 400, n),
        output_tokens=4 * session + rng.integers(1, 6, n),
        columns={"session": session},
        name="made",
    )


TRACE = made_trace()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("named") / "a,b=c.skops"
    model = HazardClassifier("lr", horizon=HORIZON, random_state=0)
    save(path, model.fit_trace(TRACE.head(ROWS)), TRACE, ROWS)
    return path


def made(spec: str, trace: Trace = TRACE) -> Predictor:
    rng = np.random.default_rng(0)
    context = {"rng": rng, "trace": trace, "output_tokens": trace.output_tokens}
    found = PredictorSpec.parse(spec).make(**context)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("exact", named.Exact),
        ("hazard-gb", named.HazardGB),
        ("hazard-lr", named.HazardLR),
        ("model", named.Model),
    ],
)
def test_names_resolve_to_guarded_predictors(name: str, kind: type) -> None:
    assert predictor_class(name) is kind
    assert issubclass(kind, GuardedPredictor)
    assert PredictorSpec.parse(name if name != "model" else "model:m.skops").trained


def test_exact_takes_its_own_parameters_and_the_guards() -> None:
    predictor = made("exact:key=session,train=0.5,withdraw=false")
    assert isinstance(predictor, GuardedPredictor)
    assert isinstance(predictor.base, ExactMatchPredictor)
    assert predictor.base.params.key == "session"
    assert not predictor.guard.withdraw
    assert predictor.training_rows(TRACE) == ROWS
    unguided = made("exact")
    assert isinstance(unguided, GuardedPredictor)
    assert unguided.guard.withdraw
    assert unguided.training_rows(TRACE) == 0


@pytest.mark.parametrize("kind", ["lr", "gb"])
def test_hazard_models_are_trained_on_the_share_for_the_horizon_they_are_told(kind: str) -> None:
    predictor = made(f"hazard-{kind}:train=0.5,horizon={HORIZON},withdraw=false")
    assert isinstance(predictor, GuardedPredictor)
    assert isinstance(predictor.base, TrainedHazardPredictor)
    assert (predictor.base.classifier.kind, predictor.base.classifier.horizon) == (kind, HORIZON)
    assert predictor.training_rows(TRACE) == ROWS
    assert not predictor.guard.withdraw


def test_a_model_is_named_by_its_path_alone_whatever_is_in_it(written: Path) -> None:
    predictor = made(f"model:{written}")
    assert isinstance(predictor, GuardedPredictor)
    assert isinstance(predictor.base, ModelPredictor)
    assert predictor.guard.withdraw
    assert predictor.training_rows(TRACE) == ROWS


def test_a_models_path_beside_other_parameters(written: Path) -> None:
    plain = written.with_name("plain.skops")
    plain.write_bytes(written.read_bytes())
    predictor = made(f"model:path={plain},withdraw=false")
    assert isinstance(predictor, GuardedPredictor)
    assert not predictor.guard.withdraw
    assert predictor.training_rows(TRACE) == ROWS


def arrays_within(root: object) -> Iterator[np.ndarray]:
    """Yield the arrays that an object has in its reach, classes and functions left out."""
    left, seen = [root], set()
    while left:
        own = left.pop()
        if id(own) in seen or isinstance(own, type | ModuleType | FunctionType):
            continue
        seen.add(id(own))
        if isinstance(own, np.ndarray):
            yield own
        left += gc.get_referents(own)


@pytest.mark.parametrize(
    "spec",
    [
        "survival:train=0.5", "oracle", "oracle:noise=0.2", "oracle:dropout=0.2",
        "exact:train=0.5", f"hazard-gb:horizon={HORIZON}", f"hazard-lr:horizon={HORIZON}", "model",
    ],
)  # fmt: skip
def test_no_predictor_holds_the_arrays_of_its_trace(spec: str, written: Path) -> None:
    """Policies are given predictors, and are not to write into the trace through them."""
    predictor = made(f"model:{written}" if spec == "model" else spec)
    held = list(arrays_within(predictor))
    assert held
    columns = [TRACE.prompt_tokens, TRACE.output_tokens, *TRACE.columns.values()]
    assert not any(np.may_share_memory(own, column) for own in held for column in columns)


def test_what_trained_a_model_is_not_run(written: Path) -> None:
    held = hold_out(TRACE, f"model:{written}")
    assert len(held.trace) == len(TRACE) - ROWS
    result = simulate(
        TRACE,
        f"br-h:horizon={HORIZON}",
        SimulationParams(workers=2, slots=8),
        predictor=f"model:{written}",
    )
    assert result.metrics.finished == len(TRACE) - ROWS
    # A shorter reading of the same trace holds nothing else than what trained it.
    with pytest.raises(BrsolverError, match="nothing is left to forecast"):
        hold_out(TRACE.head(100), f"model:{written}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("model", "path"),
        ("model:nowhere.skops", "nowhere.skops: cannot be read"),
        ("hazard-gb:train=0", "train"),
        ("hazard-lr:horizon=0", "horizon is 0"),
        ("hazard-lr:calibration=none", "calibration"),
        ("exact:withdraw=perhaps", "withdraw"),
        ("exact:key=prompt,train=0.5", "no prompt_hash"),
    ],
)
def test_bad_specifications_are_one_clear_line(spec: str, message: str) -> None:
    with pytest.raises(BrsolverError, match=message) as error:
        made(spec)
    assert "\n" not in str(error.value)


CLUSTER = SimulationParams(workers=2, slots=8)


def brh(policy: str) -> BRHParams:
    return BRHParams(horizon=int(policy.partition("=")[2]))


RUNS: dict[str, Callable[[str, str], object]] = {
    "simulate": lambda spec, policy: simulate(TRACE, policy, CLUSTER, predictor=spec),
    "an object": lambda spec, policy: simulate(TRACE, BRH(brh(policy)), CLUSTER, predictor=spec),
    "compare": lambda spec, policy: compare(TRACE, f"fcfs,br-0,{policy}", predictor=spec, jobs=1),
    "gap": lambda spec, policy: gap(TRACE, ["fcfs", policy], workers=2, slots=8, predictor=spec),
    "judged": lambda spec, policy: gap(
        TRACE, ["fcfs"], workers=2, slots=8, predictor=spec, oracle="step",
        horizon=brh(policy).horizon,
    ),
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", ["gb", "lr"])
def test_a_router_of_another_horizon_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, kind: str, run: str
) -> None:
    class Trained(Exception):  # noqa: N818 # not an error: what is expected of the right horizon
        pass

    def train(self: HazardClassifier, trace: Trace) -> HazardClassifier:
        raise Trained

    monkeypatch.setattr(HazardClassifier, "fit_trace", train)
    spec = f"hazard-{kind}:horizon={HORIZON}"
    with pytest.raises(ParameterError, match="horizon is 30, must be 20") as error:
        RUNS[run](spec, "br-h:horizon=30")
    assert "\n" not in str(error.value)
    with pytest.raises(Trained):
        RUNS[run](spec, f"br-h:horizon={HORIZON}")


def test_a_file_of_another_horizon_is_refused_before_any_run(written: Path) -> None:
    with pytest.raises(ParameterError, match="horizon is 30, must be 20"):
        hold_out(TRACE, f"model:{written}", horizons=[0, HORIZON, 30])
    hold_out(TRACE, f"model:{written}", horizons=[0, HORIZON])


def test_exact_match_judges_its_shrinkage_by_the_horizon_it_is_told() -> None:
    def shrinkage(horizon: int, *, told: bool) -> list[float]:
        predictor = ExactMatchPredictor()
        if told:
            predictor.look_ahead(horizon)
        for first in range(0, len(TRACE), 50):
            ended = finished_rows(TRACE.take(np.arange(first, first + 50)))
            query = ForecastQuery(
                request=ended.request,
                age=np.zeros(50, np.int64),
                prompt_tokens=ended.prompt_tokens,
                keys=ended.keys,
            )
            if told:
                predictor.survival(query, horizon + 32)
            else:
                predictor.predict(query, horizon)
            predictor.observe(ended)
        return predictor.shrinkage.tolist()

    assert shrinkage(5, told=True) == shrinkage(5, told=False)
    assert shrinkage(5, told=True) != shrinkage(80, told=True)
