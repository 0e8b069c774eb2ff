"""Free admission with the default horizon: what is called optimal is so among all runs."""

import numpy as np
import pytest
from bounds_brute_force import best_run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brsolver.oracles.hindsight import hindsight
from brsolver.oracles.result import Status
from brsolver.traces.trace import Trace

lengths = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 6)), min_size=1, max_size=4)


def trace_of(requests):
    prompt, output = np.array(requests, np.int64).T
    return Trace(prompt_tokens=prompt, output_tokens=output)


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 2), st.integers(1, 2), st.integers(1, 5), st.booleans())
@example([(11, 4), (4, 5), (46, 2)], 2, 1, 4, True)
def test_search_is_right_about_every_run(requests, workers, slots, pool, conserving):
    best, _ = best_run(*zip(*requests, strict=True), workers, slots, pool, not conserving)
    found = hindsight(
        trace_of(requests), workers=workers, slots=slots, pool=pool, admission="free",
        work_conserving=conserving, method="search",
    )  # fmt: skip
    assert found.status is Status.OPTIMAL
    assert found.best_known == found.lower_bound == best


@pytest.mark.parametrize("requests", [[(11, 4), (4, 5), (46, 2)], [(3, 2), (3, 2)]])
def test_cp_sat_claims_no_more_than_holds_for_every_run(requests):
    best, _ = best_run(*zip(*requests, strict=True), 2, 1, 4, False)
    found = hindsight(
        trace_of(requests), workers=2, slots=1, pool=4, admission="free", method="cp-sat"
    )
    assert found.lower_bound <= best <= found.best_known
    assert found.status is (Status.OPTIMAL if found.lower_bound == best else Status.FEASIBLE)


def test_one_state_with_very_many_successors_does_not_outlast_the_budget():
    rng = np.random.default_rng(0)
    trace = Trace(prompt_tokens=rng.integers(50, 100, 30), output_tokens=rng.integers(10, 20, 30))
    found = hindsight(trace, workers=8, slots=32, admission="free", budget_s=0.2, method="search")
    assert found.status is Status.FEASIBLE
    assert found.lower_bound <= found.best_known
