"""Kernels of the two-stage router over projected loads; see `brsolver.routers.balance`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.policy import CAPACITY, NO_LIMIT, QUEUED, ROOM, RUNNING, SLOTS, TOKEN_ROOM
from brsolver.routers._score_kernels import best_single, score
from brsolver.routers._sorted_kernels import POSITION, best_sorted, remove, sort_waiting
from brsolver.routers._subset_kernels import (
    BY_SCORE,
    EXACTLY_K,
    best_subset,
    set_margins,
    sum_of,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Entries of the board: free slots left, pairs written, first request not taken.
FREE, MADE, START = range(3)

SORT_FROM = 8
"""Placements in the first stage from which sorting the waiting requests pays."""

NEVER_OVER = 1e12
"""Weight of overflow that lets the largest request within the margin win over any beyond it."""


@kernel
def census(table: IntArray) -> tuple[int, int]:
    """Return how many workers of a view are there, and how many requests run or queue at them."""
    live, present = 0, 0
    for g in range(table.shape[1]):
        live += table[SLOTS, g] != 0
        present += table[RUNNING, g] + table[QUEUED, g]
    return live, present


@kernel
def envelope(projected: IntArray) -> IntArray:
    """Return ``M_h = max_g L_{g,h}``, shape (H + 1,)."""
    out = projected[0].copy()
    for g in range(1, projected.shape[0]):
        for h in range(out.shape[0]):
            out[h] = max(out[h], projected[g, h])
    return out


@kernel
def place(projected: IntArray, top: IntArray, g: int, tokens: int, growing: int) -> None:
    """Add requests to worker g's projected load and lift the envelope."""
    for h in range(top.shape[0]):
        projected[g, h] += tokens + growing * h
        top[h] = max(top[h], projected[g, h])


@kernel
def roomiest(room: IntArray, projected: IntArray) -> int:
    """Return the worker with the most free slots, ties to the lowest load; -1 if all are full."""
    best = -1
    for g in range(room.shape[0]):
        if room[g] <= 0:
            continue
        if (
            best < 0
            or room[g] > room[best]
            or (room[g] == room[best] and projected[g, 0] < projected[best, 0])
        ):
            best = g
    return best


@kernel
def best_worker(
    room: IntArray,
    tokens_left: IntArray,
    projected: IntArray,
    top: IntArray,
    margins: IntArray,
    tokens: int,
    discounts: FloatArray,
    weights: FloatArray,
    growth: int,
) -> int:
    """Return the worker on which one request has the largest F, ties to the lowest load."""
    best, best_value = -1, 0.0
    for g in range(projected.shape[0]):
        if room[g] <= 0 or tokens_left[g] < tokens:
            continue
        set_margins(projected, top, g, growth, margins)
        value = score(margins, discounts, weights[0], weights[2], tokens)
        if (
            best < 0
            or value > best_value
            or (value == best_value and projected[g, 0] < projected[best, 0])
        ):
            best, best_value = g, value
    return best


@kernel
def hold_back(table: IntArray, tokens_left: IntArray, room: IntArray, tokens: int) -> int:
    """Return the worker to keep free for a request that fits nowhere yet; -1 if none ever will.

    Given nothing else, the one with the most KV tokens left is the first that can take it.
    """
    best = -1
    for g in range(room.shape[0]):
        if table[SLOTS, g] == 0 or table[CAPACITY, g] < tokens:
            continue
        if best < 0 or tokens_left[g] > tokens_left[best]:
            best = g
    return best


@kernel
def fill_window(taken: NDArray[np.bool_], start: int, width: int, window: IntArray) -> int:
    """Write the first `width` requests not yet taken into `window`; return how many."""
    size = 0
    for i in range(start, taken.shape[0]):
        if size == width:
            break
        if not taken[i]:
            window[size] = i
            size += 1
    return size


@kernel
def take(
    board: IntArray,
    taken: NDArray[np.bool_],
    out: IntArray,
    room: IntArray,
    tokens_left: IntArray,
    i: int,
    g: int,
    tokens: int,
) -> None:
    """Write the pair (i, g) and use up its slot and tokens."""
    taken[i] = True
    out[board[MADE], 0] = i
    out[board[MADE], 1] = g
    board[MADE] += 1
    board[FREE] -= 1
    room[g] -= 1
    if tokens_left[g] < NO_LIMIT:
        tokens_left[g] -= tokens
    while board[START] < taken.shape[0] and taken[board[START]]:
        board[START] += 1


@kernel
def close(board: IntArray, room: IntArray, g: int) -> None:
    """Take worker g out of this decision: nothing it may be given fits."""
    board[FREE] -= room[g]
    room[g] = 0


@kernel
def choose(
    prompts: IntArray,
    window: IntArray,
    size: int,
    slots: int,
    token_room: int,
    projected: IntArray,
    top: IntArray,
    g: int,
    discounts: FloatArray,
    weights: FloatArray,
    growth: int,
    rule: int,
    chosen: IntArray,
) -> int:
    """Write what worker g takes from the window to `chosen`; return how many, 0 if none fits.

    A single request is taken where one slot or one request is all there is, and where even the
    best set has no positive F: nobody starves.
    """
    if slots > 1 and size > 1:
        picked, value = best_subset(
            prompts, window, size, slots, token_room, projected, top, g, discounts, weights,
            growth, rule, chosen,
        )  # fmt: skip
        if picked > 0 and (rule == EXACTLY_K or value > 0.0):
            return picked
    margins = np.empty(top.shape[0], np.int64)
    set_margins(projected, top, g, growth, margins)
    if rule == BY_SCORE:
        chosen[0] = best_single(
            prompts, window, size, token_room, margins, discounts, weights[0], weights[2]
        )
    else:
        least = np.full(1, max(margins.min(), 0), np.int64)
        chosen[0] = best_single(
            prompts, window, size, token_room, least, np.ones(1), 1.0, NEVER_OVER
        )
    return 1 if chosen[0] >= 0 else 0


@kernel
def place_by_size(
    board: IntArray,
    taken: NDArray[np.bool_],
    out: IntArray,
    room: IntArray,
    tokens_left: IntArray,
    prompts: IntArray,
    projected: IntArray,
    top: IntArray,
    discounts: FloatArray,
    weights: FloatArray,
    s_greedy: int,
    growth: int,
) -> None:
    """Run the first stage over the waiting requests sorted by size."""
    margins = np.empty(top.shape[0], np.int64)
    index = sort_waiting(prompts, taken)
    while board[FREE] > s_greedy and board[MADE] < prompts.shape[0]:
        g = roomiest(room, projected)
        set_margins(projected, top, g, growth, margins)
        entry = best_sorted(index, tokens_left[g], margins, discounts, weights[0], weights[2])
        if entry == 0:
            close(board, room, g)
            continue
        remove(index, entry)
        i = index[POSITION, entry]
        take(board, taken, out, room, tokens_left, i, g, prompts[i])
        place(projected, top, g, prompts[i], growth)


@kernel
def route_pooled(
    table: IntArray,
    projected: IntArray,
    prompts: IntArray,
    discounts: FloatArray,
    weights: FloatArray,
    s_greedy: int,
    r_max: int,
    growth: int,
    rule: int,
    since: IntArray,
    overdue: int,
) -> IntArray:
    """Place the requests that have waited since step `overdue` or before, then run both stages.

    For one that fits nowhere yet a worker is kept free.

    Returns
    -------
    ndarray of int64, shape (k, 2)
        Pairs (waiting index, worker).
    """
    count = prompts.shape[0]
    room = table[ROOM].copy()
    tokens_left = table[TOKEN_ROOM].copy()
    board = np.zeros(3, np.int64)
    board[FREE] = room.sum()
    top = envelope(projected)
    margins = np.empty(top.shape[0], np.int64)
    taken = np.zeros(count, np.bool_)
    out = np.empty((min(count, board[FREE]), 2), np.int64)
    window = np.empty(count, np.int64)
    for i in range(count):
        if since[i] > overdue or board[FREE] == 0:
            continue
        g = best_worker(
            room, tokens_left, projected, top, margins, prompts[i], discounts, weights, growth
        )
        if g < 0:
            kept = hold_back(table, tokens_left, room, prompts[i])
            if kept >= 0:
                close(board, room, kept)
            continue
        take(board, taken, out, room, tokens_left, i, g, prompts[i])
        place(projected, top, g, prompts[i], growth)
    if min(board[FREE] - s_greedy, count - board[MADE]) >= SORT_FROM:
        place_by_size(
            board, taken, out, room, tokens_left, prompts, projected, top, discounts, weights,
            s_greedy, growth,
        )  # fmt: skip
    chosen = np.empty(max(min(board[FREE], r_max), 1), np.int64)
    while board[FREE] > 0 and board[MADE] < count:
        plentiful = board[FREE] > s_greedy
        g = roomiest(room, projected)
        size = fill_window(taken, board[START], count if plentiful else r_max, window)
        picked = choose(
            prompts, window, size, 1 if plentiful else room[g], tokens_left[g], projected, top, g,
            discounts, weights, growth, BY_SCORE if plentiful else rule, chosen,
        )  # fmt: skip
        if picked == 0:
            close(board, room, g)
            continue
        tokens = sum_of(prompts, window, chosen, picked)
        for j in range(picked):
            i = window[chosen[j]]
            take(board, taken, out, room, tokens_left, i, g, prompts[i])
        place(projected, top, g, tokens, growth * picked)
    return out[: board[MADE]]


@kernel
def route_immediate(
    table: IntArray,
    projected: IntArray,
    tokens: int,
    discounts: FloatArray,
    weights: FloatArray,
    growth: int,
) -> IntArray:
    """Place one request where F is largest, ties to the lowest load."""
    top = envelope(projected)
    margins = np.empty(top.shape[0], np.int64)
    best = best_worker(
        table[ROOM], table[TOKEN_ROOM], projected, top, margins, tokens, discounts, weights, growth
    )
    out = np.empty((1 if best >= 0 else 0, 2), np.int64)
    if best >= 0:
        out[0, 0] = 0
        out[0, 1] = best
    return out
