"""What runs say of the step time they go by."""

from __future__ import annotations

import numpy as np
import pytest

from brsolver import SimulationParams, Trace, simulate
from brsolver.hardware.model import step_time_of
from brsolver.simulator import Arrivals, Prefill


def notes(hardware: str, slots: int, prefill: Prefill | None = None) -> str:
    trace = Trace(prompt_tokens=np.full(600, 20), output_tokens=np.full(600, 9))
    params = SimulationParams(
        workers=2,
        slots=slots,
        arrivals=Arrivals(pool=600),
        step_time=step_time_of(hardware),
        prefill=prefill or Prefill(),
    )
    return " ".join(simulate(trace, "jsq", params).notes)


@pytest.mark.parametrize(
    ("hardware", "slots", "told"),
    [
        ("minimax-m2.7-h200-dp4", 32, True),
        ("minimax-m2.7-h200-dp4", 100, False),
        ("minimax-m2.7-h200-dp4-experts", 32, False),
        ("bfio", 32, False),
    ],
)
def test_steps_outside_of_what_hardware_was_fitted_to_are_told(
    hardware: str, slots: int, *, told: bool
) -> None:
    assert ("64 to 512 sequences a worker" in notes(hardware, slots)) is told


@pytest.mark.parametrize(("hardware", "told"), [("bfio", True), ("minimax-m2.7-h200-dp4", False)])
def test_prefill_that_costs_nothing_is_told(hardware: str, *, told: bool) -> None:
    found = notes(hardware, 100, Prefill(mode="colocated"))
    assert ("prefill on the decode ranks costs nothing" in found) is told
