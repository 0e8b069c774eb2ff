"""Decision values: between BR-0 and the oracle, or honest about there being nothing between."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.errors import ParameterError, UnknownNameError
from brsolver.predictors import Forecast, ForecastQuery
from brsolver.simulator import SimulationParams, simulate
from brsolver.traces import load_trace
from classifiers.evaluation import candidates as c
from classifiers.evaluation.decision import Value, decision_values, gap_share
from classifiers.evaluation.study import JudgingParams, study
from classifiers.report.page import json_text

if TYPE_CHECKING:
    from brsolver.predictors import Predictor
    from brsolver.traces.trace import Trace

CLUSTER = SimulationParams(slots=6, refresh_steps=8)
FIGURES = st.floats(1, 1e6)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return load_trace("preset:chat:n=240,output_median=60,output_max=300,seed=5")


@given(FIGURES, FIGURES, FIGURES, st.booleans())
def test_a_share_of_the_gap_is_a_place_on_the_way(
    value: float, below: float, above: float, lower: bool
) -> None:
    share = gap_share(value, below, above, lower_is_better=lower)
    gap = below - above if lower else above - below
    if gap < 0.005 * below:
        assert share is None
        return
    assert share is not None
    way = -1 if lower else 1
    assert below + way * share * gap == pytest.approx(value, rel=1e-6, abs=1e-6 * below)
    assert gap_share(below, below, above, lower_is_better=lower) == 0
    assert gap_share(above, below, above, lower_is_better=lower) == 1


def test_a_gap_within_the_noise_of_runs_is_none() -> None:
    assert gap_share(90, 100, 80, lower_is_better=True, noise=25) is None
    assert gap_share(90, 100, 80, lower_is_better=True, noise=15) == 0.5


class Stays:
    """Forecasts that nobody ever ends, and has no curve."""

    def predict(self, query: ForecastQuery, horizon: int) -> Forecast:
        stay = np.zeros(len(query))
        return Forecast(p_finish=stay, mu_remaining=stay + horizon, horizon=horizon)


def warmed() -> Predictor:
    past = load_trace("preset:chat:n=100,output_median=60,output_max=300,seed=6")
    return c.make("survival", past, horizon=40, seed=0)


def values_of(trace: Trace, **options: object) -> dict[tuple[str, int, str], Value]:
    predictors = {"survival": warmed(), "stays": Stays()}
    found = decision_values(trace, predictors, horizon=40, params=CLUSTER, **options)  # type: ignore[arg-type] # passed on
    return {(value.kind, value.workers, value.projection): value for value in found}


def test_figures_are_those_of_the_simulator(trace: Trace) -> None:
    found = values_of(trace, workers=(2, 3))
    keys = [
        ("br-0", ""), ("oracle", ""), ("survival", "expected"), ("stays", "expected"),
        ("survival", "survival"),
    ]  # fmt: skip
    assert list(found) == [(kind, g, how) for g in (2, 3) for kind, how in keys]
    params = SimulationParams(workers=3, slots=6, refresh_steps=8)
    plain = simulate(trace, "br-0:r_max=32", params).metrics
    known = simulate(trace, "br-h:horizon=40", params, predictor="oracle").metrics
    assert found["br-0", 3, ""].imbalance == plain.avg_imbalance_sum
    assert found["oracle", 3, ""].throughput == known.throughput_tok_s
    assert found["br-0", 3, ""].share_imbalance == 0
    assert found["oracle", 3, ""].share_imbalance == 1
    # A forecast that all stay leaves BR-H nothing but BR-0's view, at every step of the horizon.
    assert found["stays", 3, "expected"].share_imbalance == pytest.approx(0, abs=1e-9)


def test_runs_leave_the_predictors_as_they_were(trace: Trace) -> None:
    predictor = warmed()
    before = copy.deepcopy(predictor.table)  # type: ignore[attr-defined] # Survival has one
    options = {"horizon": 40, "params": CLUSTER, "workers": (2,)}
    first, second = (
        [v.imbalance for v in decision_values(trace, {"survival": predictor}, **options)]  # type: ignore[arg-type] # passed on
        for _ in range(2)
    )
    assert first == second
    assert (predictor.table == before).all()  # type: ignore[attr-defined] # Survival has one


def test_several_starts_are_averaged_and_say_how_far_they_differ(trace: Trace) -> None:
    one = values_of(trace, workers=(2,))["br-0", 2, ""]
    late = values_of(trace.after(1), workers=(2,))["br-0", 2, ""]
    both = values_of(trace, workers=(2,), starts=2)["br-0", 2, ""]
    assert both.imbalance == pytest.approx((one.imbalance + late.imbalance) / 2)
    spread = np.std([one.imbalance, late.imbalance], ddof=1)
    assert both.imbalance_spread == pytest.approx(float(spread))
    assert np.isnan(one.imbalance_spread)


def test_a_study_judges_later_requests_and_is_strict_json(trace: Trace) -> None:
    split = c.split_at(trace, 120)
    predictors = {"survival": c.make("survival", split.training, horizon=40, seed=0)}
    params = JudgingParams(horizon=40, workers=2, slots=6, replicates=5, refresh_steps=8)
    found = study(trace, split, predictors, params, workers=(2,), notes=("said",))
    assert [each.kind for each in found.judgements] == ["climatology", "survival"]
    assert found.samples.requests == 120
    facts = json.loads(json_text(found.to_dict()))
    assert facts["training_rows"] == facts["testing_rows"] == 120
    assert facts["notes"][0] == "said"
    assert facts["decision_value"][0]["imbalance_spread"] is None
    assert {row["kind"] for row in facts["decision_value"]} == {"br-0", "oracle", "survival"}


def test_training_and_testing_parts_share_no_request(trace: Trace) -> None:
    split = c.split_at(trace, 100)
    joined = np.concatenate((split.training.output_tokens, split.testing.output_tokens))
    assert (joined == trace.output_tokens).all()
    for rows in (10, 230, 240):
        with pytest.raises(ParameterError, match="are too few to"):
            c.split_at(trace, rows)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("survival,hazard-bg", "did you mean 'hazard-gb'"),
        ("survival,", "a name is missing beside a comma"),
        ("exact,exact", "names a kind twice"),
    ],
)
def test_bad_lists_of_kinds_are_refused(kinds: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        c.check_kinds(kinds)
    assert c.check_kinds(" exact , survival") == ("exact", "survival")


def test_an_unknown_kind_cannot_be_trained(trace: Trace) -> None:
    with pytest.raises(UnknownNameError, match="unknown kind 'survival'"):
        c.train("survival", trace, horizon=40, seed=0)
