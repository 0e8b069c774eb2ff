"""Bad input, small budgets and broken plans are reported as what they are."""

import numpy as np
import pytest

from brsolver.errors import BrsolverError, ParameterError
from brsolver.oracles.hindsight import fcfs_schedule, hindsight, hindsight_cp_sat, replay
from brsolver.oracles.hindsight.follow import check_value
from brsolver.oracles.result import SolverError
from brsolver.simulator import StepTime
from brsolver.traces.trace import Trace


@pytest.fixture
def trace():
    rng = np.random.default_rng(0)
    return Trace(prompt_tokens=rng.integers(5, 900, 60), output_tokens=rng.integers(1, 40, 60))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"slots": 0}, "slots is 0"),
        ({"slots": (2, 3)}, "slots are 2 to 3, must be the same on each worker"),
        ({"slots": (2, 2, 2)}, "3 entries for 2 workers"),
        ({"pool": 0}, "pool is 0"),
        ({"budget_s": 0.0}, "budget_s is 0.0"),
        ({"budget_s": float("nan")}, "budget_s is nan"),
        ({"threads": 0}, "threads is 0"),
        ({"objective": "makespans"}, "did you mean 'makespan'"),
        ({"admission": "fifo"}, "unknown admission"),
        ({"method": "milp"}, "unknown method"),
        (
            {"method": "search"},
            "method is 'search', must be auto, dp, cp-sat or anytime",
        ),
        (
            {"method": "dp", "admission": "free"},
            "method is 'dp', must be auto, search or cp-sat",
        ),
        ({"method": "dp", "slots": 40}, "use method 'cp-sat' or 'anytime'"),
        ({"admission": "free", "horizon": 5}, "horizon is 5"),
        ({"warm_start": np.zeros(60, np.int64)}, "warm_start is no assignment"),
        ({"warm_start": np.zeros(3, np.int64)}, "warm_start is no assignment"),
        ({"objective": "makespan", "step_time": StepTime(per_token=0.0)}, "positive per_token"),
    ],
)
def test_bad_input_is_one_line(trace, given, says):
    with pytest.raises(BrsolverError) as caught:
        hindsight(trace, **{"workers": 2, "slots": 3, **given})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["dp", "cp-sat", "anytime"])
def test_a_budget_too_small_is_never_an_optimum(method):
    rng = np.random.default_rng(1)
    big = Trace(prompt_tokens=rng.integers(5, 900, 400), output_tokens=rng.integers(1, 40, 400))
    found = hindsight(big, workers=3, slots=4, budget_s=1e-6, method=method)
    assert found.status.value == "feasible"
    assert found.lower_bound < found.best_known
    assert found.message


def test_a_free_budget_too_small_is_never_an_optimum(trace):
    found = hindsight(trace, workers=2, slots=3, admission="free", budget_s=1e-6)
    assert found.status.value == "feasible"
    assert found.lower_bound < found.best_known


def test_free_admission_beyond_any_search_is_a_run_and_a_bound():
    rng = np.random.default_rng(1)
    big = Trace(prompt_tokens=rng.integers(5, 900, 300), output_tokens=rng.integers(1, 40, 300))
    found = hindsight(big, workers=3, slots=4, admission="free", budget_s=5.0)
    assert found.status.value == "feasible"
    assert found.lower_bound < found.best_known
    assert "too large to search" in found.message
    with pytest.raises(ParameterError, match="use fewer requests"):
        hindsight(big, workers=3, slots=4, admission="free", method="cp-sat", horizon=2000)


def test_plans_that_do_not_run_are_refused(trace):
    schedule = fcfs_schedule(trace, 2, 3)
    with pytest.raises(BrsolverError):
        replay(trace, np.zeros(60, np.int64), schedule.start, workers=2, slots=3, pool=8)
    with pytest.raises(SolverError, match="claims 7"):
        check_value(7, 8, "dp")


def test_warm_start_must_fit(trace):
    with pytest.raises(ParameterError, match="warm_start is no assignment"):
        hindsight_cp_sat(fcfs_schedule(trace, 2, 3), warm_start=np.zeros(60, np.int64))
