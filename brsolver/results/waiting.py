"""How requests waited: along the run, and for which worker."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from brsolver.results.logs import RequestLog

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

QUARTER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Whether the time to first token grows along a run; NaN for fewer than four requests.

    Attributes
    ----------
    early_s, late_s : float
        Mean over the second and the last quarter of the requests, by arrival. The first quarter
        finds the cluster empty. A request without a first token counts with what it has waited
        at the end of the run.
    rate : float
        Seconds that the time to first token grows by per second of arrivals, between the two.
    """

    early_s: float = math.nan
    late_s: float = math.nan
    rate: float = math.nan


def growth(requests: RequestLog, end_s: float) -> Growth:
    """Measure the growth of the time to first token along a run that ended at `end_s`."""
    came = np.flatnonzero(np.isfinite(requests.arrival_s))
    if came.size < QUARTER:
        return Growth()
    order = came[np.argsort(requests.arrival_s[came], kind="stable")]
    arrival = requests.arrival_s[order]
    first = requests.first_token_s[order]
    ttft = np.where(np.isnan(first), end_s, first) - arrival
    quarters = np.array_split(np.arange(order.size), QUARTER)
    early, late = quarters[1], quarters[3]
    early_s, late_s = float(ttft[early].mean()), float(ttft[late].mean())
    apart_s = float(arrival[late].mean() - arrival[early].mean())
    rate = (late_s - early_s) / apart_s if apart_s > 0 else math.nan
    return Growth(early_s=early_s, late_s=late_s, rate=rate)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RankFigures:
    """What each worker did in a run.

    Attributes
    ----------
    requests : ndarray of int64, shape (G,)
        That it gave a slot to; one that moved counts where it ran last.
    queue : ndarray of float64, shape (G,)
        Of these, how many were waiting for a slot in the mean over the run: their waits in
        seconds over the run's duration. With pooled routing they waited in the router's pool.
    wait_mean_s, wait_max_s : ndarray of float64, shape (G,)
        Their waits in seconds; NaN where there were none.
    load_mean : ndarray of float64, shape (G,)
        KV tokens, mean over the sampled steps.
    """

    requests: IntArray
    queue: FloatArray
    wait_mean_s: FloatArray
    wait_max_s: FloatArray
    load_mean: FloatArray


def rank_figures(requests: RequestLog, load: IntArray, end_s: float) -> RankFigures:
    """Measure what each worker did.

    Parameters
    ----------
    requests : RequestLog
    load : ndarray of int64, shape (m, G)
        KV tokens of every worker at sampled steps.
    end_s : float
        When the run ended, in seconds.
    """
    ranks = load.shape[1]
    began = np.flatnonzero(~np.isnan(requests.start_s) & (requests.worker >= 0))
    worker = requests.worker[began]
    wait_s = requests.start_s[began] - requests.ready_s[began]
    counts = np.bincount(worker, minlength=ranks)
    total_s = np.bincount(worker, weights=wait_s, minlength=ranks)
    longest_s = np.full(ranks, -np.inf)
    np.maximum.at(longest_s, worker, wait_s)
    some = counts > 0
    return RankFigures(
        requests=counts,
        queue=total_s / end_s if end_s > 0 else np.zeros(ranks),
        wait_mean_s=np.where(some, total_s / np.maximum(counts, 1), np.nan),
        wait_max_s=np.where(some, longest_s, np.nan),
        load_mean=load.mean(axis=0) if len(load) else np.zeros(ranks),
    )
