"""What a reader of a run's times must know of the step time they go by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.hardware.model import preset_names, read_hardware

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.hardware.step_time import StepTime
    from brsolver.results.logs import StepLog
    from brsolver.simulator.params import SimulationParams

MOST = 0.5
"""Share of steps outside of what was fitted from which a note says so."""


def cost_notes(params: SimulationParams, steps: StepLog, outside: int) -> Iterator[str]:
    """Yield notes on the step time of a run.

    Parameters
    ----------
    params : SimulationParams
    steps : StepLog
    outside : int
        Steps outside a measured table.
    """
    model = params.step_time
    if outside:
        yield f"{outside:,} of {len(steps):,} steps lay outside the measured table of step times"
    if params.prefill.colocated and not _prefill_costs(model):
        yield "prefill on the decode ranks costs nothing by this step time"
    span = _fitted_sequences(model)
    if span is None or not len(steps):
        return
    each = steps.active / np.maximum(steps.alive, 1)
    if np.mean((each < span[0]) | (each > span[1])) > MOST:
        # Without figures, so that all runs of a comparison say the same once.
        yield (
            f"most steps decode fewer or more than the {span[0]:g} to {span[1]:g} sequences a "
            f"worker that {model.hardware} was fitted to"
        )


def _prefill_costs(model: StepTime) -> bool:
    if model.model == "table":
        return bool(model.prefill_tokens)
    return any(
        (
            model.per_prefill_token,
            model.per_mean_prefill_token,
            model.per_prefill_context,
            model.per_mean_prefill_context,
        )
    )


def _fitted_sequences(model: StepTime) -> tuple[float, float] | None:
    """Return between which numbers of sequences a preset was measured, if the model is one."""
    if model.hardware not in preset_names():
        return None
    known = read_hardware(model.hardware)
    span = known.fit.sequences if known.step_time == model else None
    return None if span is None else (span[0], span[1])
