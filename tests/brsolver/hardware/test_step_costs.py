"""What routers are told of each model of a step's duration, against the durations themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsolver.cluster.costs import StepCosts
from brsolver.hardware.costs import step_costs
from brsolver.hardware.model import preset_names, step_time_of
from brsolver.hardware.reference import step_parts
from brsolver.hardware.step_time import StepTime

seconds = st.sampled_from([0.0, 1e-6, 3e-5, 0.25])
ranks = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 9000), st.integers(0, 500)), min_size=1, max_size=5
)


@st.composite
def formulas(draw):
    model = draw(st.sampled_from(["affine", "max-mean", "loads"]))
    uses = StepTime.CHOICES.uses[model]
    names = [name for name in uses if name.startswith(("base", "per_")) and "context" not in name]
    return StepTime(model=model, **{name: draw(seconds) for name in names} | {"base": 0.01})


def told(costs, loads):
    """A step's duration by what is told of it."""
    own = (costs.per_sequence_s, costs.per_kv_token_s, costs.per_prefill_token_s)
    shared = (
        costs.per_mean_sequence_s,
        costs.per_mean_kv_token_s,
        costs.per_mean_prefill_token_s,
    )
    slowest = max(sum(c * x for c, x in zip(own, each, strict=True)) for each in loads)
    means = [sum(column) / len(loads) for column in zip(*loads, strict=True)]
    return costs.base_s + slowest + sum(c * x for c, x in zip(shared, means, strict=True))


@given(formulas(), ranks)
def test_what_is_linear_is_told_whole(step_time, loads):
    sequences, kv_tokens, prefill = (list(column) for column in zip(*loads, strict=True))
    takes = step_parts(step_time, sequences, kv_tokens, prefill, [0] * len(loads)).seconds
    assert told(step_costs(step_time), loads) == pytest.approx(takes)


def test_the_budget_is_told_as_given():
    assert step_costs(StepTime()).budget == 0
    assert step_costs(StepTime(), budget=4096).budget == 4096
    table = StepTime(model="table", loads=(0, 10), seconds=(1.0, 2.0))
    assert step_costs(table, budget=7).budget == 7


@pytest.mark.parametrize(
    ("axes", "durations", "found"),
    [
        ({"loads": (0, 10, 100)}, (1, 5, 11), {"base_s": 1, "per_kv_token_s": 0.1}),
        ({"loads": (50, 100)}, (1, 2), {"base_s": 1, "per_kv_token_s": 0.02}),
        ({"sequences": (1, 5)}, (1, 3), {"base_s": 1, "per_sequence_s": 0.5}),
        ({"prefill_tokens": (0, 64)}, (1, 9), {"base_s": 1, "per_prefill_token_s": 0.125}),
        # Sequences, then loads, then prefill, each along the first of the others.
        (
            {"sequences": (0, 2), "loads": (0, 4), "prefill_tokens": (0, 8)},
            (1, 2, 3, 90, 5, 90, 90, 90),
            {
                "base_s": 1,
                "per_sequence_s": 2,
                "per_kv_token_s": 0.5,
                "per_prefill_token_s": 0.125,
            },
        ),
        # What falls costs nothing.
        ({"loads": (0, 10)}, (3, 2), {"base_s": 3}),
    ],
)
def test_a_table_is_told_by_its_secants(axes, durations, found):
    step_time = StepTime(model="table", seconds=tuple(map(float, durations)), **axes)
    assert step_costs(step_time) == StepCosts(**found)


@pytest.mark.parametrize("name", preset_names())
def test_hardware_that_is_known_tells_what_prefill_costs(name):
    step_time = step_time_of(name)
    costs = step_costs(step_time, budget=8192)
    assert costs.base_s == step_time.base
    prefill_s = costs.per_prefill_token_s + costs.per_mean_prefill_token_s
    # Papers' formulas go by KV tokens alone.
    assert (prefill_s > 0) == (step_time.model == "loads")
