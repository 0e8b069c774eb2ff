"""Tables of operators tell what of a token is bound to its rank, or are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import made_operators as made
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import COSTS, grid, lasting, uneven

from brsolver.errors import ParameterError
from brsolver.hardware import read_hardware
from brsolver.hardware.fit import Limits, fit_steps
from brsolver.hardware.from_fit import hardware_of
from brsolver.hardware.operators import Operators, operators_of
from brsolver.hardware.readers.operator_tables import Table, read_tables
from brsolver.hardware.residuals import doubts

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.hardware.shape import Attention, Shape

RANGES: dict[str, Any] = {"prefill": (256, 4096), "sequences": (32, 256)}
INNER, OUTPUTS = 4 * 16, 4 * 16 + 2 * 2 * 16
PRODUCTS = made.PRODUCT * (64 * OUTPUTS + 64 * INNER + 64 * 8)
"""Milliseconds a token takes in the projections and the router of a layer."""
SHARED = made.RANKS * (made.EXPERTS + 2 * made.MESSAGE * 64)


def found(tables: dict[str, Table], shape: Shape = made.SHAPE, **changes: Any) -> Operators:
    return operators_of(tables, shape, **{"ranks": made.RANKS, **RANGES, **changes})


def in_memory(rows: made.Rows) -> dict[str, Table]:
    return {operator: made.table(operator, mine) for operator, mine in rows.items()}


@pytest.mark.parametrize("suffix", [".parquet", ".txt", ".csv"])
def test_straight_costs_give_their_shares(tmp_path: Path, suffix: str) -> None:
    told = found(read_tables(made.write(tmp_path, made.made_rows(), suffix)))
    bound = made.PREFILL + PRODUCTS
    assert told.prefill.shared == pytest.approx(SHARED / (SHARED + bound), rel=1e-6)
    assert told.prefill.each_s == pytest.approx(3e-3 * (SHARED + bound), rel=1e-6)
    assert told.prefill.read_s == pytest.approx(3e-3 * made.BEFORE, rel=1e-6)
    assert told.prefill.range == (2048, 4096)
    assert told.prefill.spread == pytest.approx((told.prefill.shared,) * 2, rel=1e-6)
    assert told.sequences is not None
    decode = made.DECODE + PRODUCTS
    assert told.sequences.shared == pytest.approx(SHARED / (SHARED + decode), rel=1e-6)
    assert told.sequences.read_s == pytest.approx(3e-3 * made.READ, rel=1e-6)
    assert told.sequences.range == (32, 256)
    assert [size.tokens for size in told.sizes] == list(made.CHUNKS)
    first = told.sizes[0]
    assert first.experts_s == pytest.approx(3e-3 * (0.2 + made.EXPERTS * 4 * 256))
    assert first.collectives_s == pytest.approx(3e-3 * 2 * (0.005 + made.MESSAGE * 4 * 256 * 64))
    assert first.projections_s == pytest.approx(3e-3 * (3 * 0.001 + PRODUCTS * 256))
    whole = first.experts_s + first.collectives_s
    own = first.attention_s + first.projections_s
    assert first.shared == pytest.approx(whole / (whole + own))


def test_products_between_measured_sizes_are_interpolated() -> None:
    rows = made.made_rows()
    rows["gemm"] = [row for row in rows["gemm"] if (row["n"], row["k"]) != (8, 64)]
    shape = replace(made.SHAPE, heads=6, experts=8)
    # 96 + 64 outputs, which lie between the 64 and 256 that were measured.
    for row in (*rows["context_attention"], *rows["generation_attention"]):
        row["num_heads"] = 6
    told = found(in_memory(rows), shape=shape)
    products = made.PRODUCT * (64 * 160 + 64 * 96 + 64 * 8)
    assert told.prefill.each_s == pytest.approx(3e-3 * (SHARED + made.PREFILL + products), rel=1e-6)


def test_what_small_products_take_is_their_launch() -> None:
    """Products that take no longer with 1,024 tokens than with 256 do not hide what tokens cost."""
    rows = made.made_rows(product=1e-7)
    for row in rows["gemm"]:
        row["latency"] = max(row["latency"], 1e-7 * 1024 * row["n"] * row["k"])
    rows["gemm"] += [
        {**row, "m": m, "latency": 0.001 + 1e-7 * max(m, 1024) * row["n"] * row["k"]}
        for m in (512, 1024, 2048)
        for row in rows["gemm"]
        if row["m"] == 1 and row["gemm_dtype"] != "int4"
    ]
    told = found(in_memory(rows))
    bound = made.PREFILL + PRODUCTS * 1e-7 / made.PRODUCT
    assert told.prefill.shared == pytest.approx(SHARED / (SHARED + bound), rel=0.01)
    low, high = told.prefill.spread
    assert low == pytest.approx(told.prefill.shared, rel=0.01)
    assert high > low + 0.05


@settings(deadline=None, max_examples=25)
@given(
    experts=st.floats(1e-7, 1e-2),
    prefill=st.floats(0, 1e-2),
    product=st.floats(0, 1e-6),
    more=st.floats(1.5, 20),
)
def test_more_expensive_experts_raise_shares(
    experts: float, prefill: float, product: float, more: float
) -> None:
    rows = made.made_rows(experts, product)
    for row in rows["context_attention"]:
        row["latency"] += prefill * row["isl"]
    once = found(in_memory(rows))
    for row in rows["moe"]:
        row["latency"] *= more
    again = found(in_memory(rows))
    for before, after in ((once.prefill, again.prefill), (once.sequences, again.sequences)):
        assert before is not None
        assert after is not None
        assert after.shared > before.shared
        assert after.each_s > before.each_s
        assert after.read_s == pytest.approx(before.read_s)
    assert all(a.shared > b.shared for a, b in zip(again.sizes, once.sizes, strict=True))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), noise=st.floats(0, 0.5))
def test_shares_are_shares_whatever_the_noise(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    rows = made.made_rows()
    for mine in rows.values():
        for row in mine:
            row["latency"] *= rng.uniform(1 - noise, 1 + noise)
    told = found(in_memory(rows))
    for slopes in (told.prefill, told.sequences):
        assert slopes is not None
        assert 0 <= slopes.spread[0] <= slopes.shared <= slopes.spread[1] <= 1
        assert slopes.each_s > 0
    assert all(0 < size.shared < 1 for size in told.sizes)


@pytest.mark.parametrize("attention", ["dsa", "mla"])
def test_modules_hold_their_projections(tmp_path: Path, attention: Attention) -> None:
    rows = made.made_rows()
    del rows["context_attention"], rows["generation_attention"]
    for phase in ("context", "generation"):
        operator = f"{attention}_{phase}_module"
        rows[operator] = made.module_rows(operator, prefill=phase == "context")
    shape = replace(
        made.SHAPE, attention=attention, architecture="MiniDsa", kv_heads=0, head_size=0,
        shared_experts=2, dense_layers=1, dense_size=100,
    )  # fmt: skip
    told = found(read_tables(made.write(tmp_path, rows)), shape=shape)
    # Three layers of the module and two of experts, one of them dense.
    experts = 2 * SHARED
    shared_expert = 2 * made.PRODUCT * (64 * 128 + 64 * 64)
    dense = made.PRODUCT * (64 * 200 + 64 * 100)
    own = 3 * 1e-3 + 2 * made.PRODUCT * 64 * 8 + shared_expert + dense
    assert told.prefill.each_s == pytest.approx(1e-3 * (experts + own), rel=1e-6)
    assert told.prefill.shared == pytest.approx(experts / (experts + own), rel=1e-6)
    assert told.sequences is not None
    assert told.sequences.read_s == pytest.approx(3e-3 * 1e-6, rel=1e-4)


def test_without_a_table_that_decodes_sequences_stay_bound() -> None:
    rows = made.made_rows()
    del rows["generation_attention"]
    told = found(in_memory(rows))
    assert told.sequences is None
    assert "generation_attention_perf is missing: sequences stay bound" in told.notes


def test_attention_that_does_not_grow_was_not_measured_working() -> None:
    rows = made.made_rows(product=0)
    for row in rows["context_attention"]:
        row["latency"] = 1.7
    assert not found(in_memory(made.made_rows())).doubts
    told = found(in_memory(rows))
    (doubt,) = told.doubts
    assert "5 ms with 256 tokens and 5 ms with 4,096: their launch was measured" in doubt
    assert doubt in doubts(fit_steps(lasting(grid()), Limits(operators=told)))


def without(operator: str) -> made.Rows:
    rows = made.made_rows()
    del rows[operator]
    return rows


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (made.made_rows(), {"ranks": 1}, "ranks are 1, must be at least 2: one rank shares with"),
        (made.made_rows(), {"ranks": 3}, "moe_ep_size is never 3 with .*; there is 2, 4"),
        (without("moe"), {}, "moe_perf is missing, must be beside gemm, nccl"),
        (without("nccl"), {}, "nccl_perf is missing"),
        (without("context_attention"), {}, "context_attention_perf is missing"),
        (
            made.made_rows(),
            {"prefill": (5000, 9000)},
            "prefill tokens of a rank are 256 to 4,096 where all operators were measured, must "
            "hold at least 2 sizes of the steps to fit, 5,000 to 9,000",
        ),
        (made.made_rows(), {"sequences": (64, 64)}, "sequences of a rank are .*at least 2 sizes"),
        (
            made.made_rows(),
            {"shape": replace(made.SHAPE, kv_dtype="bfloat16")},
            "kv_cache_dtype is never bfloat16 with .*; there is fp8",
        ),
        (
            made.made_rows(),
            {"shape": replace(made.SHAPE, router_dtype="float16")},
            "gemm_dtype is never float16; there is bfloat16, fp8, int4",
        ),
        (
            made.made_rows(),
            {"shape": replace(made.SHAPE, shared_experts=64)},
            "n is 4,096 in this model, must be from 4 to 512 as measured",
        ),
    ],
)
def test_what_is_missing_is_named(rows: made.Rows, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        found(in_memory(rows), **changes)


def test_operators_that_cost_nothing_more_are_refused() -> None:
    rows = made.made_rows()
    for mine in rows.values():
        for row in mine:
            row["latency"] = 1.0
    with pytest.raises(ParameterError, match="no operator takes longer from 2,048 to 4,096 tokens"):
        found(in_memory(rows))


def test_fits_take_both_shares_and_say_so() -> None:
    fit = fit_steps(lasting(grid()), Limits(operators=made.told(0.8, 0.75)))
    assert (fit.shared, fit.sequence_shared, fit.shared_source) == (0.8, 0.75, "operators")
    for name, cost in COSTS.items():
        assert getattr(fit, name) == pytest.approx(cost, rel=1e-6), name
    assert [each.shared for each in fit.sensitivity] == [0, 0.25, 0.5, 0.75, 0.8, 1]
    hardware = hardware_of(fit)
    step, evidence = hardware.step_time, hardware.fit
    assert step.per_sequence == pytest.approx(0.25 * 63e-6, rel=1e-4)
    assert step.per_mean_sequence == pytest.approx(0.75 * 63e-6, rel=1e-4)
    assert step.per_mean_prefill_token == pytest.approx(0.8 * 60e-6, rel=1e-4)
    assert step.request_tokens == fit.request_tokens == round(0.25 * 63e-6 / 41.6e-9)
    assert (evidence.shared_source, evidence.shared_tokens) == ("operators", (2, 4))
    told = [line for line in doubts(fit) if "tables of operators" in line]
    assert len(told) == 2
    assert "they add up to 10.0 µs of a prefill token, the steps to 60.0" in told[0]
    assert "were the rest all bound to its rank, 13% would be shared" in told[0]
    assert told[1].endswith("they add up to 100.0 µs of a sequence, the steps to 63.0")


def test_where_a_share_is_from_is_said() -> None:
    assert fit_steps(lasting(grid())).shared_source == "default"
    assert fit_steps(lasting(grid()), Limits(shared=0.5)).shared_source == "option"
    assert fit_steps(lasting(grid(), 0.0, dp=1)).shared_source == "one rank"
    assert fit_steps(lasting(uneven(300, 4, 1), 0.25)).shared_source == "steps"
    only_prefill = fit_steps(lasting(grid()), Limits(operators=made.told(0.8)))
    assert only_prefill.sequence_shared == 0
    with pytest.raises(ParameterError, match=r"shared is 0.5 and operators are given, must be one"):
        Limits(shared=0.5, operators=made.told(0.5))


@settings(deadline=None, max_examples=20)
@given(shared=st.floats(0, 1), sequences=st.floats(0, 0.9), seed=st.integers(0, 1000))
def test_steps_of_ranks_that_differ_fit_with_shares_given(
    shared: float, sequences: float, seed: int
) -> None:
    steps = lasting(uneven(400, 4, seed), shared, dp=4, sequence_shared=sequences)
    fit = fit_steps(steps, Limits(operators=made.told(shared, sequences)))
    assert (fit.shared, fit.sequence_shared) == (shared, sequences)
    for name, cost in COSTS.items():
        assert getattr(fit, name) == pytest.approx(cost, rel=0.02, abs=1e-15), name
    np.testing.assert_allclose(fit.seconds(steps), steps.seconds, rtol=0.01)


def test_presets_of_operators_are_those_of_the_same_fit_shared_otherwise() -> None:
    for dp in (2, 4):
        half = read_hardware(f"minimax-m2.7-h200-dp{dp}").step_time
        step = read_hardware(f"minimax-m2.7-h200-dp{dp}-operators").step_time
        for name in ("sequence", "prefill_token"):
            bound, shared = f"per_{name}", f"per_mean_{name}"
            assert getattr(step, bound) + getattr(step, shared) == pytest.approx(
                getattr(half, bound) + getattr(half, shared), rel=1e-4
            )
        assert (step.base, step.per_token) == (half.base, half.per_token)
        assert step.request_tokens < half.request_tokens / 3
