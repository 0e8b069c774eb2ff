"""From a path of unlabelled partitions to a worker for every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from brsolver.oracles.schedule import Schedule

IntArray = NDArray[np.int64]


def label_groups(
    schedule: Schedule,
    choice_events: IntArray,
    events: IntArray,
    first: IntArray,
    path: list[IntArray],
) -> IntArray:
    """Give every group of every partition on a path the worker it continues.

    Parameters
    ----------
    schedule : Schedule
    choice_events : ndarray of int64
        Indices of the events at which the partition may change.
    events : ndarray of int64
        Steps of all events.
    first : ndarray of int64, shape (G,)
        Groups of the first partition, as masks of positions.
    path : list of ndarray of int64, shape (G,)
        Groups from each of `choice_events` on.

    Returns
    -------
    ndarray of int64, shape (n,)
        Worker of every request.
    """
    worker = np.empty(len(schedule), np.int64)
    of_position = _labels_of(first, np.arange(schedule.workers), schedule)
    until = np.zeros(of_position.size, np.int64)
    done = 0
    for event, groups in zip(choice_events.tolist(), path, strict=True):
        step = int(events[event])
        upto = int(np.searchsorted(schedule.start, step))
        _take_over(schedule, slice(done, upto), of_position, worker, until)
        done = upto
        of_position = _labels_of(groups, _continued(groups, of_position, until > step), schedule)
    _take_over(schedule, slice(done, len(schedule)), of_position, worker, until)
    return worker


def _take_over(
    schedule: Schedule, rows: slice, of_position: IntArray, worker: IntArray, until: IntArray
) -> None:
    worker[rows] = of_position[schedule.position[rows]]
    np.maximum.at(until, schedule.position[rows], schedule.end[rows])


def _members(mask: int) -> list[int]:
    return [p for p in range(mask.bit_length()) if mask >> p & 1]


def _labels_of(groups: IntArray, labels: IntArray, schedule: Schedule) -> IntArray:
    of_position = np.empty(schedule.workers * schedule.slots, np.int64)
    for mask, label in zip(groups.tolist(), labels.tolist(), strict=True):
        of_position[_members(mask)] = label
    return of_position


def _continued(groups: IntArray, of_position: IntArray, taken: NDArray[np.bool_]) -> IntArray:
    """Return the worker of every group: that of the running requests it holds, or a spare one."""
    labels = np.full(groups.size, -1, np.int64)
    for g, mask in enumerate(groups.tolist()):
        kept = [p for p in _members(mask) if taken[p]]
        if kept:
            labels[g] = of_position[kept[0]]
    spare = np.setdiff1d(np.arange(groups.size), labels)
    labels[labels < 0] = spare
    return labels
