"""Hashes of prefixes, and the history of what workers have cached."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from integration.routing.prefixes import (
    CHARACTERS,
    MOST_BLOCKS,
    PrefixHistory,
    block_hashes,
    is_of_tokens,
)

IDS = st.lists(st.integers(0, 3), max_size=40)
BLOCK = 4


@given(one=IDS, other=IDS)
def test_blocks_are_equal_as_far_as_prefixes_are(one, other):
    mine, theirs = block_hashes(one, BLOCK), block_hashes(other, BLOCK)
    assert len(mine) == len(one) // BLOCK
    for depth, (left, right) in enumerate(zip(mine, theirs, strict=False), 1):
        assert (left == right) == (one[: depth * BLOCK] == other[: depth * BLOCK])


@given(text=st.text(st.characters(), max_size=100), more=st.text(max_size=40))
def test_texts_have_blocks_of_their_own(text, more):
    mine = block_hashes(text, BLOCK)
    assert mine == block_hashes(text + more, BLOCK)[: len(mine)]
    assert len(mine) == len(text) // (BLOCK * CHARACTERS)
    assert all(0 <= each < 2**63 for each in mine)


@given(prompt=IDS | st.text(max_size=100), salt=st.text())
def test_hashes_say_whether_they_are_of_tokens(prompt, salt):
    for block in block_hashes(prompt, BLOCK, salt=salt):
        assert is_of_tokens(block) == isinstance(prompt, list)


def test_models_and_kinds_of_prompt_are_kept_apart():
    ids = block_hashes(range(8), 8)
    assert ids != block_hashes(range(8), 8, salt="other")
    assert block_hashes("x" * 32, 8, salt="a") != block_hashes("x" * 32, 8, salt="b")
    assert block_hashes("x" * 32, 0) == ()
    assert len(block_hashes(range(10 * MOST_BLOCKS), 1)) == MOST_BLOCKS


class Plain:
    """The history, block by block."""

    def __init__(self, most):
        self.most = most
        self.of = [OrderedDict(), OrderedDict()]
        self.told_of = [None, None]

    def used(self, worker, blocks):
        told = self.told_of[worker] or set()
        for block in reversed(blocks[: self.most]):
            if block not in told:
                self.of[worker].pop(block, None)
                self.of[worker][block] = None
        while len(self.of[worker]) > self.most:
            self.of[worker].popitem(last=False)

    def ended(self, worker, blocks):
        # What engines tell of are blocks of token ids, whose hashes are even.
        if self.told_of[worker] is not None and blocks and blocks[0] % 2 == 0:
            for block in blocks:
                self.of[worker].pop(block, None)

    def told(self, worker, stored, removed):
        if self.told_of[worker] is None:
            self.told_of[worker] = set()
            for block in [each for each in self.of[worker] if each % 2 == 0]:
                del self.of[worker][block]
        for block in removed:
            if self.of[worker].pop(block, self) is self:
                self.told_of[worker].discard(block)
        for block in stored:
            self.of[worker].pop(block, None)
            self.told_of[worker].add(block)

    def clear(self, worker):
        self.of[worker].clear()
        if self.told_of[worker] is not None:
            self.told_of[worker].clear()

    def open(self, worker):
        self.clear(worker)
        self.told_of[worker] = None

    def all_of(self, worker):
        return set(self.of[worker]) | (self.told_of[worker] or set())

    def cached(self, blocks):
        depths = []
        for worker in (0, 1):
            depth = 0
            while depth < len(blocks) and blocks[depth] in self.all_of(worker):
                depth += 1
            depths.append(depth * BLOCK)
        return depths


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["used", "ended", "stored", "removed", "clear", "open"]),
            st.integers(0, 1),
            st.lists(st.integers(0, 9), max_size=6, unique=True),
        ),
        max_size=30,
    )
)
def test_the_history_is_that_of_its_plain_reading(events):
    history, plain = PrefixHistory(BLOCK, 5), Plain(5)
    history.open(0)
    history.open(1)
    for what, worker, blocks in events:
        for each in (history, plain):
            if what == "stored":
                each.told(worker, blocks, ())
            elif what == "removed":
                each.told(worker, (), blocks)
            elif what in {"used", "ended"}:
                getattr(each, what)(worker, blocks)
            else:
                getattr(each, what)(worker)
        assert history.cached_tokens(blocks).tolist() == plain.cached(blocks)
        assert [history.held(each) for each in (0, 1)] == [len(plain.all_of(w)) for w in (0, 1)]
    assert set(history._workers_of) == plain.all_of(0) | plain.all_of(1)


def test_many_workers_are_told_apart():
    history = PrefixHistory(BLOCK, 100)
    for worker in range(70):
        history.open(worker)
        history.used(worker, range(worker))
    assert (history.cached_tokens(range(70)) == BLOCK * np.arange(70)).all()
