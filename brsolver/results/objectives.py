"""Goodput: what of a run's output went to requests that met their objectives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.results.logs import RequestStatus

if TYPE_CHECKING:
    from brsolver.results.logs import RequestLog, StepLog
    from brsolver.simulator.params import SimulationParams

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """What met the objectives of a run; NaN if it has none.

    Attributes
    ----------
    requests_s : float
        Requests that met every objective, per second. Each counts by the share of its steps that
        lie in the window.
    tokens_s : float
        Their output tokens per second, counted likewise: where every step gives every running
        request a token, never above the throughput, and equal to it where all requests meet the
        objectives.
    share : float
        Of the requests that finished.
    """

    requests_s: float = math.nan
    tokens_s: float = math.nan
    share: float = math.nan


def goodput(
    params: SimulationParams,
    *,
    requests: RequestLog,
    steps: StepLog,
    output_tokens: IntArray,
    window: slice,
) -> Goodput:
    """Measure the goodput over a window of steps.

    Parameters
    ----------
    params : SimulationParams
        Its `slo_ttft_ms` and `slo_tpot_ms` are the objectives.
    requests : RequestLog
    steps : StepLog
    output_tokens : ndarray of int64, shape (n,)
    window : slice
        Steps that averages cover.
    """
    seconds = steps.span_s(window)
    if (params.slo_ttft_ms is None and params.slo_tpot_ms is None) or seconds <= 0:
        return Goodput()
    done = requests.status == RequestStatus.FINISHED
    good = done & meets(params, requests, output_tokens)
    inside = good * share_inside(requests, window)
    return Goodput(
        requests_s=float(inside.sum()) / seconds,
        tokens_s=float(inside @ output_tokens) / seconds,
        share=float(good.sum() / done.sum()) if done.any() else math.nan,
    )


def meets(
    params: SimulationParams, requests: RequestLog, output_tokens: IntArray
) -> NDArray[np.bool_]:
    """Tell which requests meet every objective that is set, shape (n,)."""
    good = np.ones(requests.status.size, dtype=np.bool_)
    if params.slo_ttft_ms is not None:
        good &= requests.ttft_s() * 1e3 <= params.slo_ttft_ms
    if params.slo_tpot_ms is not None:
        # One that has no time between tokens, having one token only, does not miss it.
        good &= ~(requests.tpot_s(output_tokens) * 1e3 > params.slo_tpot_ms)
    return good


def share_inside(requests: RequestLog, window: slice) -> FloatArray:
    """Return the share of each request's steps that lie in the window, 0 if it had none."""
    began = np.maximum(requests.start_step, window.start)
    ended = np.minimum(requests.finish_step + 1, window.stop)
    steps = requests.finish_step - requests.start_step + 1
    ran = (requests.start_step >= 0) & (requests.finish_step >= 0)
    inside = np.where(ran, np.maximum(ended - began, 0), 0)
    share: FloatArray = inside / np.where(ran, steps, 1)
    return share
