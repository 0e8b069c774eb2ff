"""What is wrong with a decision, by the kernel and by plain reading."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.policy import NO_LIMIT, ROOM, SLOTS, TOKEN_ROOM, VIEW_ROWS
from integration.vllm import router as r


def plainly(slots, room, tokens, prompts, pairs, immediate):  # noqa: PLR0911 # one per fault
    """The first thing wrong with `pairs`: (what, row)."""
    if immediate and len(pairs) != 1:
        return r.NOT_ONE, -1
    given_to: Counter[int] = Counter()
    brought: Counter[int] = Counter()
    seen = set()
    for row, (at, rank) in enumerate(pairs):
        if at not in range(len(prompts)):
            return r.NO_REQUEST, row
        if rank not in range(len(slots)) or slots[rank] == 0:
            return r.NO_RANK, row
        if at in seen:
            return r.TWICE, row
        seen.add(at)
        given_to[rank] += 1
        brought[rank] += prompts[at]
        if not immediate and given_to[rank] > room[rank]:
            return r.NO_SLOT, row
        if not immediate and brought[rank] > tokens[rank]:
            return r.NO_TOKENS, row
    return 0, -1


RANK = st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from([0, 5, 9, NO_LIMIT]))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(RANK, min_size=1, max_size=3),
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 3)), max_size=5),
    st.booleans(),
)
def test_the_kernel_finds_what_plain_reading_finds(ranks, prompts, pairs, immediate):
    slots, room, tokens = zip(*ranks, strict=True)
    table = np.zeros((VIEW_ROWS, len(ranks)), np.int64)
    table[SLOTS], table[ROOM], table[TOKEN_ROOM] = slots, room, tokens
    before = table.copy()
    found = r.find_wrong(
        table, np.array(prompts, np.int64), np.array(pairs, np.int64).reshape(-1, 2), immediate
    )
    assert found == plainly(slots, room, tokens, prompts, pairs, immediate)
    assert (table == before).all()


@settings(deadline=None, max_examples=100)
@given(st.lists(RANK, min_size=1, max_size=3), st.integers(1, 10))
def test_there_is_room_where_a_slot_and_tokens_are_free(ranks, prompt):
    slots, room, tokens = zip(*ranks, strict=True)
    table = np.zeros((VIEW_ROWS, len(ranks)), np.int64)
    table[SLOTS], table[ROOM], table[TOKEN_ROOM] = slots, room, tokens
    plain = any(free > 0 and left >= prompt for free, left in zip(room, tokens, strict=True))
    assert r.has_room(table, prompt) == plain
