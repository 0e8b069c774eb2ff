"""What `bench_gain` holds its own figures to."""

from __future__ import annotations

import pytest

from benchmarks.bench_gain import PROMISED, broken_promises, gain
from integration.serve.comparison import POOLED, VLLM


def row(speed):
    return {"throughput_tok_s": 100 * speed, "tpot_p95_ms": 50 / speed, "e2e_p95_ms": 900 / speed}


@pytest.mark.parametrize("figure", PROMISED)
def test_gains_of_rates_and_times_are_of_one_kind(figure):
    assert gain(row(1.5), row(1.0), figure) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("speed", "foretold", "broken"),
    [(1.5, 1.5, 0), (1.5, 1.6, 0), (1.5, 1.4, 3), (1.3, 1.5, 3), (0.9, 1.5, 3), (0.9, 0.9, 3)],
)
def test_what_is_no_gain_or_not_the_simulators_is_told(speed, foretold, broken):
    rows = {VLLM.name: row(1.0), POOLED.name: row(speed)}
    said = {VLLM.name: row(1.0), POOLED.name: row(foretold)}
    lines = list(broken_promises(rows, said))
    assert len(lines) == broken
    assert all(VLLM.name in line for line in lines)
