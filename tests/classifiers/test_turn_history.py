"""Turns that follow others, where predictors learn from a trace beforehand."""

import numpy as np
import pytest

from brsolver.simulator import Arrivals, SimulationParams, simulate
from brsolver.traces.trace import Trace
from classifiers.features import build
from classifiers.person_period import PersonPeriods


def conversation() -> Trace:
    return Trace(
        prompt_tokens=np.array([10, 20, 30]),
        output_tokens=np.array([100, 50, 50]),
        arrival_s=np.array([0.0, np.nan, 30.0]),
        columns={
            "session": np.array([1, 1, 1]),
            "delay_s": np.array([np.nan, 2.0, np.nan]),
        },
    )


@pytest.mark.parametrize(("token_s", "finished"), [(0.1, 2), (0.6, 0)])
def test_a_turn_is_known_of_from_when_it_could_have_ended(token_s: float, finished: int) -> None:
    asked = PersonPeriods(
        row=np.array([2]),
        age=np.array([0]),
        remaining=np.array([50]),
        horizon=1,
        known=np.array([True]),
    )
    features = build(conversation(), asked, token_s=token_s)
    # At 0.1 s a token the first ends at 10 s, and the turn at 10 + 2 + 5, before 30.
    assert features[0, 3] == finished
    assert not np.isnan(features[0, 3])


def test_what_trained_a_predictor_leaves_whole_turns() -> None:
    count = 60
    session, delay = np.arange(count) // 3, np.where(np.arange(count) % 3 > 0, 0.5, np.nan)
    rng = np.random.default_rng(0)
    trace = Trace(
        prompt_tokens=rng.integers(5, 90, count),
        output_tokens=rng.integers(5, 30, count),
        arrival_s=np.where(np.isnan(delay), 0.1 * np.arange(count), np.nan),
        columns={"session": session, "delay_s": delay, "prompt_hash": session},
    )
    params = SimulationParams(workers=2, slots=4, arrivals=Arrivals(mode="timestamps"))
    result = simulate(trace, "br-h", params, predictor="exact:train=0.5")
    assert result.training_rows == 30
    assert result.metrics.finished == 30
    part = simulate(trace, "br-h", params, predictor="exact:train=0.52")
    assert part.training_rows == 31
    assert part.metrics.finished == 29
    # Rows 31 and 32 followed row 30: row 31 comes by itself, and row 32 after it.
    assert any("1 turns of trace follow one that is not" in note for note in part.notes)
