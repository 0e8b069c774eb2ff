"""How long steps last: kernels against the plain reference, and what the parts of a step are."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver import SimulationParams, Trace, simulate
from brsolver.errors import ParameterError
from brsolver.hardware import _step_kernels as sk
from brsolver.hardware.reference import measured, step_parts
from brsolver.hardware.step_arrays import balanced_seconds, step_time_arrays
from brsolver.hardware.step_time import AXES, BOUND, SHARED, StepTime

COEFFICIENTS = st.one_of(st.just(0.0), st.floats(1e-9, 1e-2))
GRAPHS = st.lists(st.integers(1, 60), max_size=4, unique=True).map(lambda s: tuple(sorted(s)))
SHARES = st.floats(1e-6, 1)
AXIS = st.lists(st.integers(0, 300), min_size=2, max_size=4, unique=True).map(
    lambda s: tuple(float(x) for x in sorted(s))
)


@st.composite
def linear_models(draw: st.DrawFn) -> StepTime:
    each: dict[str, Any] = {name: draw(COEFFICIENTS) for name in (*BOUND, *SHARED)}
    return StepTime(
        model="loads", base=draw(st.floats(1e-6, 1.0)), **each, graph_sizes=draw(GRAPHS)
    )


@st.composite
def tables(draw: st.DrawFn) -> StepTime:
    names = draw(st.sampled_from([["loads"], ["sequences"], ["sequences", "loads"], list(AXES)]))
    axes: dict[str, Any] = {name: draw(AXIS) for name in names}
    count = math.prod(map(len, axes.values()))
    seconds = tuple(draw(st.lists(st.floats(1e-3, 2.0), min_size=count, max_size=count)))
    return StepTime(model="table", **axes, seconds=seconds)


RANKS = st.lists(st.tuples(*[st.integers(0, 400)] * 4), min_size=1, max_size=6)


def loads_of(ranks: list[tuple[int, ...]], gone: int = 0) -> np.ndarray:
    loads = np.array([*ranks, *[(sk.GONE, 0, 0, 0)] * gone], np.int64).T
    return np.ascontiguousarray(loads)


@settings(max_examples=300, deadline=None)
@given(st.one_of(linear_models(), tables()), RANKS, st.integers(0, 2), st.booleans())
def test_kernel_and_reference_agree(
    model: StepTime, ranks: list[tuple[int, ...]], gone: int, no_prefill: bool
) -> None:
    if no_prefill:
        ranks = [(n, tokens, 0, 0) for n, tokens, _, _ in ranks]
    found = sk.step_parts(*step_time_arrays(model), loads_of(ranks, gone))
    assert found == pytest.approx(step_parts(model, *zip(*ranks, strict=True)), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.one_of(linear_models(), tables()), RANKS)
def test_what_is_lost_is_what_an_even_step_would_save(
    model: StepTime, ranks: list[tuple[int, ...]]
) -> None:
    found = step_parts(model, *zip(*ranks, strict=True))
    mean = [sum(row) / len(ranks) for row in zip(*ranks, strict=True)]
    even = {name: getattr(model, name) for name in (*BOUND, *SHARED)}
    if model.model == "table":
        level = measured(model, *mean[:3])
    else:
        weights = [even[b] + even[s] for b, s in zip(BOUND, SHARED, strict=True)]
        tokens = sum(n + prefill for n, _, prefill, _ in ranks)
        experts = model.all_experts * (1 - (1 - model.expert_share) ** tokens)
        level = model.base + experts + sum(w * x for w, x in zip(weights, mean, strict=True))
    lost = found.lost_sequences + found.lost_kv + found.lost_prefill + found.lost_padding
    assert found.seconds - level == pytest.approx(lost, abs=1e-9)
    if model.model == "loads":
        assert lost >= -1e-12


@settings(max_examples=100, deadline=None)
@given(tables(), RANKS)
def test_a_table_is_never_left_below_its_edge(
    model: StepTime, ranks: list[tuple[int, ...]]
) -> None:
    for n, tokens, prefill, _ in ranks:
        assert measured(model, n, tokens, prefill) >= min(model.seconds) * (1 - 1e-12)
    if model.loads and not (model.sequences or model.prefill_tokens):
        last = model.loads[-1]
        assert measured(model, 0, last + 1e6, 0) >= model.seconds[-1]
        assert measured(model, 0, -5.0, 0) == model.seconds[0]


def test_counts_are_padded_to_the_largest_ranks_graph_unless_somebody_prefills() -> None:
    model = StepTime(
        model="loads", base=1.0, per_sequence=0.1, per_mean_sequence=0.01, per_token=0.0,
        graph_sizes=(4, 8),
    )  # fmt: skip
    found = step_parts(model, [1, 5], [0, 0])
    assert found.seconds == pytest.approx(1 + 0.11 * 8)
    assert found.lost_sequences == pytest.approx(0.11 * 2)
    assert found.lost_padding == pytest.approx(0.11 * 3)
    assert step_parts(model, [1, 50], [0, 0]).lost_padding == 0
    eager = step_parts(model, [1, 5], [0, 0], [1, 0], [0, 0])
    assert eager.seconds == pytest.approx(1 + 0.1 * 5 + 0.01 * 3)


def test_a_request_weighs_as_many_tokens_as_its_sequence_costs() -> None:
    model = StepTime(model="loads", per_sequence=63e-6, per_token=41.6e-9)
    assert model.request_tokens == 1514
    assert StepTime().request_tokens == 0
    assert StepTime(model="loads", per_sequence=1e-6, per_token=0.0).request_tokens == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"per_sequence": 1e-6}, "per_sequence is given, but model 'affine' does not use it"),
        ({"model": "loads", "per_prefill_token": -1}, "per_prefill_token is -1"),
        ({"model": "loads", "per_token": math.nan}, "per_token is nan"),
        ({"model": "loads", "graph_sizes": (4, 4)}, "graph_sizes is 4 and then 4"),
        (
            {"model": "loads", "all_experts": 0.01},
            "all_experts is 0.01 and expert_share 0, must be",
        ),
        ({"model": "loads", "graph_sizes": (0,)}, "graph size is 0, must be at least 1"),
        (
            {"model": "table", "loads": (0, 1), "sequences": (1, 2), "seconds": (1, 1, 1)},
            "seconds has 3 entries, must have 4, one for each combination of sequences, loads",
        ),
        ({"model": "table", "sequences": (2, 1), "seconds": (1, 1)}, "sequences is 2 and then 1"),
    ],
)
def test_bad_models_are_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        StepTime(**model)


@pytest.mark.parametrize(
    ("loads", "seconds"), [((0, 1000), (0.02, 0.01)), ((0, 500, 1000), (0.01, 0.03, 0.02))]
)
def test_a_noisy_last_row_makes_no_step_free(
    loads: tuple[int, ...], seconds: tuple[float, ...]
) -> None:
    trace = Trace(prompt_tokens=np.full(40, 5000), output_tokens=np.full(40, 50))
    model = StepTime(model="table", loads=loads, seconds=seconds)
    result = simulate(trace, "jsq", SimulationParams(workers=2, slots=4, step_time=model))
    assert result.steps.duration_s.min() == seconds[-1]
    assert any("steps lay outside the measured table" in note for note in result.notes)


def test_runs_log_what_each_load_cost() -> None:
    trace = Trace(prompt_tokens=np.array([30, 10]), output_tokens=np.array([2, 5]))
    model = StepTime(model="loads", base=1.0, per_sequence=0.5, per_token=0.1)
    steps = simulate(
        trace, "round-robin", SimulationParams(workers=2, slots=1, step_time=model)
    ).steps
    assert steps.duration_s[:3] == pytest.approx([4.5, 4.6, 2.7])
    assert steps.lost_kv_s[:3] == pytest.approx([1.0, 1.0, 0.6])
    assert steps.lost_sequences_s[:3] == pytest.approx([0, 0, 0.25])
    assert steps.lost_s()[2] == pytest.approx(0.85)


def test_the_balanced_step_is_a_step_of_equal_ranks() -> None:
    model = StepTime(
        model="loads", base=1.0, per_sequence=0.5, per_mean_sequence=0.25, per_token=0.1
    )
    model = replace(model, all_experts=2.0, expert_share=0.1)
    even = step_parts(model, [3, 3], [7, 7]).seconds
    assert balanced_seconds(model, 3, 7, 2) == pytest.approx(even)
    assert even == pytest.approx(1 + 0.75 * 3 + 0.1 * 7 + 2 * (1 - 0.9**6))


def test_durations_do_not_fall_where_the_table_rises() -> None:
    model = StepTime(model="table", sequences=(1, 8), loads=(0, 100), seconds=(1.0, 2.0, 3.0, 5.0))
    found = [measured(model, n, 60, 0) for n in range(20)]
    assert all(a <= b for a, b in pairwise(found))
    assert measured(model, 4.5, 50, 0) == pytest.approx(2.75)


def test_the_balanced_step_of_padded_counts_is_padded() -> None:
    model = StepTime(model="loads", base=1.0, per_sequence=0.5, graph_sizes=(4, 8))
    assert balanced_seconds(model, 4.5, 0, 2) == pytest.approx(step_parts(model, [5], [0]).seconds)
