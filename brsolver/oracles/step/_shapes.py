"""What the kernels of the step oracle take; see `brsolver.oracles` for the rule.

J open workers, P steps (those with the same margins merged, see `merged_steps`), K lengths,
n waiting requests.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

NONE = -1
"""No length, no worker, any number of requests to admit."""


class Terms(NamedTuple):
    """What tokens on open workers are worth by either objective; never written.

    Attributes
    ----------
    margins : ndarray of int64, shape (J, P)
    weights : ndarray of int64, shape (P,)
        ``d_h``.
    steps : ndarray of int64, shape (P,)
        By how much a request has grown: h, or 0 without growth.
    alpha_d, alpha_r : int
        ``α·D`` and ``α·R``: what a token and, by its growth, a request bring to the score.
    beta : int
    sum_d, sum_r : int
        D and R: the same of the imbalance.
    workers : int
        G, as the imbalance counts them.
    by_score : bool
        Whether the objective is the score.
    grows : bool
    """

    margins: IntArray
    weights: IntArray
    steps: IntArray
    alpha_d: int
    alpha_r: int
    beta: int
    sum_d: int
    sum_r: int
    workers: int
    by_score: bool
    grows: bool


class Offer(NamedTuple):
    """What the local search may put where; never written.

    Attributes
    ----------
    sizes : ndarray of int64, shape (K,)
        Lengths, ascending.
    counts : ndarray of int64, shape (K,)
        How many requests of each wait.
    slot_worker : ndarray of int64, shape (slots,)
        Open worker of each free slot, ascending.
    limit : ndarray of int64, shape (J,)
        KV tokens each may be given.
    request_tokens : int
        By how much a length exceeds the KV tokens that `limit` counts.
    admit : int
        How many requests to admit; `NONE` is any number.
    """

    sizes: IntArray
    counts: IntArray
    slot_worker: IntArray
    limit: IntArray
    request_tokens: int
    admit: int


class Decision(NamedTuple):
    """The decision in hand, and its books.

    Attributes
    ----------
    slots : ndarray of int64, shape (slots,)
        Index of the length in each slot; `NONE` for none.
    left : ndarray of int64, shape (K,)
        Requests of each length that still wait.
    tokens, requests : ndarray of int64, shape (J,)
        What each worker is given.
    tally : ndarray of `TALLY`, shape (1,)
    """

    slots: IntArray
    left: IntArray
    tokens: IntArray
    requests: IntArray
    tally: NDArray[np.void]


TALLY = np.dtype([("admitted", np.int64), ("seed", np.int64)], align=True)
"""How many requests the decision admits; where the pseudo-random numbers of kicks stand."""


class Leads(NamedTuple):
    """What changes of the decision are judged by, and room to work in.

    Attributes
    ----------
    bends : ndarray of int64, shape (J, 3, P + 1)
        See `bend_tables`; never written.
    rises : ndarray of int64, shape (2, P)
        The two largest rises of the envelope at each step, at least 0; brought up to date with
        the decision, as are the next two.
    who : ndarray of int64, shape (P,)
        Whose the larger is; `NONE` if it is 0.
    hope : ndarray of int64, shape (J,)
        What a worker that gives something away could gain: by how much the weighted envelope
        falls if it leaves all its leads. By the score, the slope of its F.
    bend : ndarray of int64, shape (P,)
        Scratch.
    found : ndarray of int64, shape (4,)
        Scratch: two pairs of lengths.
    """

    bends: IntArray
    rises: IntArray
    who: IntArray
    hope: IntArray
    bend: IntArray
    found: IntArray


class Share(NamedTuple):
    """Tokens, in so many requests, that an open worker is given."""

    worker: int
    tokens: int
    requests: int


class Reach(NamedTuple):
    """What open workers can be given at all, for the bounds; never written.

    Attributes
    ----------
    most, least : ndarray of int64, shape (J,)
        Requests.
    low, high : ndarray of int64, shape (J,)
        Smallest and largest sum of tokens.
    ordered : ndarray of int64, shape (n,)
        Prompts, ascending.
    admit : int
        How many requests to admit; `NONE` is any number.
    """

    most: IntArray
    least: IntArray
    low: IntArray
    high: IntArray
    ordered: IntArray
    admit: int
