"""Where things lie in the simulator's arrays."""

# Rows of the book, one column per request.
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
    B_WAITING,
    B_WAITING_TOKENS,
    B_WAITING_SINCE,
    B_DUE,
) = range(18)
BOOK_ROWS = 18

# Rows of the times, one column per request.
T_ARRIVAL, T_READY, T_START, T_FIRST, T_FINISH = range(5)
TIME_ROWS = 5

# Entries of the control block.
(
    C_STEP,
    C_ARRIVED,
    C_WAIT_HEAD,
    C_WAIT_TAIL,
    C_ROUTED,
    C_FINISHED,
    C_QUEUED,
    C_LAST_ADMISSION,
    C_FRESH,
    C_ADMITTED,
    C_ADMITTED_LOST,
    C_SAMPLE_STRIDE,
    C_SAMPLES,
    C_POOL,
    C_IMMEDIATE,
    C_STOP_STEP,
    C_REJECTED,
    C_TRANSIT,
) = range(18)
CONTROL_SIZE = 18

# Entries of the clock block.
CLOCK, STOP_S = range(2)

# Rows of the step log.
F_START, F_DURATION, F_ENERGY, F_POST_ENERGY = range(4)
FLOAT_LOG_ROWS = 4
I_ACTIVE, I_ALIVE, I_SLOTS, I_MAX, I_MIN, I_SUM, I_POST_MAX, I_POST_MIN, I_POST_SUM = range(9)
INT_LOG_ROWS = 9

# Rows of the buffers.
FRESH, ADMITTED = range(2)

# Entries of the step-time block.
S_MODEL, S_BASE, S_PER_TOKEN, S_PER_MEAN = range(4)
MODEL_LINEAR, MODEL_TABLE = 0.0, 1.0

# Why `advance` came back.
DONE, ROUTE, STALLED, LOG_FULL, EVENT, LIMIT, STEP, AGAIN = range(8)

# What `apply` found.
OK, BAD_INDEX, TWICE, BAD_WORKER, NO_SLOT, NO_TOKENS = range(6)

# RequestStatus, as numbers.
PENDING, WAITING, IN_QUEUE, RUNNING_NOW, FINISHED, REJECTED = range(6)

IDLE_WATTS, BUSY_WATTS, POWER_EXPONENT = 100.0, 300.0, 0.7
"""Energy model of [BFIO] (formulation §6)."""
