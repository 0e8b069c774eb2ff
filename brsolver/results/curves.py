"""What figures draw of a run, thinned so that it stays small between processes."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.results.barrier import StepBands, lost_by_part, time_lost
from brsolver.results.logs import RequestLog, RequestStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from brsolver.results.result import SimulationResult

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

LOAD_POINTS = 2000
IMBALANCE_POINTS = 400
BANDS = 150
WAVE_STEPS = 300
GANTT_REQUESTS = 3000
GANTT_LANES = 512
GANTT_MEAN_STAYS = 4.0
PROBABILITIES: FloatArray = np.linspace(0.0, 1.0, 1001)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Gantt:
    """Requests on slots within a window of time.

    Attributes
    ----------
    first_s, last_s : float
        The window, in seconds.
    worker, lane : ndarray of int64, shape (n,)
        Worker of each request, and its lane on that worker, counted from 0.
    start_s, end_s : ndarray of float64, shape (n,)
        When it held the slot.
    prompt_tokens : ndarray of int64, shape (n,)
    lanes : ndarray of int64, shape (workers shown,)
        Lanes of each worker that is shown.
    """

    first_s: float
    last_s: float
    worker: IntArray
    lane: IntArray
    start_s: FloatArray
    end_s: FloatArray
    prompt_tokens: IntArray
    lanes: IntArray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Waves:
    """What the workers had to prefill in the middle of what averages cover.

    Steps of a long run are taken together, and the most of them kept.

    Attributes
    ----------
    time_s : ndarray of float64, shape (m,)
        When each step, or the first of those taken together, began.
    backlog : ndarray of int64, shape (m, G)
        Prompt tokens that each worker had yet to prefill.
    held : ndarray of int64, shape (m,)
        Requests that waited although slots were free; see `StepLog.held`.
    """

    time_s: FloatArray
    backlog: IntArray
    held: IntArray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curves:
    """Everything the figures need of one run.

    Attributes
    ----------
    load_time_s : ndarray, shape (m,)
    load : ndarray of int64, shape (m, G)
        KV tokens per worker, as routed.
    imbalance_time_s, imbalance : ndarray, shape (b,)
        Mean imbalance (sum form, as routed) over runs of consecutive steps.
    imbalance_q, tpot_q_s, ttft_q_s, dispatch_q_us : ndarray, shape (1001,) or (0,)
        Quantiles at `PROBABILITIES`: of the imbalance of steps in the averaging window, and of
        TPOT, TTFT and dispatch latency. Empty if nothing was measured.
    bands : StepBands
        Where each millisecond of a step went, over time.
    gantt : Gantt
    waves : Waves or None
        None where nothing is prefilled on the decode ranks.
    """

    load_time_s: FloatArray
    load: IntArray
    imbalance_time_s: FloatArray
    imbalance: FloatArray
    imbalance_q: FloatArray
    tpot_q_s: FloatArray
    ttft_q_s: FloatArray
    dispatch_q_us: FloatArray
    bands: StepBands
    gantt: Gantt
    waves: Waves | None = None


def curves_of(result: SimulationResult, prompt_tokens: IntArray, output_tokens: IntArray) -> Curves:
    """Thin a result to what the figures draw.

    Parameters
    ----------
    result : SimulationResult
    prompt_tokens, output_tokens : ndarray of int64, shape (n,)
        Lengths of the requests of its trace.
    """
    samples, requests = result.samples, result.requests
    pick = _spread(samples.step.size, LOAD_POINTS)
    imbalance = result.steps.imbalance_sum().astype(np.float64)
    window = slice(result.metrics.window_first, result.metrics.window_end)
    return Curves(
        load_time_s=samples.time_s[pick],
        load=samples.load[pick],
        imbalance_time_s=_bucket_means(result.steps.start_s, IMBALANCE_POINTS),
        imbalance=_bucket_means(imbalance, IMBALANCE_POINTS),
        imbalance_q=_quantiles(imbalance[window]),
        tpot_q_s=_quantiles(requests.tpot_s(output_tokens)),
        ttft_q_s=_quantiles(requests.ttft_s()),
        dispatch_q_us=_quantiles(result.dispatch_us),
        bands=bands_of(result),
        gantt=gantt_of(result, prompt_tokens),
        waves=waves_of(result),
    )


def waves_of(result: SimulationResult) -> Waves | None:
    """Cut some hundred steps from a run, one by one, lest waves be averaged away.

    From the middle of those that averages cover: at the middle of all, which may have a long end,
    nothing need be left to prefill.
    """
    samples, metrics = result.samples, result.metrics
    if not samples.backlog.any():
        return None
    ends = np.searchsorted(samples.step, [metrics.window_first, metrics.window_end])
    first = max(0, int(ends.sum()) // 2 - WAVE_STEPS // 2)
    shown = slice(first, first + WAVE_STEPS)
    return Waves(
        time_s=samples.time_s[shown],
        backlog=samples.backlog[shown],
        held=np.maximum.reduceat(result.steps.held, samples.step)[shown],
    )


def bands_of(result: SimulationResult) -> StepBands:
    """Average what steps were made of over runs of consecutive steps."""
    steps, step_time = result.steps, result.params.step_time
    first, end = result.metrics.window_first, result.metrics.window_end
    duration = steps.duration_s
    clock = np.append(steps.start_s, steps.end_s())
    inside = duration[first:end]
    return StepBands(
        edges_s=clock[_bucket_edges(len(steps), BANDS)],
        step_s=_bucket_means(duration, BANDS),
        lost_s=np.stack([_bucket_means(part, BANDS) for part in lost_by_part(steps)]),
        base_s=0.0 if step_time.model == "table" else step_time.base,
        window_s=(float(clock[first]), float(clock[end])) if inside.size else (0.0, 0.0),
        mean_step_s=float(inside.mean()) if inside.size else float("nan"),
        share=time_lost(steps, slice(first, end)),
    )


def gantt_of(result: SimulationResult, prompt_tokens: IntArray) -> Gantt:
    """Choose a readable window in the middle of the run and lay its requests on lanes.

    The window spans four mean stays, less if that were more than 3000 requests.
    Requests that were preempted, moved or lost their worker are left out, since a single bar would
    claim slots they did not hold all the time.
    """
    workers = _workers_shown(result)
    end_s = _end_times(result)
    shown = np.flatnonzero(
        np.isfinite(result.requests.start_s)
        & np.isfinite(end_s)
        & (result.requests.worker >= 0)
        & (result.requests.worker < workers)
        & (result.requests.preemptions + result.requests.migrations == 0)
    )
    first_s, last_s = _window(result.requests.start_s[shown], end_s[shown])
    inside = (result.requests.start_s[shown] < last_s) & (end_s[shown] > first_s)
    return _lay_out(
        result.requests,
        end_s=end_s,
        chosen=shown[inside],
        prompt_tokens=prompt_tokens,
        workers=workers,
        first_s=first_s,
        last_s=last_s,
    )


def _lay_out(
    requests: RequestLog,
    *,
    end_s: FloatArray,
    chosen: IntArray,
    prompt_tokens: IntArray,
    workers: int,
    first_s: float,
    last_s: float,
) -> Gantt:
    order = chosen[np.argsort(requests.start_s[chosen], kind="stable")]
    lane = np.zeros(order.size, dtype=np.int64)
    lanes = np.ones(workers, dtype=np.int64)
    for worker in range(workers):
        mine = np.flatnonzero(requests.worker[order] == worker)
        lane[mine] = assign_lanes(requests.start_s[order[mine]], end_s[order[mine]])
        lanes[worker] = lane[mine].max(initial=0) + 1
    return Gantt(
        first_s=first_s,
        last_s=last_s,
        worker=requests.worker[order],
        lane=lane,
        start_s=requests.start_s[order],
        end_s=end_s[order],
        prompt_tokens=prompt_tokens[order],
        lanes=lanes,
    )


def assign_lanes(start_s: Iterable[float], end_s: Iterable[float]) -> IntArray:
    """Give each interval, by increasing start, the lowest lane that is free by then."""
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    lanes: list[int] = []
    for start, end in zip(start_s, end_s, strict=True):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, lane))
        lanes.append(lane)
    return np.array(lanes, dtype=np.int64)


def _workers_shown(result: SimulationResult) -> int:
    lanes = np.cumsum(result.params.slots_each())
    return max(1, int(np.searchsorted(lanes, GANTT_LANES, side="right")))


def _end_times(result: SimulationResult) -> FloatArray:
    running = result.requests.status == RequestStatus.RUNNING
    return np.where(running, result.steps.end_s(), result.requests.finish_s)


def _window(start_s: FloatArray, end_s: FloatArray) -> tuple[float, float]:
    if not start_s.size:
        return 0.0, 1.0
    # Of the time in which requests are admitted: after it there is nothing left to route.
    begin, over = float(start_s.min()), float(end_s.max())
    first = begin + 0.4 * (float(start_s.max()) - begin)
    last = min(over, first + GANTT_MEAN_STAYS * float(np.mean(end_s - start_s)))
    entering = np.sort(start_s[(end_s > first) & (start_s < last)])
    if entering.size > GANTT_REQUESTS:
        last = float(entering[GANTT_REQUESTS])
    return first, max(last, first + 1e-6)


def _spread(size: int, limit: int) -> IntArray:
    return np.unique(np.linspace(0, max(size - 1, 0), min(size, limit)).astype(np.int64))


def _bucket_edges(size: int, buckets: int) -> IntArray:
    return np.linspace(0, size, min(buckets, size) + 1).astype(np.int64)


def _bucket_means(values: FloatArray, buckets: int) -> FloatArray:
    if values.size <= buckets:
        return np.asarray(values, dtype=np.float64)
    edges = _bucket_edges(values.size, buckets)
    sums = np.add.reduceat(values, edges[:-1])
    means: FloatArray = sums / np.diff(edges)
    return means


def _quantiles(values: FloatArray) -> FloatArray:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.empty(0)
    quantiles: FloatArray = np.quantile(finite, PROBABILITIES)
    return quantiles
