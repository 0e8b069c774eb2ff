"""What ranks have yet to compute of prompts, by the books."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.cluster._state_kernels import W_BACKLOG
from brsolver.cluster.state import ClusterState
from integration.routing.identities import Identities
from integration.vllm.accounting import Books
from integration.vllm.deployment import Deployment, Scheduling
from integration.vllm.requests import Request

RANKS = 2


def books(slots: int = 4, *, capacity: int | None = None, **scheduling) -> Books:
    state = ClusterState([slots] * RANKS, capacity=[capacity] * RANKS)
    return Books(
        state,
        Identities(keyed=False),
        slots=slots,
        capacity=capacity,
        scheduling=Scheduling(**scheduling),
    )


def output(name: str, tokens: int = 1, cached: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        request_id=name,
        new_token_ids=[0] * tokens,
        finish_reason=None,
        events=None,
        prefill_stats=SimpleNamespace(num_cached_tokens=cached),
    )


def step(
    kept: Books,
    rank: int,
    *outputs: SimpleNamespace,
    computed: int | None = None,
    dummy: bool = False,
) -> None:
    """Let a rank report a step, and what it has computed of prompts if it tells."""
    details = None
    if computed is not None:
        details = SimpleNamespace(num_ctx_tokens=computed, is_dummy=dummy)
    batch = SimpleNamespace(
        outputs=list(outputs), scheduler_stats=SimpleNamespace(iteration_details=details)
    )
    kept.progress(batch.outputs)
    kept.stepped(rank, batch)


def backlog(kept: Books) -> list[int]:
    return kept.state.workers[W_BACKLOG].tolist()


def send(kept: Books, name: str, prompt: int, rank: int = 0) -> Request:
    request = Request(name, prompt, 100, 0.0)
    kept.charge(request, rank)
    return request


def test_a_prompt_is_owed_from_sending_to_the_first_token():
    kept = books()
    send(kept, "a", 100)
    send(kept, "b", 30, rank=1)
    step(kept, 0)
    assert backlog(kept) == [100, 30]
    step(kept, 0, output("a"))
    assert backlog(kept) == [0, 30]
    step(kept, 0, output("a"))
    assert backlog(kept) == [0, 30]


def test_steps_take_their_budget_off_the_oldest_that_run():
    kept = books(slots=2, budget=50)
    for name, prompt in (("a", 120), ("b", 40), ("c", 90)):
        send(kept, name, prompt)
    # The step that was under way when they came says nothing of them.
    step(kept, 0)
    assert backlog(kept) == [250, 0]
    step(kept, 0)
    step(kept, 0)
    assert backlog(kept) == [150, 0]
    # Twenty of `a`, and thirty of `b`; `c` has no slot.
    step(kept, 0, output("a"))
    assert backlog(kept) == [100, 0]
    # Whose first token has not come owes something: `b` took longer than the budget says.
    step(kept, 0, output("a"))
    assert backlog(kept) == [91, 0]
    step(kept, 0, output("a"), output("b"))
    assert backlog(kept) == [90, 0]


def test_sequences_that_decode_take_of_the_budget_and_a_chunk_is_a_limit():
    kept = books(budget=50, chunk=20)
    send(kept, "a", 10)
    step(kept, 0, output("a"))
    send(kept, "b", 100)
    send(kept, "c", 100)
    step(kept, 0, output("a"))
    assert backlog(kept) == [200, 0]
    step(kept, 0, output("a"))
    assert [kept.get(name).owed for name in "bc"] == [80, 80]
    kept = books(budget=50)
    send(kept, "a", 10)
    step(kept, 0, output("a"))
    send(kept, "b", 100)
    step(kept, 0, output("a"))
    step(kept, 0, output("a"))
    assert backlog(kept) == [51, 0]


def test_what_was_scheduled_ahead_counts_one_step_later():
    kept = books(budget=50, lag=2)
    send(kept, "a", 200)
    for left in (200, 200, 150):
        step(kept, 0)
        assert backlog(kept) == [left, 0]


def test_what_a_step_is_told_to_have_computed_wins():
    kept = books(budget=50)
    send(kept, "a", 200)
    send(kept, "b", 10)
    step(kept, 0, computed=70)
    assert backlog(kept) == [140, 0]
    # 130 of `a`, of which 30 were found in the cache, and nothing of `b`.
    step(kept, 0, output("a", cached=30), computed=100)
    assert backlog(kept) == [10, 0]
    step(kept, 0, output("a"), output("b"), computed=10)
    assert backlog(kept) == [0, 0]


def test_what_a_step_computed_for_other_servers_takes_nothing_off():
    known = Deployment(ranks=RANKS, slots=4, capacity=None, clients=2, index=0, moe=True, budget=50)
    kept = books(**asdict(known.scheduling("auto")))
    send(kept, "a", 200)
    for _ in range(3):
        step(kept, 0, computed=70)
    assert backlog(kept) == [200, 0]
    # Where there is but one, what is told counts, and be it not known when prompts are begun.
    kept = books(**asdict(replace(known, clients=1, interval=8).scheduling("auto")))
    send(kept, "a", 200)
    step(kept, 0, computed=70)
    assert backlog(kept) == [130, 0]


def test_a_dummy_step_computes_nobodys_prompt():
    kept = books(budget=50)
    send(kept, "a", 200)
    for _ in range(3):
        step(kept, 0, computed=70, dummy=True)
    assert backlog(kept) == [200, 0]


def test_further_input_is_owed_until_the_next_token():
    kept = books()
    request = send(kept, "a", 100)
    kept.extend(request, 30)
    assert backlog(kept) == [130, 0]
    step(kept, 0, output("a"))
    kept.extend(request, 50)
    assert backlog(kept) == [50, 0]
    step(kept, 0, output("a"))
    assert backlog(kept) == [0, 0]


def test_where_prompts_come_computed_nothing_is_owed():
    kept = books(computes=False, budget=50)
    send(kept, "a", 100)
    step(kept, 0)
    assert backlog(kept) == [0, 0]


@pytest.mark.parametrize("heal", ["rebuild", "adopt"])
def test_books_made_anew_owe_the_same(heal):
    kept = books(slots=2, budget=50)
    for i in range(4):
        send(kept, str(i), 100 + i)
    step(kept, 0, output("0"))
    step(kept, 0, output("0"))
    before = backlog(kept)
    assert before == [101 + 102 + 103 - 49, 0]
    if heal == "rebuild":
        kept.rebuild()
    else:
        kept, old = books(slots=2, budget=50), kept
        kept.adopt(old)
    assert backlog(kept) == before
    kept.release([str(i) for i in range(4)])
    assert backlog(kept) == [0, 0]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["send", "step", "told", "end", "extend", "move", "resize", "rebuild"]),
        st.integers(0, 12),
        st.integers(0, RANKS - 1),
        st.integers(1, 80),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(EVENTS, st.sampled_from([0, 16, 64]), st.sampled_from([None, 90]))
def test_it_is_the_sum_over_who_waits_for_a_first_token_and_never_negative(
    events, budget, capacity
):
    kept = books(slots=2, capacity=capacity, budget=budget)
    first: dict[str, bool] = {}
    ranks = RANKS
    for kind, number, where, tokens in events:
        name, rank = str(number), min(where, ranks - 1)
        if kind == "send" and name not in first:
            send(kept, name, tokens, rank)
            first[name] = True
        elif kind in {"step", "told"}:
            here = [each for each in first if kept.get(each).rank == rank]
            some = [each for at, each in enumerate(here) if (at + tokens) % 2]
            first |= dict.fromkeys(some, False)
            told = tokens if kind == "told" else None
            step(kept, rank, *(output(each) for each in some), computed=told)
        elif kind == "end":
            kept.release([name])
            first.pop(name, None)
        elif kind == "extend" and name in first:
            kept.extend(kept.get(name), tokens)
            first[name] = True
        elif kind == "move" and name in first:
            kept.move(kept.get(name), rank)
            # Who had begun to decode has its prompt where it goes.
            first[name] = not kept.get(name).generated
        elif kind == "resize":
            ranks = where + 1
            kept.resize(ranks)
            first = {each: owes for each, owes in first.items() if each in kept}
        elif kind == "rebuild":
            kept.rebuild()
        check(kept, first)
    kept.release(list(first))
    assert not any(backlog(kept))


def check(kept: Books, first: dict[str, bool]) -> None:
    owed = [0] * kept.ranks
    for name, owes in first.items():
        request = kept.get(name)
        owed[request.rank] += request.owed
        # Those owe something until their token comes, and at most their prompt.
        assert (1 <= request.owed <= request.prompt_tokens) if owes else request.owed == 0
    assert backlog(kept) == owed


class Scheduler:
    """vLLM's, of one rank: decodes first, then prompts first come first served, in chunks."""

    def __init__(self, budget: int, slots: int) -> None:
        self.budget, self.slots = budget, slots
        self.left: dict[str, int] = {}

    def schedule(self) -> list[str]:
        running = list(self.left)[: self.slots]
        room = self.budget - sum(self.left[name] == 0 for name in running)
        reported = [name for name in running if self.left[name] == 0]
        for name in running:
            part = min(room, self.left[name])
            if part:
                self.left[name] -= part
                room -= part
                reported += [name] if self.left[name] == 0 else []
        return reported


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(st.integers(1, 300), max_size=2), min_size=1, max_size=20),
    st.sampled_from([8, 32, 100]),
)
def test_a_rank_that_schedules_as_vllm_does_owes_what_the_books_say(arrivals, budget):
    kept, rank = books(slots=4, budget=budget), Scheduler(budget, 4)
    sent: dict[str, int] = {}
    for at in range(len(arrivals) + 30):
        # What comes while a step is under way is in the next one.
        outputs = rank.schedule()
        for prompt in arrivals[at] if at < len(arrivals) else ():
            name = str(len(sent))
            sent[name] = rank.left[name] = prompt
            send(kept, name, prompt)
        step(kept, 0, *(output(name) for name in outputs))
        assert backlog(kept)[0] == sum(rank.left.values())
