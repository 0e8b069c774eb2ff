"""The figures of a run, from its logs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brsolver._version import __version__
from brsolver.results.barrier import time_lost
from brsolver.results.logs import LoadSamples, RequestLog, RequestStatus, StepLog
from brsolver.results.objectives import goodput
from brsolver.results.waiting import growth, rank_figures

if TYPE_CHECKING:
    from brsolver.simulator.params import SimulationParams

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Figures of one run. Averages cover the window of steps `window_first:window_end`.

    `_s` is seconds, `_us` microseconds, `_j` joules. Loads are KV tokens, with `request_tokens` of
    the parameters that for every request besides: `barrier_time` is ``Σ_k max_g (L_g + κ·n_g)``,
    and imbalances, idle rates and energies go by the same. TPOT is per request
    as of `RequestLog.tpot_s`; TTFT is from arrival to the end of the step of the first token,
    `ttft_early_s`, `ttft_late_s` and `ttft_growth` how it grows along the run, see `Growth`;
    `e2e_*` is from arrival to the last token, of those that finished; `queue_*` is from routable
    to admitted, `rank_queue_*` how many waited for a worker, in the mean over the run: of the mean
    worker and of the worst, see `RankFigures`; `jain_workers` is Jain's index over the workers'
    mean loads in the window. `time_lost_*` are shares of the time of the window's steps, see
    `TimeLost`; `throughput_tok_s` and `goodput_*` are per second of the window, those in which
    nothing ran among them; `goodput_*` and `slo_met_share` are of requests that met the run's
    objectives, see `Goodput`; `prefill_tokens` were computed in all of the run, `cached_tokens` of
    the prompts that started needed no prefill, `cached_share` of them; `held_mean` requests waited,
    in the mean step, although slots were free, for the policy held them or no KV tokens were left;
    `migrations` are moves of running requests, and `migrated_tokens` the KV tokens moved. A
    figure nothing was measured for is NaN.
    """

    policy: str
    workers: int
    slots: int
    requests: int
    finished: int
    unfinished: int
    steps: int
    window_first: int
    window_end: int
    step_mean_s: float
    step_p50_s: float
    step_p95_s: float
    step_p99_s: float
    time_lost_share: float
    time_lost_prefill_share: float
    time_lost_sequences_share: float
    time_lost_kv_share: float
    time_lost_padding_share: float
    makespan_s: float
    barrier_time: float
    throughput_tok_s: float
    goodput_req_s: float
    goodput_tok_s: float
    slo_met_share: float
    prefill_tokens: int
    cached_tokens: int
    cached_share: float
    avg_imbalance_sum: float
    avg_imbalance_range: float
    idle_rate: float
    energy_j: float
    avg_imbalance_sum_post: float
    avg_imbalance_range_post: float
    idle_rate_post: float
    energy_j_post: float
    tpot_mean_s: float
    tpot_p50_s: float
    tpot_p95_s: float
    tpot_p99_s: float
    queue_mean_s: float
    queue_p95_s: float
    queue_p99_s: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    ttft_early_s: float
    ttft_late_s: float
    ttft_growth: float
    e2e_mean_s: float
    e2e_p50_s: float
    e2e_p90_s: float
    e2e_p95_s: float
    e2e_p99_s: float
    rank_queue_mean: float
    rank_queue_max: float
    max_wait_s: float
    jain_workers: float
    slot_utilization: float
    held_mean: float
    preemptions: int
    migrations: int
    migrated_tokens: int
    decisions: int
    dispatch_us_p50: float
    dispatch_us_p99: float
    dispatch_us_max: float
    wall_s: float
    seed: int
    version: str

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary in field order."""
        return asdict(self)


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
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    requests: RequestLog,
    steps: StepLog,
    samples: LoadSamples,
    last_admission: int,
    migrated_tokens: int,
    dispatch_us: FloatArray,
    wall_s: float,
) -> Metrics:
    """Compute the figures of one run; see `Metrics` for their definitions."""
    first, end = window_of(steps, last_admission, params)
    window = slice(first, end)
    done = requests.status == RequestStatus.FINISHED
    tpot = requests.tpot_s(output_tokens)[done]
    tpot = tpot[~np.isnan(tpot)]
    wait = (requests.start_s - requests.ready_s)[~np.isnan(requests.start_s)]
    ttft = requests.ttft_s()[~np.isnan(requests.first_token_s)]
    e2e = requests.e2e_s()[done]
    grown = growth(requests, steps.end_s())
    queues = rank_figures(requests, samples.load, steps.end_s()).queue
    duration = steps.duration_s[window]
    seconds, lost = steps.span_s(window), time_lost(steps, window)
    met = goodput(
        params, requests=requests, steps=steps, output_tokens=output_tokens, window=window
    )
    active = float(steps.active[window].sum())
    begun = int(prompt_tokens[requests.start_step >= 0].sum())
    cached = int(requests.cached_tokens.sum())
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
        step_mean_s=_mean(duration),
        step_p50_s=_percentile(duration, 50),
        step_p95_s=_percentile(duration, 95),
        step_p99_s=_percentile(duration, 99),
        time_lost_share=lost.total,
        time_lost_prefill_share=lost.prefill,
        time_lost_sequences_share=lost.sequences,
        time_lost_kv_share=lost.kv,
        time_lost_padding_share=lost.padding,
        makespan_s=steps.end_s(),
        barrier_time=float(steps.load_max.sum()),
        throughput_tok_s=active / seconds if seconds > 0 else np.nan,
        goodput_req_s=met.requests_s,
        goodput_tok_s=met.tokens_s,
        slo_met_share=met.share,
        prefill_tokens=int(steps.prefill_tokens.sum()),
        cached_tokens=cached,
        cached_share=cached / begun if begun else np.nan,
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
        ttft_p50_s=_percentile(ttft, 50),
        ttft_p90_s=_percentile(ttft, 90),
        ttft_p95_s=_percentile(ttft, 95),
        ttft_p99_s=_percentile(ttft, 99),
        ttft_early_s=grown.early_s,
        ttft_late_s=grown.late_s,
        ttft_growth=grown.rate,
        e2e_mean_s=_mean(e2e),
        e2e_p50_s=_percentile(e2e, 50),
        e2e_p90_s=_percentile(e2e, 90),
        e2e_p95_s=_percentile(e2e, 95),
        e2e_p99_s=_percentile(e2e, 99),
        rank_queue_mean=_mean(queues),
        rank_queue_max=float(queues.max()),
        max_wait_s=float(wait.max()) if wait.size else np.nan,
        jain_workers=_jain(samples, first, end, params.request_weight),
        slot_utilization=_mean(steps.active[window] / steps.slots[window]),
        held_mean=_mean(steps.held[window]),
        preemptions=int(requests.preemptions.sum()),
        migrations=int(requests.migrations.sum()),
        migrated_tokens=migrated_tokens,
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


def _idle(envelope: IntArray, total: IntArray, alive: IntArray, window: slice) -> float:
    """Return the mean over steps of ``I(k)/(G·M(k))``, 0 where no worker has any load."""
    capacity = (alive * envelope)[window].astype(np.float64)
    lost = capacity - total[window]
    return _mean(np.divide(lost, capacity, out=np.zeros_like(lost), where=capacity > 0))


def _jain(samples: LoadSamples, first: int, end: int, request_tokens: int) -> float:
    """Return Jain's index ``(Σx)²/(G·Σx²)`` over the workers' mean sampled loads."""
    inside = (samples.step >= first) & (samples.step < end)
    if not inside.any():
        return float("nan")
    load = samples.load[inside]
    if request_tokens:
        load = load + request_tokens * samples.running[inside]
    mean = load.mean(axis=0)
    square = float((mean**2).sum()) * mean.size
    return float(mean.sum()) ** 2 / square if square > 0 else float("nan")
