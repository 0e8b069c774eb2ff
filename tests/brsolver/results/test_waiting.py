from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from brsolver.results.waiting import growth, rank_figures

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from brsolver.results.logs import RequestLog
    from brsolver.results.result import SimulationResult


def log(result_maker: Callable[..., SimulationResult], **times: NDArray[np.generic]) -> RequestLog:
    return replace(result_maker().requests, **times)


def test_growth_by_hand(result_maker: Callable[..., SimulationResult]) -> None:
    arrival = np.arange(8.0)
    first = arrival + np.array([9, 9, 1, 1, 5, 5, 3, 3], float)
    found = growth(log(result_maker, arrival_s=arrival, first_token_s=first), 20.0)
    # Quarters of two: the second waits 1 s around 2.5 s, the last 3 s around 6.5 s.
    assert (found.early_s, found.late_s, found.rate) == (1.0, 3.0, 0.5)


def test_who_got_no_token_has_waited_until_the_end(
    result_maker: Callable[..., SimulationResult],
) -> None:
    arrival, first = np.arange(4.0), np.array([1.0, 2.0, 3.0, math.nan])
    found = growth(log(result_maker, arrival_s=arrival, first_token_s=first), 10.0)
    assert found.late_s == 7.0


def test_few_requests_have_no_growth(result_maker: Callable[..., SimulationResult]) -> None:
    found = growth(
        log(result_maker, arrival_s=np.array([0.0, math.nan]), first_token_s=np.ones(2)), 10.0
    )
    assert math.isnan(found.rate)


def test_all_at_once_have_no_rate(result_maker: Callable[..., SimulationResult]) -> None:
    found = growth(log(result_maker, arrival_s=np.zeros(8), first_token_s=np.arange(8.0)), 10.0)
    assert found.late_s == 6.5
    assert math.isnan(found.rate)


def test_queue_of_a_worker_is_its_requests_waits_over_the_run(
    result_maker: Callable[..., SimulationResult],
) -> None:
    requests = log(
        result_maker,
        ready_s=np.zeros(4),
        start_s=np.array([1.0, 3.0, 0.0, math.nan]),
        worker=np.array([0, 0, 2, -1]),
    )
    load = np.array([[10, 0, 2], [30, 0, 4]])
    found = rank_figures(requests, load, 8.0)
    assert found.requests.tolist() == [2, 0, 1]
    assert found.queue.tolist() == [0.5, 0.0, 0.0]
    np.testing.assert_equal(found.wait_mean_s, [2.0, math.nan, 0.0])
    np.testing.assert_equal(found.wait_max_s, [3.0, math.nan, 0.0])
    assert found.load_mean.tolist() == [20.0, 0.0, 3.0]


def test_mean_queues_add_up_to_all_waits(result_maker: Callable[..., SimulationResult]) -> None:
    result = result_maker()
    found = rank_figures(result.requests, result.samples.load, 5.0)
    assert found.queue.sum() * 5.0 == pytest.approx(result.requests.queue_s().sum())
