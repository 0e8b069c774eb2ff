"""Where things lie in the simulator's arrays and records."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brsolver._limits import MAX_ATTEMPTS

# Rows of the book, one column per request; B_ORDER and B_FINISHED list requests, by arrival and
# as they finish. B_CACHED and B_COMPUTED are tokens of a prompt that need no prefill, and those
# whose KV is there, while it is prefilled on its decode rank. B_CHAIN is where the blocks of a
# prompt begin in the chains, B_BLOCKS how many full ones it has, and B_FOUND the tokens of them
# that were in the rank's cache when the request first got a slot. B_MOVES is how often it was
# moved.
(
    B_PROMPT,
    B_OUTPUT,
    B_ORDER,
    B_WORKER,
    B_START_STEP,
    B_FINISH_STEP,
    B_PREEMPTIONS,
    B_STATUS,
    B_GENERATED,
    B_HANDLE,
    B_CAL_PREV,
    B_CAL_NEXT,
    B_QUEUE_NEXT,
    B_FINISHED,
    B_DUE,
    B_CACHED,
    B_COMPUTED,
    B_FIRST_STEP,
    B_CHAIN,
    B_BLOCKS,
    B_FOUND,
    B_MOVES,
) = range(22)
BOOK_ROWS = 22

# Rows that the book has besides, where turns follow others: which turn follows each request (NONE
# if none does), and lists of requests: those that are known to come, as a heap, and those rejected.
B_NEXT_TURN, B_COMING, B_REJECTED = range(BOOK_ROWS, BOOK_ROWS + 3)
BOOK_ROWS_WITH_TURNS = BOOK_ROWS + 3

# Rows of the workers' own queues: first and last that waits, first and last whose prompt is
# prefilled there, how many of these and their KV tokens, and whether more waited at the last
# release of prefill than it took; of the prefix cache the block that nobody uses for longest and
# for shortest, how many such there are, and uses of blocks beyond the first of each. M_COUNT and
# M_TOKENS are the requests that are moved there and not yet running again, and their KV tokens.
# For delayers: whether the rank could prefill in this step, and the sizes of its last attempts
# from D_RECENT on, a ring that D_AT goes round.
(
    Q_HEAD,
    Q_TAIL,
    P_HEAD,
    P_TAIL,
    P_COUNT,
    P_TOKENS,
    P_BOUND,
    C_OLDEST,
    C_NEWEST,
    C_IDLE,
    C_SHARED,
    M_COUNT,
    M_TOKENS,
    D_READY,
    D_AT,
    D_RECENT,
) = range(16)
WORKER_QUEUE_ROWS = D_RECENT + MAX_ATTEMPTS

# Fields of the links, of every block at every rank: requests that use the block there and one more,
# 0 if it is not there; of a block that nobody uses its neighbours by age.
USERS, OLDER, NEWER = range(3)
LINK_FIELDS = 3

# Rows of the times, one column per request; T_MOVED is when a move of it is over.
T_ARRIVAL, T_READY, T_START, T_FIRST, T_FINISH, T_MOVED = range(6)
TIME_ROWS = 6

# And the times: seconds from the end of the turn before to the arrival, and from there to being
# routable.
T_DELAY, T_PREFILL = range(TIME_ROWS, TIME_ROWS + 2)
TIME_ROWS_WITH_TURNS = TIME_ROWS + 2

CURSOR = np.dtype(
    [
        ("clock_s", np.float64),
        ("stop_s", np.float64),
        ("step", np.int64),
        ("stop_step", np.int64),
        ("max_steps", np.int64),
        ("last_admission", np.int64),
        ("arrived", np.int64),
        ("finished", np.int64),
        ("queued", np.int64),
        ("wait_head", np.int64),
        ("wait_tail", np.int64),
        ("fresh", np.int64),
        ("admitted", np.int64),
        ("samples", np.int64),
        ("sample_stride", np.int64),
        ("pool", np.int64),
        ("transit", np.int64),
        ("immediate", np.bool_),
        ("routed", np.bool_),
        ("asked", np.bool_),
        ("found", np.int64),
        ("found_at", np.int64),
        ("admitted_lost", np.bool_),
        ("outside", np.int64),
        ("tick", np.int64),
        ("rejected", np.int64),
        ("concurrency", np.int64),
        ("scheduler", np.int64),
        ("budget", np.int64),
        ("threshold", np.int64),
        ("interval", np.int64),
        ("prefilling", np.int64),
        ("ending", np.int64),
        ("apart", np.bool_),
        ("delayer", np.int64),
        ("watermark", np.float64),
        ("fill_target", np.float64),
        ("longest_hold", np.int64),
        ("partial_hold", np.int64),
        ("stall", np.int64),
        ("batching_wait", np.int64),
        ("attempts", np.int64),
        ("held", np.int64),
        ("stalled", np.int64),
        ("pending", np.int64),
        ("cache", np.int64),
        ("block", np.int64),
        ("move_every", np.int64),
        ("move_setup_s", np.float64),
        ("move_token_s", np.float64),
        ("move_head", np.int64),
        ("moving", np.int64),
        ("moved_tokens", np.int64),
        ("turns", np.bool_),
        ("known", np.int64),
        ("firsts", np.int64),
        ("first", np.int64),
        ("coming", np.int64),
        ("heard_finished", np.int64),
        ("heard_rejected", np.int64),
    ]
)
"""Where a run stands.

The clock, and the step and time at which kernels must come back; counts of requests that have
arrived, finished, queue at workers, were admitted since the last step (`fresh`) and since the
last forecast (`admitted`; `admitted_lost` if more than the buffer holds); head and tail of the
waiting requests; whether this step's decision has been taken, whether a policy has been `asked`
for one, what was `found` wrong with it and in which row; how many steps lay `outside` what was
measured; `tick`, the steps that decoded; how many were `rejected`; prompts that are `prefilling`
at the ranks, and that are `ending` in this step; whether this step prefills `apart` from those
that decode; for how many steps a delayer has `held` prefill back, for how many what is `pending`
has not grown (`stalled`; by TensorRT-LLM's rule steps held although all ranks could prefill); the
first of the requests under way from one worker to another (`move_head`, `NONE` if there is none),
how many these are (`moving`), how many KV tokens were moved;
whether `turns` follow others, how many requests are `known` to come or have come, the `firsts`
among all that follow nobody and the `first` of these that has not come, how many that follow are
`coming`, and of how many finished and rejected ones those that follow have been told; and what the
regime fixes.
"""
Cursor = NDArray[Any]
"""An array of one `CURSOR`."""

# Rows of the step log.
(
    F_START,
    F_DURATION,
    F_ENERGY,
    F_POST_ENERGY,
    F_LOST_SEQUENCES,
    F_LOST_KV,
    F_LOST_PREFILL,
    F_LOST_PADDING,
) = range(8)
FLOAT_LOG_ROWS = 8
(
    I_ACTIVE,
    I_ALIVE,
    I_SLOTS,
    I_MAX,
    I_MIN,
    I_SUM,
    I_POST_MAX,
    I_POST_MIN,
    I_POST_SUM,
    I_PREFILL,
    I_PREFILL_MAX,
    I_HELD,
) = range(12)
INT_LOG_ROWS = 12

# Rows of the buffers.
FRESH, ADMITTED = range(2)

# Who schedules prefill on the decode ranks.
NOBODY, V1, SGLANG = range(3)

# Whose rule says when ranks may prefill: nobody's, SGLang's, ATOM's, TensorRT-LLM's.
AT_ONCE, BY_SGLANG, BY_ATOM, BY_TRTLLM = range(4)

# What it may be: nothing, prompts under way only, anything.
HELD, UNDER_WAY, RELEASED = range(3)

# Why `advance` came back.
DONE, ROUTE, REFUSED, STALLED, LOG_FULL, EVENT, LIMIT, STEP, AGAIN = range(9)

# RequestStatus, as numbers.
PENDING, WAITING, IN_QUEUE, RUNNING_NOW, FINISHED, REJECTED = range(6)

IDLE_WATTS, BUSY_WATTS, POWER_EXPONENT = 100.0, 300.0, 0.7
"""Energy model of [BFIO]; see "Figures" in docs/simulator.md."""
