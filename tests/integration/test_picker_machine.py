"""The core under whatever comes: each request answered once, ended once, the books at zero."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from picking import Picking, spec

from brsolver.cluster._state_kernels import W_ACTIVE, W_BACKLOG, W_LOAD, W_QUEUED, W_QUEUED_TOKENS
from integration.picker import Ask, End, Gauges, Placed, Usage
from integration.picker.events import Decided, Ended, Refusal, Returned

POLICIES = ("br-t", "br-0", "br-h", "fcfs", "jsq-load", "vllm")
WAIT_S = 2.0
SLOTS = 2
WORKERS = st.integers(0, 9)
ANY = st.randoms(use_true_random=False)


class Machine(RuleBasedStateMachine):
    policies = POLICIES
    mode = "pooled"

    @initialize(
        policy=st.sampled_from(POLICIES),
        capacity=st.sampled_from([None, 60]),
        prefill=st.booleans(),
        overdue=st.sampled_from(["refuse", "place"]),
    )
    def begin(self, policy, capacity, prefill, overdue):
        self.p = Picking(
            policy=policy,
            mode=self.mode,
            workers=2,
            slots=SLOTS,
            capacity=capacity,
            prefill=prefill,
            wait_max_s=WAIT_S,
            overdue=overdue,
            pool_max=5,
            down_s=3.0,
            lost_s=4.0,
            start_max_s=6.0,
            refresh_steps=4,
            block_tokens=4,
            cached_blocks=8,
        )
        self.added = 0
        self.asked: list[str] = []
        self.came: dict[str, float] = {}
        self.sequences: dict[str, int] = {}
        self.over: set[str] = set()
        self.back: list[str] = []

    @property
    def core(self):
        return self.p.core

    def placed(self):
        live = [n for n in self.asked if n not in self.over and n in self.core._books.known]
        return [n for n in live if isinstance(self.p.answer(n), Placed)]

    def close(self, name, end, usage=None):
        expected = name in self.core._books.known
        assert self.core.ended(name, end, usage) is expected
        assert not self.core.ended(name, end, usage)
        self.over.add(name)

    @rule(prompts=st.lists(st.integers(0, 80), min_size=2, max_size=6), turn=st.booleans())
    def burst(self, prompts, turn):
        for prompt in prompts:
            self.request(prompt, None, 0)
        if turn:
            self.core.advance()

    @rule(
        prompt=st.integers(0, 80),
        limit=st.none() | st.integers(0, 50),
        depth=st.integers(0, 4),
        sequences=st.integers(1, 3),
    )
    def asked_for(self, prompt, limit, depth, sequences):
        self.request(prompt, limit, depth, sequences)
        self.core.advance()

    def request(self, prompt, limit, depth, sequences=1):
        name = f"r{len(self.asked)}"
        self.asked.append(name)
        self.came[name] = self.p.clock.now
        answer = self.answering(name, sequences)
        ask = Ask(
            name,
            prompt,
            max_tokens=limit,
            blocks=tuple(range(depth)),
            key="k",
            sequences=sequences,
        )
        self.sequences[name] = sequences
        self.core.request(ask, answer)

    def answering(self, name, sequences):
        answers = self.p.answers[name] = []

        def answer(given):
            answers.append(given)
            if isinstance(given, Placed) and self.mode == "pooled":
                worker = self.core.workers[given.worker]
                assert worker.open
                overdue = self.p.clock.now - self.came[name] >= WAIT_S
                beyond = overdue and sequences > 1 and self.p.params.overdue == "place"
                assert worker.reserved <= worker.slots or beyond
            if isinstance(given, Placed):
                failed = self.core._books.known[name].failed
                others = {e.index for e in self.core.workers if e.open} - failed
                assert given.worker not in failed or not others

        return answer

    @precondition(lambda self: self.asked)
    @rule(random=ANY)
    def withdraw(self, random):
        name = random.choice(self.asked)
        held = name in self.core._books.known and not self.p.answers[name]
        assert self.core.withdraw(name) is held
        if held:
            self.over.add(name)

    @precondition(lambda self: self.placed())
    @rule(random=ANY, worker=WORKERS)
    def started(self, random, worker):
        name = random.choice(self.placed())
        worker %= len(self.core.workers)
        found = self.core.workers[worker]
        if found.open and found.reserved + self.sequences[name] <= found.slots:
            self.core.started(name, worker)
            assert self.core._books.known[name].worker == worker

    @precondition(lambda self: self.placed())
    @rule(random=ANY, turn=st.booleans())
    def came_back(self, random, turn):
        name = random.choice(self.placed())
        self.back.append(name)
        self.came[name] = self.p.clock.now
        self.core.again(name, self.answering(name, self.sequences[name]))
        if turn:
            self.core.advance()

    @precondition(lambda self: self.placed())
    @rule(random=ANY)
    def first_token(self, random):
        self.core.first_token(random.choice(self.placed()))

    @precondition(lambda self: self.placed())
    @rule(random=ANY)
    def finished(self, random):
        self.core.first_token(name := random.choice(self.placed()))
        self.p.run(0.1)
        self.close(name, End.FINISHED, Usage(10, 5))
        self.p.run(0.1)

    @precondition(lambda self: self.asked)
    @rule(
        random=ANY,
        end=st.sampled_from(list(End)),
        usage=st.none() | st.builds(Usage, st.none() | st.integers(-1, 99), st.integers(-1, 99)),
    )
    def ended(self, random, end, usage):
        self.close(random.choice(self.asked), end, usage)

    @rule(
        worker=WORKERS,
        gauges=st.builds(
            Gauges,
            running=st.none() | st.integers(0, 3),
            waiting=st.none() | st.integers(0, 2),
            kv_usage=st.none() | st.floats(0, 1),
            steps=st.none() | st.integers(0, 1000),
            generation_tokens=st.none() | st.integers(0, 1000),
        ),
    )
    def told(self, worker, gauges):
        self.core.told(worker % len(self.core.workers), gauges)

    @rule(
        worker=WORKERS,
        what=st.sampled_from(
            ["failed", "failed", "answered", "down", "up", "up", "retire", "add", "keep"]
        ),
        slots=st.integers(1, 3),
        capacity=st.sampled_from([None, 30, 60]),
    )
    def member(self, worker, what, slots, capacity):
        core = self.core
        found = core.workers[worker % len(core.workers)]
        if what == "add":
            new = len(core.workers)
            gone = [each.index for each in core.workers if each.gone]
            if gone or new < 5:
                self.added += 1
                index = core.add_worker(spec(100 + self.added, slots=slots))
                assert index == (gone[0] if gone else new)
        elif what == "keep":
            there = not found.gone
            assert core.keep(found.index, spec(0, slots=slots, capacity=capacity)) is there
            assert found.gone or (found.slots == slots and not found.draining)
        elif what == "down":
            core.down(found.index, "said so")
        elif what == "retire":
            core.retire(found.index)
        elif what == "up":
            if not found.gone:
                core.up(found.index)
        else:
            core.reported(found.index, ok=what == "answered", why="probe")

    @rule(worker=WORKERS, stored=st.sets(st.integers(0, 9)), removed=st.sets(st.integers(0, 9)))
    def cached(self, worker, stored, removed):
        self.core.cached_blocks(worker % len(self.core.workers), stored, removed)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.02, 0.5, 3.0]))
    def advance(self, seconds):
        self.p.run(seconds)
        for name in self.asked:
            request = self.core._books.known.get(name)
            if request is not None and not self.p.answers[name]:
                assert self.p.clock.now - request.since_s < WAIT_S

    @rule(seconds=st.sampled_from([1.0, 100.0]))
    def sleep(self, seconds):
        self.p.clock.now += seconds

    @invariant()
    def in_order(self):
        if not hasattr(self, "p"):
            return
        found = self.core.audit()
        assert found.balanced, found.wrong
        assert not [
            each
            for each in self.p.log.events
            if type(each).__name__ == "Fault"
            and each.kind in {"model", "answer", "listener", "advance", "decision"}
        ]
        assert all(len(answers) <= 1 for answers in self.p.answers.values())

    def teardown(self):
        if not hasattr(self, "p"):
            return
        for name in self.asked:
            self.core.ended(name, End.FINISHED)
        found = self.core.audit()
        assert found.balanced
        assert (found.held, found.reserved, len(self.core._books.ranks)) == (0, 0, 0)
        rows = self.core._state.workers[[W_ACTIVE, W_BACKLOG, W_LOAD, W_QUEUED, W_QUEUED_TOKENS]]
        assert not rows.any()
        gone = [e.name for e in self.p.log.of(Ended)] + [e.name for e in self.p.log.of(Refusal)]
        assert sorted(gone) == sorted(self.asked)
        decided = [e.name for e in self.p.log.of(Decided)]
        again = Counter(decided) - Counter(self.asked)
        assert again <= Counter(self.back)
        assert Counter(e.name for e in self.p.log.of(Returned)) == Counter(self.back)
        assert found.begun == len(self.asked) == sum(found.ended.values())


class Immediate(Machine):
    mode = "immediate"


@pytest.mark.parametrize("machine", [Machine, Immediate])
def test_whatever_comes_the_books_are_in_order(machine):
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
