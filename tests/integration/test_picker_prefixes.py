"""Hashes of prefixes, and the history of what workers have cached."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from integration.routing.prefixes import CHARACTERS, MOST_BLOCKS, PrefixHistory, block_hashes

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

    def used(self, worker, blocks):
        for block in reversed(blocks[: self.most]):
            self.of[worker].pop(block, None)
            self.of[worker][block] = None
        while len(self.of[worker]) > self.most:
            self.of[worker].popitem(last=False)

    def cached(self, blocks):
        depths = []
        for mine in self.of:
            depth = 0
            while depth < len(blocks) and blocks[depth] in mine:
                depth += 1
            depths.append(depth * BLOCK)
        return depths


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["used", "stored", "removed", "clear", "open"]),
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
        if what == "used":
            history.used(worker, blocks)
            plain.used(worker, blocks)
        elif what == "stored":
            history.told(worker, blocks, ())
            for block in blocks:
                plain.used(worker, [block])
        elif what == "removed":
            history.told(worker, (), blocks)
            for block in blocks:
                plain.of[worker].pop(block, None)
        else:
            getattr(history, what)(worker)
            plain.of[worker].clear()
        assert history.cached_tokens(blocks).tolist() == plain.cached(blocks)
        assert [history.held(each) for each in (0, 1)] == [len(each) for each in plain.of]
    known = set(plain.of[0]) | set(plain.of[1])
    assert set(history._workers_of) == known


def test_many_workers_are_told_apart():
    history = PrefixHistory(BLOCK, 100)
    for worker in range(70):
        history.open(worker)
        history.used(worker, range(worker))
    assert (history.cached_tokens(range(70)) == BLOCK * np.arange(70)).all()
