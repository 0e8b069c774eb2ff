from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.patches import StepPatch

from brsolver.report.style import styled
from brsolver.report.time_figures import time_by_policy, time_over_time, told
from brsolver.results.barrier import TimeLost
from brsolver.results.curves import curves_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from brsolver.results.curves import Curves
    from brsolver.results.result import SimulationResult
    from brsolver.traces.trace import Trace

NOTHING = TimeLost(prefill=0.0, sequences=0.0, kv=0.0, padding=0.0)


@pytest.fixture
def curves(
    result_maker: Callable[..., SimulationResult], trace_maker: Callable[..., Trace]
) -> Curves:
    trace = trace_maker()
    return curves_of(result_maker(trace=trace), trace.prompt_tokens, trace.output_tokens)


def with_share(curves: Curves, **parts: float) -> Curves:
    share = replace(NOTHING, **parts)
    return replace(curves, bands=replace(curves.bands, share=share, mean_step_s=0.05))


def said(curves: Curves, **parts: float) -> str:
    (text,) = told({"p": with_share(curves, **parts)})
    return text


def test_losses_are_told_by_size(curves: Curves) -> None:
    assert said(curves, prefill=0.2, kv=0.3, padding=0.0001) == (
        "p: a step took 50 ms on average, and 50.0 % of the time was lost at the barrier: "
        "30.0 % to KV tokens and 20.0 % to prefill."
    )


def test_one_cause_has_all_of_it(curves: Curves) -> None:
    assert said(curves, kv=0.029).endswith(
        "2.9 % of the time was lost at the barrier, to KV tokens."
    )


def test_what_pays_back_is_told(curves: Curves) -> None:
    assert said(curves, prefill=0.2, kv=-0.05) == (
        "p: a step took 50 ms on average, and 15.0 % of the time was lost at the barrier: "
        "20.0 % to prefill, less 5.0 % of KV tokens, which the slowest worker had fewer of "
        "than the mean."
    )


def test_no_loss_is_told(curves: Curves) -> None:
    assert said(curves).endswith("next to none of it was lost at the barrier.")
    assert told({"p": with_share(curves, kv=math.nan)}) == ("p: no step to average.",)


def test_bands_are_drawn_to_the_height_of_the_step(curves: Curves) -> None:
    with styled():
        axes = time_over_time({"fcfs": curves}).axes[0]
    patches = [p for p in axes.patches if isinstance(p, StepPatch)]
    names = [p.get_label() for p in patches]
    assert names == ["at zero load", "work at the mean load", "lost to KV tokens"]
    assert patches[-1].get_data().values == pytest.approx(curves.bands.step_s * 1e3)


def test_bars_are_as_long_as_the_mean_step(curves: Curves) -> None:
    with styled():
        axes = time_by_policy({"a": curves, "b": with_share(curves, prefill=0.5)}).axes[0]
    ends = [
        max(bar.get_x() + bar.get_width() for bar in bars)
        for bars in zip(*axes.containers, strict=True)
    ]
    assert ends == pytest.approx([curves.bands.mean_step_s * 1e3, 50.0])


@pytest.mark.parametrize("draw", [time_over_time, time_by_policy])
def test_a_run_without_steps_is_drawn(
    curves: Curves, draw: Callable[[dict[str, Curves]], object]
) -> None:
    empty = replace(
        curves.bands, edges_s=np.zeros(1), step_s=np.empty(0), lost_s=np.empty((4, 0)),
        mean_step_s=math.nan, share=replace(NOTHING, kv=math.nan),
    )  # fmt: skip
    with styled():
        draw({"empty": replace(curves, bands=empty), "other": curves})
        draw({"empty": replace(curves, bands=empty)})
