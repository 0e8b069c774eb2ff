"""Kernels of the two-stage router over projected loads; see `brsolver.routers.balance`.

Loads, and so what a waiting request brings to them (`prompts`), count `request_tokens` for every
request besides its KV tokens; room is in KV tokens. So n requests fit if their sum is at most the
room and n times that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brsolver._jit import kernel
from brsolver.cluster.view import NO_LIMIT, QUEUED, ROOM, RUNNING, SLOTS, TOKEN_ROOM
from brsolver.routers._score_kernels import Weights, best_single, score
from brsolver.routers._sorted_kernels import POSITION, best_sorted, remove, sort_waiting
from brsolver.routers._spread_kernels import hold_back
from brsolver.routers._subset_kernels import (
    BY_SCORE,
    EXACTLY_K,
    best_subset,
    set_margins,
    sum_of,
)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

BOARD = np.dtype([("free", np.int64), ("made", np.int64), ("start", np.int64)])
"""Where a decision stands: free slots left, pairs written, first request not taken."""
Board = NDArray[Any]
"""An array of one `BOARD`."""

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
def weighed(prompts: IntArray, request_tokens: int) -> IntArray:
    """Return what waiting requests bring to loads, by their KV tokens."""
    return prompts + request_tokens if request_tokens else prompts


@kernel
def envelope_of(projected: IntArray) -> IntArray:
    """Return ``M_h = max_g L_{g,h}``, shape (H + 1,)."""
    out = projected[0].copy()
    for g in range(1, projected.shape[0]):
        for h in range(out.shape[0]):
            out[h] = max(out[h], projected[g, h])
    return out


@kernel
def place(projected: IntArray, envelope: IntArray, g: int, tokens: int, growing: int) -> None:
    """Add requests to worker g's projected load and lift the envelope."""
    for h in range(envelope.shape[0]):
        projected[g, h] += tokens + growing * h
        envelope[h] = max(envelope[h], projected[g, h])


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
    envelope: IntArray,
    margins: IntArray,
    tokens: int,
    discounts: FloatArray,
    weights: Weights,
    growth: int,
    request_tokens: int,
) -> int:
    """Return the worker on which one request has the largest F, ties to the lowest load."""
    best, best_value = -1, 0.0
    for g in range(projected.shape[0]):
        if room[g] <= 0 or tokens_left[g] + request_tokens < tokens:
            continue
        set_margins(projected, envelope, g, growth, margins)
        value = score(margins, discounts, weights.filling, weights.overflow, tokens)
        if (
            best < 0
            or value > best_value
            or (value == best_value and projected[g, 0] < projected[best, 0])
        ):
            best, best_value = g, value
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
    board: Board,
    taken: NDArray[np.bool_],
    out: IntArray,
    room: IntArray,
    tokens_left: IntArray,
    i: int,
    g: int,
    kv_tokens: int,
) -> None:
    """Write the pair (i, g) and use up its slot and KV tokens."""
    taken[i] = True
    out[board[0].made, 0] = i
    out[board[0].made, 1] = g
    board[0].made += 1
    board[0].free -= 1
    room[g] -= 1
    if tokens_left[g] < NO_LIMIT:
        tokens_left[g] -= kv_tokens
    while board[0].start < taken.shape[0] and taken[board[0].start]:
        board[0].start += 1


@kernel
def close(board: Board, room: IntArray, g: int) -> None:
    """Take worker g out of this decision: nothing it may be given fits."""
    board[0].free -= room[g]
    room[g] = 0


@kernel
def choose(
    prompts: IntArray,
    window: IntArray,
    size: int,
    slots: int,
    token_room: int,
    projected: IntArray,
    envelope: IntArray,
    g: int,
    discounts: FloatArray,
    weights: Weights,
    growth: int,
    rule: int,
    request_tokens: int,
    chosen: IntArray,
) -> int:
    """Write what worker g takes from the window to `chosen`; return how many, 0 if none fits.

    A single request is taken where one slot or one request is all there is, and where even the
    best set has no positive F: nobody starves.
    """
    if slots > 1 and size > 1:
        picked, value = best_subset(
            prompts, window, size, slots, token_room, projected, envelope, g, discounts, weights,
            growth, rule, request_tokens, chosen,
        )  # fmt: skip
        if picked > 0 and (rule == EXACTLY_K or value > 0.0):
            return picked
    margins = np.empty(envelope.shape[0], np.int64)
    set_margins(projected, envelope, g, growth, margins)
    if rule == BY_SCORE:
        chosen[0] = best_single(
            prompts,
            window,
            size,
            token_room + request_tokens,
            margins,
            discounts,
            weights.filling,
            weights.overflow,
        )
    else:
        least = np.full(1, max(margins.min(), 0), np.int64)
        chosen[0] = best_single(
            prompts,
            window,
            size,
            token_room + request_tokens,
            least,
            np.ones(1),
            1.0,
            NEVER_OVER,
        )
    return 1 if chosen[0] >= 0 else 0


@kernel
def place_by_size(
    board: Board,
    taken: NDArray[np.bool_],
    out: IntArray,
    room: IntArray,
    tokens_left: IntArray,
    prompts: IntArray,
    projected: IntArray,
    envelope: IntArray,
    discounts: FloatArray,
    weights: Weights,
    s_greedy: int,
    growth: int,
    request_tokens: int,
) -> None:
    """Run the first stage over the waiting requests sorted by size."""
    margins = np.empty(envelope.shape[0], np.int64)
    index = sort_waiting(prompts, taken)
    while board[0].free > s_greedy and board[0].made < prompts.shape[0]:
        g = roomiest(room, projected)
        set_margins(projected, envelope, g, growth, margins)
        fitting = tokens_left[g] + request_tokens
        entry = best_sorted(index, fitting, margins, discounts, weights.filling, weights.overflow)
        if entry == 0:
            close(board, room, g)
            continue
        remove(index, entry)
        i = index[POSITION, entry]
        take(board, taken, out, room, tokens_left, i, g, prompts[i] - request_tokens)
        place(projected, envelope, g, prompts[i], growth)


@kernel
def route_pooled(
    table: IntArray,
    projected: IntArray,
    prompts: IntArray,
    discounts: FloatArray,
    filling: float,
    growing: float,
    overflow: float,
    s_greedy: int,
    r_max: int,
    growth: int,
    rule: int,
    since: IntArray,
    overdue: int,
    request_tokens: int,
) -> IntArray:
    """Place the requests that have waited since step `overdue` or before, then run both stages.

    For one that fits nowhere yet a worker is kept free. `prompts` are KV tokens. The weights of F
    come one by one, as numbers: a call from Python takes them faster than a record or a tuple.

    Returns
    -------
    ndarray of int64, shape (k, 2)
        Pairs (waiting index, worker).
    """
    weights = Weights(filling, growing, overflow)
    kv_tokens, prompts = prompts, weighed(prompts, request_tokens)
    count = prompts.shape[0]
    room = table[ROOM].copy()
    tokens_left = table[TOKEN_ROOM].copy()
    board = np.zeros(1, BOARD)
    board[0].free = room.sum()
    envelope = envelope_of(projected)
    margins = np.empty(envelope.shape[0], np.int64)
    taken = np.zeros(count, np.bool_)
    out = np.empty((min(count, board[0].free), 2), np.int64)
    window = np.empty(count, np.int64)
    for i in range(count):
        if since[i] > overdue or board[0].free == 0:
            continue
        g = best_worker(
            room, tokens_left, projected, envelope, margins, prompts[i], discounts, weights,
            growth, request_tokens,
        )  # fmt: skip
        if g < 0:
            kept = hold_back(table, tokens_left, room, kv_tokens[i])
            if kept >= 0:
                close(board, room, kept)
            continue
        take(board, taken, out, room, tokens_left, i, g, kv_tokens[i])
        place(projected, envelope, g, prompts[i], growth)
    if min(board[0].free - s_greedy, count - board[0].made) >= SORT_FROM:
        place_by_size(
            board, taken, out, room, tokens_left, prompts, projected, envelope, discounts, weights,
            s_greedy, growth, request_tokens,
        )  # fmt: skip
    chosen = np.empty(max(min(board[0].free, r_max), 1), np.int64)
    while board[0].free > 0 and board[0].made < count:
        plentiful = board[0].free > s_greedy
        g = roomiest(room, projected)
        size = fill_window(taken, board[0].start, count if plentiful else r_max, window)
        picked = choose(
            prompts, window, size, 1 if plentiful else room[g], tokens_left[g], projected,
            envelope, g, discounts, weights, growth, BY_SCORE if plentiful else rule,
            request_tokens, chosen,
        )  # fmt: skip
        if picked == 0:
            close(board, room, g)
            continue
        tokens = sum_of(prompts, window, chosen, picked)
        for j in range(picked):
            i = window[chosen[j]]
            take(board, taken, out, room, tokens_left, i, g, kv_tokens[i])
        place(projected, envelope, g, tokens, growth * picked)
    return out[: board[0].made]


@kernel
def route_immediate(
    table: IntArray,
    projected: IntArray,
    tokens: int,
    discounts: FloatArray,
    filling: float,
    growing: float,
    overflow: float,
    growth: int,
    request_tokens: int,
) -> IntArray:
    """Place one request of so many KV tokens where F is largest, ties to the lowest load."""
    weights = Weights(filling, growing, overflow)
    envelope = envelope_of(projected)
    margins = np.empty(envelope.shape[0], np.int64)
    best = best_worker(
        table[ROOM],
        table[TOKEN_ROOM],
        projected,
        envelope,
        margins,
        tokens + request_tokens,
        discounts,
        weights,
        growth,
        request_tokens,
    )
    out = np.empty((1 if best >= 0 else 0, 2), np.int64)
    if best >= 0:
        out[0, 0] = 0
        out[0, 1] = best
    return out
