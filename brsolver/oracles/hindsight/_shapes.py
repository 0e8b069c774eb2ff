"""What the kernels of the hindsight oracles take; see `brsolver.oracles` for the rule.

n requests, K steps, G workers of B slots, P = G·B slot positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
SmallArray = NDArray[np.int32]


class Partitions(NamedTuple):
    """The states of the dynamic programme, see `_partition_kernels`; never written.

    Attributes
    ----------
    table : ndarray of int32, shape (states, G)
        Index into `masks` of every group.
    masks : ndarray of int64, shape (subsets,)
        The subsets of B positions.
    binomial : ndarray of int64, shape (P + 1, B + 1)
    size : int
        B.
    """

    table: SmallArray
    masks: IntArray
    binomial: IntArray
    size: int


class Events(NamedTuple):
    """The E events at which requests are admitted, and who they are; never written.

    Attributes
    ----------
    step : ndarray of int64, shape (E + 1,)
        When, and the first step after the last interval.
    row : ndarray of int64, shape (E,)
        Row of `choices` for events with a choice, -1 elsewhere.
    first : ndarray of int64, shape (E + 1,)
        Where each event's requests begin.
    position, base, end : ndarray of int64, shape (n,)
        Per request: slot position, ``s_i - x_i`` and the step it has left by.
    floor : ndarray of int64, shape (E,)
        Heaviest other worker at each event.
    """

    step: IntArray
    row: IntArray
    first: IntArray
    position: IntArray
    base: IntArray
    end: IntArray
    floor: IntArray


class Sweep(NamedTuple):
    """How far the programme has got.

    Attributes
    ----------
    cost : ndarray of int64, shape (states,)
        Least cost of being in each state.
    value, until : ndarray of int64, shape (P,)
        `base` and `end` of the request in each position.
    """

    cost: IntArray
    value: IntArray
    until: IntArray


class Classes(NamedTuple):
    """Room for merging states that agree outside the free positions.

    Attributes
    ----------
    least : ndarray of int64, shape (states,)
        Least cost of each class, at its representative.
    of : ndarray of int32, shape (states,)
        Each state's representative.
    choices : ndarray of int32, shape (rows, states)
        The cheapest state of each class, by event with a choice; may have no columns.
    """

    least: IntArray
    of: SmallArray
    choices: SmallArray


class Runs(NamedTuple):
    """Requests whose admission steps are fixed; never written.

    Attributes
    ----------
    prompt, start, end : ndarray of int64, shape (n,)
        ``s_i``, ``x_i`` and ``x_i + o_i``, by ``x_i``.
    """

    prompt: IntArray
    start: IntArray
    end: IntArray


class Partners(NamedTuple):
    """Who may change places with whom; never written.

    Attributes
    ----------
    first, last : ndarray of int64, shape (n,)
        Requests ``first[i]..last[i] - 1`` are admitted when i is.
    eligible : ndarray of int64
        Those that are not admitted alone.
    """

    first: IntArray
    last: IntArray
    eligible: IntArray


class Lanes(NamedTuple):
    """The assignment in hand.

    Attributes
    ----------
    worker : ndarray of int64, shape (n,)
    after, before : ndarray of int64, shape (n,)
        Who follows and who precedes each request on its slot; -1 for nobody.
    """

    worker: IntArray
    after: IntArray
    before: IntArray


class Leaders(NamedTuple):
    """What the assignment in hand makes of every step.

    Attributes
    ----------
    loads : ndarray of int64, shape (G, K)
    heaviest, who : ndarray of int64, shape (3, K)
        The three largest loads, the first of which is the envelope, and whose they are; -1 if
        there are fewer workers.
    """

    loads: IntArray
    heaviest: IntArray
    who: IntArray
