"""The simulator held against the real server: step times fitted, imbalance foretold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

from brsolver.errors import TraceError
from brsolver.hardware.step_time import StepTime
from brsolver.simulator import SimulationParams, simulate
from brsolver.simulator.components import Arrivals, Staleness

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.results.result import SimulationResult
    from integration.bench.arms import Arm
    from integration.bench.steps import Steps
    from integration.bench.workload import Workload

FEWEST_STEPS = 30
TYPICAL_ERROR = 0.05
"""Relative error from which on a step counts for less and less."""
TRANSIT_STEPS = 1
"""What is sent when a step has ended finds the next one under way."""
STARTS = 8
"""Runs that each begin a request later: where a request goes changes all that come after."""
VLLM_PUBLISHES_MS = 100.0
"""How often vLLM's coordinator publishes the counts that its own rule decides on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFit:
    """Duration of a decode step: ``base + per_token·max_g L_g + per_sequence·max_g B_g``.

    Attributes
    ----------
    base_s, per_token_s, per_sequence_s : float
        In seconds.
    error : float
        Median over steps of the relative error.
    steps : int
        Steps that were fitted.
    """

    base_s: float
    per_token_s: float
    per_sequence_s: float
    error: float
    steps: int

    def step_time(self, slots: int) -> StepTime:
        """Return the simulator's model, which knows loads only, for ranks that are full."""
        return StepTime(base=self.base_s + self.per_sequence_s * slots, per_token=self.per_token_s)


def fit_step_time(steps: Steps) -> StepFit:
    """Fit decode steps, robustly: a step that something else held up counts little.

    Parameters
    ----------
    steps : Steps
        Of any runs; steps with prompts in them are left out.

    Raises
    ------
    TraceError
        If fewer than `FEWEST_STEPS` steps only decode.
    """
    running = steps.running.sum(axis=1)
    decoding = (
        (steps.scheduled.sum(axis=1) == running) & (running > 0) & ~np.isnan(steps.duration_s)
    )
    used = steps.where(decoding)
    if len(used) < FEWEST_STEPS:
        raise TraceError(f"{len(used)} decode steps, a fit needs at least {FEWEST_STEPS}")
    sequences = used.running.max(axis=1).astype(np.float64)
    terms = np.stack([np.ones(len(used)), used.kv_tokens.max(axis=1) / 1000, sequences], axis=1)
    solution = _robust(terms, used.duration_s)
    error = np.abs(terms @ solution - used.duration_s) / used.duration_s
    return StepFit(
        base_s=float(solution[0]),
        per_token_s=float(solution[1]) / 1000,
        per_sequence_s=float(solution[2]),
        error=float(np.median(error)),
        steps=len(used),
    )


def _robust(terms: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    typical = float(np.median(seconds))
    # Negative costs are noise: with the slots always full, sequences say nothing.
    fitted = least_squares(
        lambda x: (terms @ x - seconds) / typical,
        np.array([typical, typical / 100, typical / 100]),
        bounds=(np.zeros(3), np.full(3, np.inf)),
        loss="cauchy",
        f_scale=TYPICAL_ERROR,
        x_scale="jac",
    )
    return np.asarray(fitted.x, np.float64)


def predicted_imbalance(
    arm: Arm, workload: Workload, fit: StepFit, *, ranks: int, slots: int, waiting: int
) -> float:
    """Return the max/mean KV of simulated runs of the same requests, the mean of `STARTS`.

    Parameters
    ----------
    arm : Arm
    workload : Workload
    fit : StepFit
    ranks, slots : int
        The real server's.
    waiting : int
        Requests in flight beyond the slots.
    """
    params = SimulationParams(
        workers=ranks,
        slots=slots,
        routing="pooled" if arm.mode == "pooled" else "immediate",
        arrivals=Arrivals(mode="pool", pool=max(waiting, 1)),
        step_time=fit.step_time(slots),
        transit_steps=TRANSIT_STEPS,
        staleness=staleness_of(arm),
    )
    return float(
        np.mean(
            [
                _imbalance(
                    simulate(workload.trace.after(start), arm.policy, params),
                    in_flight=ranks * slots + waiting,
                )
                for start in range(min(STARTS, len(workload.trace)))
            ]
        )
    )


def staleness_of(arm: Arm) -> Staleness:
    """Return what an arm decides on: vLLM's own rule on counts that are published now and then."""
    if arm.mode in {"", "observe"}:
        return Staleness(ms=VLLM_PUBLISHES_MS, mode="periodic", local_correction=True)
    return Staleness()


def _imbalance(result: SimulationResult, in_flight: int) -> float:
    """Max/mean over the steps that the real run's window covers; see `session.Window`."""
    ends = np.sort(result.requests.finish_s)
    last_sent = ends[max(len(ends) - in_flight - 1, 0)]
    steps = result.steps
    inside = (steps.start_s >= ends[0]) & (steps.start_s < last_sent)
    envelope = steps.load_max[inside].sum()
    mean = (steps.load_sum / steps.alive)[inside].sum()
    return float(envelope / mean) if mean > 0 else float("nan")
