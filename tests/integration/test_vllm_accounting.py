"""The books against a plain reading of what happened."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster._state_kernels import NONE
from brsolver.cluster.state import ClusterState
from integration.routing.identities import Identities
from integration.vllm.accounting import Books
from integration.vllm.requests import Request

RANKS = 3

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["send", "report", "end", "extend", "move", "resize"]),
        st.integers(0, 30),
        st.integers(0, RANKS - 1),
        st.integers(1, 50),
    ),
    max_size=60,
)


def output(name: str, tokens: int) -> SimpleNamespace:
    return SimpleNamespace(
        request_id=name,
        new_token_ids=[0] * tokens,
        finish_reason=None,
        events=None,
        prefill_stats=None,
    )


def books(
    slots: int = 2, capacity: int | None = None, *, identities: Identities | None = None
) -> Books:
    state = ClusterState([slots] * RANKS, capacity=[capacity] * RANKS, horizon=4, refresh_steps=2)
    return Books(state, identities or Identities(keyed=False), slots=slots, capacity=capacity)


@settings(deadline=None, max_examples=150)
@given(EVENTS, st.sampled_from([None, 120]))
def test_every_token_is_on_the_books_once_and_none_stays_behind(events, capacity):
    kept = books(capacity=capacity)
    plain: dict[str, list[int]] = {}  # name -> [rank, tokens]
    ranks = RANKS
    for kind, number, rank, tokens in events:
        name = str(number)
        rank = min(rank, ranks - 1)  # noqa: PLW2901 # fewer ranks may be left
        if kind == "send" and name not in plain:
            kept.charge(Request(name, tokens, 100, 0.0), rank)
            plain[name] = [rank, tokens]
        elif kind == "report" and name in plain:
            kept.report(plain[name][0])
            kept.progress([output(name, tokens % 4)])
            plain[name][1] += tokens % 4
        elif kind == "end":
            kept.release([name])
            plain.pop(name, None)
        elif kind == "extend" and name in plain:
            kept.extend(kept.get(name), tokens)
            plain[name][1] += tokens
        elif kind == "move" and name in plain:
            kept.move(kept.get(name), rank)
            plain[name][0] = rank
        elif kind == "resize":
            ranks = rank + 1
            kept.resize(ranks)
            plain = {each: row for each, row in plain.items() if row[0] < ranks}
        check(kept, plain, ranks)
    kept.release(list(plain))
    check(kept, {}, ranks)
    assert len(kept) == 0


def check(kept: Books, plain: dict[str, list[int]], ranks: int) -> None:
    table = kept.state.view_table()
    expected = np.zeros(kept.ranks, np.int64)
    for rank, tokens in plain.values():
        expected[rank] += tokens
    assert table[0].tolist() == expected.tolist()
    counts = [sum(rank == g for rank, _ in plain.values()) for g in range(kept.ranks)]
    assert (table[1] + table[2]).tolist() == counts
    assert set(plain) == {name for name in map(str, range(31)) if name in kept}
    identities = [kept.get(name).identity for name in plain]
    assert len(set(identities)) == len(identities)
    assert NONE not in identities


@settings(deadline=None, max_examples=60)
@given(EVENTS)
def test_no_more_run_than_there_are_slots_while_nothing_says_otherwise(events):
    kept = books(slots=2)
    for kind, number, rank, tokens in events:
        name = str(number)
        if kind == "send" and name not in kept:
            kept.charge(Request(name, tokens, 100, 0.0), rank)
        elif kind == "end":
            kept.release([name])
        active, queued = kept.state.view_table()[1:3]
        assert (active <= 2).all()
        # Nobody queues where there is a free slot.
        assert ((queued == 0) | (active == 2)).all()


def test_forecasts_know_requests_by_identity_when_there_are_many():
    identities = Identities(keyed=False)
    kept = books(slots=4000, identities=identities)
    requests = [Request(str(i), 5, i + 1, float(i)) for i in range(3000)]
    for request in requests:
        kept.charge(request, 0)
    limits = identities.columns.max_tokens
    assert limits is not None
    assert [int(limits[request.identity]) for request in requests] == list(range(1, 3001))


def test_a_step_begins_when_a_rank_reports_again():
    kept = books()
    assert [kept.report(rank) for rank in (0, 1, 2, 1, 0, 2, 2)] == [
        True, False, False, True, False, False, True,
    ]  # fmt: skip
    assert kept.step == 3


def test_books_taken_over_say_the_same():
    old = books(slots=1)
    for i in range(5):
        old.charge(Request(str(i), 10 + i, 100, 0.0), i % RANKS)
    old.progress([output("0", 3), output("3", 2)])
    new = books(slots=1)
    new.adopt(old)
    assert new.state.view_table()[0].tolist() == old.state.view_table()[0].tolist()
    new.release([str(i) for i in range(5)])
    assert new.state.view_table()[0].sum() == 0
