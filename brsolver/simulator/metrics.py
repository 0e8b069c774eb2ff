"""From the logs of a run to its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver._version import __version__
from brsolver.simulator.result import LoadSamples, Metrics, RequestLog, RequestStatus, StepLog

if TYPE_CHECKING:
    from brsolver.simulator.params import SimulationParams

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def window_of(steps: StepLog, last_admission: int, params: SimulationParams) -> tuple[int, int]:
    """Return the first and one past the last step that averages cover.

    With ``drain="exclude"`` it ends at the last admission, as in [BFIO]; a run that admits
    everything at its first step has no such window and is averaged whole.
    """
    end = len(steps)
    if params.drain == "exclude" and last_admission > 0:
        end = last_admission
    return min(params.warmup_steps, end), end


def compute_metrics(
    *,
    policy: str,
    params: SimulationParams,
    output_tokens: IntArray,
    requests: RequestLog,
    steps: StepLog,
    samples: LoadSamples,
    last_admission: int,
    dispatch_us: FloatArray,
    wall_s: float,
) -> Metrics:
    """Compute the figures of one run; see `Metrics` for their definitions."""
    first, end = window_of(steps, last_admission, params)
    window = slice(first, end)
    done = requests.status == RequestStatus.FINISHED
    tpot = (requests.finish_s[done] - requests.start_s[done]) / output_tokens[done]
    wait = (requests.start_s - requests.ready_s)[~np.isnan(requests.start_s)]
    ttft = (requests.first_token_s - requests.arrival_s)[~np.isnan(requests.first_token_s)]
    seconds = float(steps.duration_s[window].sum())
    active = float(steps.active[window].sum())
    last_end = float(steps.start_s[-1] + steps.duration_s[-1]) if len(steps) else 0.0
    return Metrics(
        policy=policy,
        workers=params.workers,
        slots=max(params.slots_each()),
        requests=int(done.size),
        finished=int(done.sum()),
        unfinished=int((~done).sum()),
        steps=len(steps),
        window_first=first,
        window_end=end,
        makespan_s=last_end,
        barrier_time=float(steps.load_max.sum()),
        throughput_tok_s=active / seconds if seconds > 0 else np.nan,
        avg_imbalance_sum=_mean(steps.imbalance_sum()[window]),
        avg_imbalance_range=_mean(steps.imbalance_range()[window]),
        idle_rate=_idle(steps.load_max, steps.load_sum, steps.alive, window),
        energy_j=_total(steps.energy_j[window]),
        avg_imbalance_sum_post=_mean((steps.alive * steps.post_max - steps.post_sum)[window]),
        avg_imbalance_range_post=_mean((steps.post_max - steps.post_min)[window]),
        idle_rate_post=_idle(steps.post_max, steps.post_sum, steps.alive, window),
        energy_j_post=_total(steps.post_energy_j[window]),
        tpot_mean_s=_mean(tpot),
        tpot_p50_s=_percentile(tpot, 50),
        tpot_p95_s=_percentile(tpot, 95),
        tpot_p99_s=_percentile(tpot, 99),
        queue_mean_s=_mean(wait),
        queue_p95_s=_percentile(wait, 95),
        queue_p99_s=_percentile(wait, 99),
        ttft_mean_s=_mean(ttft),
        ttft_p95_s=_percentile(ttft, 95),
        ttft_p99_s=_percentile(ttft, 99),
        max_wait_s=float(wait.max()) if wait.size else np.nan,
        jain_workers=_jain(samples, first, end),
        slot_utilization=_mean(steps.active[window] / steps.slots[window]),
        preemptions=int(requests.preemptions.sum()),
        decisions=int(dispatch_us.size),
        dispatch_us_p50=_percentile(dispatch_us, 50),
        dispatch_us_p99=_percentile(dispatch_us, 99),
        dispatch_us_max=float(dispatch_us.max()) if dispatch_us.size else np.nan,
        wall_s=wall_s,
        seed=params.seed,
        version=__version__,
    )


def _mean(values: NDArray[np.number]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _total(values: FloatArray) -> float:
    return float(values.sum()) if values.size else float("nan")


def _percentile(values: FloatArray, percent: float) -> float:
    return float(np.percentile(values, percent)) if values.size else float("nan")


def _idle(top: IntArray, total: IntArray, alive: IntArray, window: slice) -> float:
    """Return the mean over steps of ``I(k)/(G·M(k))``, 0 where no worker has any load."""
    capacity = (alive * top)[window].astype(np.float64)
    lost = capacity - total[window]
    return _mean(np.divide(lost, capacity, out=np.zeros_like(lost), where=capacity > 0))


def _jain(samples: LoadSamples, first: int, end: int) -> float:
    """Return Jain's index ``(Σx)²/(G·Σx²)`` over the workers' mean sampled loads."""
    inside = (samples.step >= first) & (samples.step < end)
    if not inside.any():
        return float("nan")
    mean = samples.load[inside].mean(axis=0)
    square = float((mean**2).sum()) * mean.size
    return float(mean.sum()) ** 2 / square if square > 0 else float("nan")
