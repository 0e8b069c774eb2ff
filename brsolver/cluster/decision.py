"""What a policy answers: the one check of it, in one wording.

A decision is checked against the books as they stand, never against the view that the policy was
given, before any of it is carried out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver._jit import kernel
from brsolver.cluster.view import ROOM, SLOTS, TOKEN_ROOM, Decision, IntArray
from brsolver.errors import PolicyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.policy import BasePolicy

# What `check` found.
OK, NOT_ONE, NO_REQUEST, TWICE, NO_WORKER, NO_SLOT, NO_TOKENS = range(7)

_WHOLE = np.dtype(np.int64)


@kernel
def check(  # noqa: PLR0911 # one code per thing that can be wrong
    limits: IntArray, tokens: IntArray, pairs: IntArray, immediate: bool
) -> tuple[int, int]:
    """Check a decision; return what is wrong with it, `OK` if nothing, and the row that shows it.

    Parameters
    ----------
    limits : ndarray of int64, shape (VIEW_ROWS, G)
        Figures of the cluster that no policy had in its hands; room and token room are used up.
    tokens : ndarray of int64, shape (n,)
        KV tokens of each waiting request, as booked.
    pairs : ndarray of int64, shape (k, 2)
        Index into the waiting requests, and worker.
    immediate : bool
        Whether exactly one request is to be placed, room or not.
    """
    if immediate and pairs.shape[0] != 1:
        return NOT_ONE, -1
    seen = np.zeros(tokens.shape[0], np.bool_)
    for j in range(pairs.shape[0]):
        at, g = pairs[j, 0], pairs[j, 1]
        if at < 0 or at >= tokens.shape[0]:
            return NO_REQUEST, j
        if seen[at]:
            return TWICE, j
        seen[at] = True
        if g < 0 or g >= limits.shape[1] or limits[SLOTS, g] == 0:
            return NO_WORKER, j
        if immediate:
            continue
        if limits[ROOM, g] < 1:
            return NO_SLOT, j
        if limits[TOKEN_ROOM, g] < tokens[at]:
            return NO_TOKENS, j
        limits[ROOM, g] -= 1
        limits[TOKEN_ROOM, g] -= tokens[at]
    return OK, -1


@kernel
def examine(
    limits: IntArray, tokens: IntArray, pairs: IntArray, immediate: bool
) -> tuple[int, int]:
    """Check a decision as `check` does, and leave the limits as they are."""
    left = limits if immediate else limits.copy()
    return check(left, tokens, pairs, immediate)


def as_pairs(decision: Decision, policy: BasePolicy) -> IntArray:
    """Return a decision as an array of shape (k, 2).

    Raises
    ------
    PolicyError
        It is not made of pairs of integers.
    """
    if (
        type(decision) is np.ndarray
        and decision.dtype == _WHOLE
        and decision.ndim == 2
        and decision.shape[1] == 2
        and decision.flags.carray
    ):
        return decision
    try:
        pairs: NDArray[np.int64] = np.asarray(
            decision if len(decision) else np.empty((0, 2), np.int64)
        )
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"policy {policy.label} returned {type(decision).__name__}; a decision is pairs "
            "(index into waiting, worker)"
        ) from error
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise PolicyError(
            f"policy {policy.label} returned {pairs.dtype} of shape {pairs.shape}; a decision is "
            "pairs (index into waiting, worker)"
        )
    return np.array(pairs, np.int64, order="C")


def refusal(
    policy: BasePolicy, step: int, found: int, row: int, *, pairs: IntArray, waiting: int
) -> PolicyError:
    """Say why a decision cannot be carried out.

    Parameters
    ----------
    policy : BasePolicy
        Whose decision.
    step : int
        Decode steps done so far.
    found, row : int
        What `check` returned.
    pairs : ndarray of int64, shape (k, 2)
        The decision.
    waiting : int
        Requests there were.
    """
    at, worker = pairs[row].tolist() if row >= 0 else (-1, -1)
    reason = {
        NOT_ONE: f"placed {len(pairs)} requests; immediate routing places the one that arrives",
        NO_REQUEST: f"named waiting request {at}, there are {waiting}",
        TWICE: f"placed waiting request {at} twice",
        NO_WORKER: f"chose worker {worker}, which is not there",
        NO_SLOT: (
            f"gave worker {worker} more requests than it has free slots, with waiting request {at}"
        ),
        NO_TOKENS: (
            f"gave worker {worker} more KV tokens than its capacity, with waiting request {at}"
        ),
    }[found]
    return PolicyError(f"policy {policy.label} at step {step} {reason}")
