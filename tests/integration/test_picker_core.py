"""What the core does in single situations."""

from __future__ import annotations

from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picking import HARDWARE, Clock, Log, Picking, spec

from brsolver.cluster.view import ROOM, SLOTS
from brsolver.errors import BrsolverError, ParameterError, StateError
from integration.picker import (
    Ask,
    Core,
    End,
    Gauges,
    PickerParams,
    Placed,
    Refused,
    Usage,
    WorkerSpec,
)
from integration.picker.events import (
    NOWHERE,
    Decided,
    Ended,
    Fault,
    FirstToken,
    Refusal,
    Requested,
    Started,
    Stepped,
    WorkerChanged,
)

POLICIES = (
    *("br-t", "br-0", "br-h", "br-ramp", "random", "round-robin", "p2c", "p2c-load", "jsq"),
    *("jsq-load", "vllm-0.20", "vllm", "sglang-total-tokens", "atom-least-tokens", "fcfs", "lpt"),
    *("tpu-nearest-finish", "trtllm-kv-admission", "prefix-affinity", "prefix-within", "bf-io"),
    *("sglang-cache-aware", "trtllm-kv-aware", "llm-d-prefix", "phi"),
)


def serve(picking: Picking, count: int, *, every: float = 0.01, lasting: float = 0.3) -> None:
    """Let requests come and end, each so long after it was placed."""
    ends: list[tuple[float, str]] = []
    seen: set[str] = set()
    for index in range(count * 40):
        if index < count:
            picking.request(f"r{index}", 5 + 7 * index % 50, blocks=(index % 3, 9))
        picking.run(every)
        for decided in picking.log.of(Decided):
            if decided.name not in seen:
                seen.add(decided.name)
                picking.core.started(decided.name, decided.worker)
                ends.append((picking.clock.now + lasting, decided.name))
        while ends and ends[0][0] <= picking.clock.now:
            _, name = ends.pop(0)
            picking.core.ended(name, End.FINISHED, Usage(10, 20))
        if index >= count and len(seen) == count and not ends:
            return


@pytest.mark.parametrize("mode", ["pooled", "immediate"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves(policy, mode):
    p = Picking(policy=policy, mode=mode, workers=3, slots=2, refresh_steps=4)
    serve(p, 20)
    found = p.core.audit()
    assert found.balanced
    assert found.ended == {End.FINISHED: 20}
    assert not p.log.of(Fault)
    assert not any(each.fallback for each in p.log.of(Decided))


def test_an_idle_cluster_is_answered_at_once():
    p = Picking()
    p.request("a")
    assert isinstance(p.answer("a"), Placed)
    assert p.answer("a").fallbacks == (1 - p.worker_of("a"),)


def test_a_request_waits_until_a_slot_is_free():
    p = Picking(workers=1, slots=1)
    p.request("a")
    p.request("b")
    p.run(1.0)
    assert p.answer("b") is None
    assert p.core.audit().held == 1
    assert p.core.ended("a", End.FINISHED)
    p.run(0.1)
    assert p.worker_of("b") == 0


def test_nobody_is_held_longer_than_said_and_then_refused():
    p = Picking(workers=1, slots=1, wait_max_s=2.0, retry_after_s=3.0)
    p.request("a")
    p.request("b")
    p.run(1.99)
    assert p.answer("b") is None
    p.run(0.02)
    assert p.answer("b") == Refused(429, "no worker had room for 2 s", 3.0)
    assert not p.core.ended("b", End.FINISHED)
    assert [each.name for each in p.log.of(Refusal)] == ["b"]


class Idler:
    """Places nobody."""

    def route(self, cluster, waiting):
        return []


def with_policy(p: Picking, policy) -> None:
    from brsolver.policy import as_policy

    p.core._made.session.policy = as_policy(policy)


def test_a_policy_that_places_nobody_keeps_nobody_waiting():
    p = Picking(wait_max_s=2.0, stall_s=0.5)
    with_policy(p, Idler())
    p.request("a")
    assert isinstance(p.answer("a"), Placed)
    p.request("b")
    p.run(0.4)
    assert p.answer("b") is None
    p.run(0.7)
    assert isinstance(p.answer("b"), Placed)
    assert [each.fallback for each in p.log.of(Decided)] == [True, True]
    assert [each.kind for each in p.log.of(Fault)] == ["decision", "decision"]


class Raiser:
    """Fails."""

    def route(self, cluster, waiting):
        raise RuntimeError("broken")


@pytest.mark.parametrize("mode", ["pooled", "immediate"])
def test_where_the_policy_fails_the_least_loaded_worker_is_taken(mode):
    p = Picking(workers=3, mode=mode, max_failures=2, start_max_s=0.0)
    with_policy(p, Raiser())
    for index, tokens in enumerate((50, 20, 30, 5, 5)):
        p.request(f"r{index}", tokens)
        p.run(0.0)
    workers = [p.worker_of(f"r{index}") for index in range(5)]
    assert sorted(workers[:3]) == [0, 1, 2]
    assert workers[3] == workers[1]
    assert all(each.fallback for each in p.log.of(Decided))
    assert p.core.audit().balanced
    # After so many it is asked no more, for a while.
    assert len(p.log.of(Fault)) == 2
    p.run(p.params.rest_s)
    for index in range(5, 8):
        p.core.ended(f"r{index - 5}", End.FINISHED)
        p.request(f"r{index}")
        p.run(0.0)
    assert len(p.log.of(Fault)) == 4


def test_a_policy_that_is_late_is_not_waited_for():
    class Sleeper:
        def route(self, cluster, waiting):
            while True:
                pass

    p = Picking(budget_ms=20.0)
    with_policy(p, Sleeper())
    p.request("a")
    assert isinstance(p.answer("a"), Placed)
    assert p.log.of(Decided)[0].fallback


def test_a_full_pool_refuses():
    p = Picking(workers=1, slots=1, pool_max=2)
    for name in "abcd":
        p.request(name)
        p.run()
    assert [type(p.answer(name)) for name in "abcd"] == [Placed, type(None), type(None), Refused]
    assert p.answer("d").status == 429
    assert p.answer("d").retry_after_s == 1.0


def test_a_full_pool_refuses_nobody_for_whom_there_is_room():
    p = Picking(workers=1, slots=6, pool_max=2)
    for name in "abcdef":
        p.request(name)
    p.run(10.0)
    assert all(isinstance(p.answer(name), Placed) for name in "abcdef")


def test_without_a_worker_all_are_refused():
    p = Picking(workers=2, slots=1)
    for name in "abc":
        p.request(name)
        p.run(0.1)
    p.core.down(0, "no health")
    p.core.down(1)
    p.run()
    p.request("d")
    assert [p.answer(name).status for name in "cd"] == [503, 503]
    assert p.core.audit().reserved == 2
    p.core.up(1)
    p.core.ended("a", End.RESET)
    p.core.ended("b", End.RESET)
    p.request("e")
    assert p.worker_of("e") == 1


def test_who_withdraws_leaves_nothing_behind():
    p = Picking(workers=1, slots=1)
    p.request("a")
    p.request("b")
    p.run(0.1)
    assert not p.core.withdraw("a")
    assert p.core.withdraw("b")
    assert not p.core.withdraw("b")
    assert p.core.ended("a", End.DISCONNECTED)
    p.run(1.0)
    assert p.answer("b") is None
    assert p.core.audit().ended == {End.DISCONNECTED: 2}
    assert {each.name: each.worker for each in p.log.of(Ended)} == {"a": 0, "b": NOWHERE}


def test_events_tell_all_that_happens():
    p = Picking(workers=1)
    p.request("a", stream=True)
    p.run(0.5)
    p.core.started("a", 0)
    p.core.started("a", 0)
    p.core.first_token("a")
    p.core.first_token("a")
    p.clock.now += 1.0
    p.core.ended("a", End.FINISHED, Usage(10, 11))
    kinds = [type(each) for each in p.log.events if type(each) is not Stepped]
    assert kinds == [Requested, Decided, Started, FirstToken, Ended]
    end = p.log.of(Ended)[0]
    assert (end.ttft_s, end.tpot_s) == (0.5, pytest.approx(0.1))
    assert end.tokens == 11
    assert p.log.of(Stepped)[0].running == 1


def test_a_retry_moves_the_reservation():
    p = Picking()
    p.request("a")
    chosen = p.worker_of("a")
    p.core.started("a", 1 - chosen)
    found = p.core.audit()
    assert [each.reserved for each in found.workers][chosen] == 0
    assert found.workers[1 - chosen].started == 1
    assert found.balanced
    with pytest.raises(StateError, match="no worker 7"):
        p.core.started("a", 7)


def test_names_are_used_once():
    p = Picking()
    p.request("a")
    with pytest.raises(StateError, match="is here already"):
        p.core.request(Ask("a", 3), print)


def test_a_worker_that_fails_is_down_and_tried_again():
    p = Picking(workers=2, down_after=2, down_s=5.0)
    p.core.reported(0, ok=False, why="refused")
    p.core.reported(0, ok=True)
    p.core.reported(0, ok=False, why="refused")
    assert p.core.workers[0].open
    p.core.reported(0, ok=False, why="refused")
    assert not p.core.workers[0].open
    for index in range(4):
        p.request(f"r{index}")
        p.run(0.01)
        assert p.worker_of(f"r{index}") == 1
    p.run(4.0)
    p.core.reported(0, ok=False, why="refused")
    p.run(4.0)
    assert not p.core.workers[0].open
    p.run(1.0)
    assert p.core.workers[0].open
    p.core.reported(0, ok=False, why="refused")
    assert not p.core.workers[0].open
    told = [(each.what, each.why) for each in p.log.of(WorkerChanged)]
    assert told[0] == ("down", "2 failures in a row, the last: refused")
    assert [what for what, _ in told] == ["down", "up", "down"]


def test_streams_that_break_take_a_worker_down_and_refused_ones_do_not():
    p = Picking(workers=1, down_after=2, slots=8)
    for index, end in enumerate([End.REJECTED] * 4 + [End.RESET, End.WORKER_DIED]):
        assert p.core.workers[0].open
        p.request(f"r{index}")
        p.core.ended(f"r{index}", end)
    assert not p.core.workers[0].open


def test_a_worker_that_hangs_gets_one_request_at_a_time_and_loses_them():
    p = Picking(workers=2, slots=4, down_after=1, down_s=5.0, lost_s=20.0, policy="fcfs")
    p.request("first")
    hangs = p.worker_of("first")
    p.core.ended("first", End.TIMEOUT)
    assert not p.core.workers[hangs].open
    for turn in range(3):
        p.core.reported(hangs, ok=True)
        p.run(4.9)
        assert not p.core.workers[hangs].open
        p.run(0.2)
        for index in range(4):
            p.request(f"r{turn}.{index}")
            p.run(0.01)
        mine = [n for n in p.core._books.known if p.worker_of(n) == hangs]
        assert len(mine) <= 1
        for name in list(p.core._books.known):
            if name not in mine:
                p.core.ended(name, End.FINISHED)
        if turn < 2:
            for name in mine:
                p.core.ended(name, End.TIMEOUT)
            p.core.reported(hangs, ok=False, why="hangs")
    for _ in range(10):
        p.core.reported(hangs, ok=False, why="hangs")
        p.run(1.0)
    assert p.core.audit().reserved == 0
    assert End.WORKER_DIED in p.core.audit().ended


def test_a_sign_of_life_ends_the_trial():
    p = Picking(workers=1, slots=4, down_after=1, down_s=5.0, policy="fcfs")
    p.request("a")
    p.core.ended("a", End.RESET)
    p.run(5.1)
    for name in "bcd":
        p.request(name)
        p.run(0.1)
    assert isinstance(p.answer("b"), Placed)
    assert p.answer("c") is p.answer("d") is None
    p.core.first_token("b")
    p.run(0.1)
    assert isinstance(p.answer("c"), Placed)
    assert isinstance(p.answer("d"), Placed)


def test_probes_do_not_bring_back_whom_requests_took_down():
    p = Picking(workers=2, slots=8, down_after=2, policy="fcfs")
    p.core.down(1)
    for name in "ab":
        p.request(name)
        p.core.reported(0, ok=True)
        p.core.ended(name, End.RESET)
    p.core.reported(0, ok=True)
    assert not p.core.workers[0].open
    p.core.up(0)
    assert p.core.workers[0].open


def test_streams_of_a_worker_that_stays_down_are_lost():
    p = Picking(workers=2, lost_s=5.0)
    p.request("a")
    worker = p.worker_of("a")
    p.core.started("a", worker)
    p.core.down(worker)
    p.run(4.0)
    assert p.core.audit().reserved == 1
    p.run(1.1)
    assert p.core.audit().ended == {End.WORKER_DIED: 1}
    assert not p.core.ended("a", End.RESET)


def test_a_retired_worker_finishes_what_it_has():
    p = Picking(workers=2)
    p.request("a")
    left = p.worker_of("a")
    p.core.retire(left)
    for index in range(3):
        p.request(f"r{index}")
        p.run(0.1)
        assert p.worker_of(f"r{index}") == 1 - left
    assert p.core.audit().workers[left].state == "draining"
    p.core.ended("a", End.FINISHED)
    assert p.core.audit().workers[left].state == "gone"
    assert p.core.add_worker(p.core.workers[left].spec) == left
    p.request("b")
    p.run(0.1)
    assert p.worker_of("b") == left


def test_a_worker_of_other_slots_is_given_as_many():
    p = Picking(workers=1, slots=1)
    for name in ("a", "b", "c"):
        p.request(name)
    p.run(0.1)
    assert p.core.audit().held == 2
    assert p.core.keep(0, spec(0, slots=3))
    p.run(0.1)
    audit = p.core.audit()
    assert (audit.held, audit.workers[0].slots, audit.wrong) == (0, 3, ())
    with pytest.raises(ParameterError, match="the tokens of a step"):
        p.core.keep(0, spec(0, slots=10**6))
    p.core.retire(0)
    assert p.core.audit().workers[0].state == "draining"
    assert p.core.keep(0, spec(0))
    assert (p.core.audit().workers[0].state, p.core.audit().workers[0].slots) == ("up", 1)
    p.core.retire(0)
    for name in ("a", "b", "c"):
        p.core.ended(name, End.FINISHED)
    assert not p.core.keep(0, spec(0, slots=2))
    assert p.core.audit().workers[0].state == "gone"


def test_a_worker_of_another_capacity_is_given_as_much():
    p = Picking(workers=1, capacity=1000)
    assert p.core.keep(0, spec(0, capacity=15))
    for name in ("a", "b"):
        p.request(name, 10)
    p.run(0.1)
    assert (p.core.audit().held, p.core.audit().workers[0].capacity) == (1, 15)
    assert p.core.keep(0, spec(0))
    p.run(0.1)
    assert (p.core.audit().held, p.core.audit().workers[0].capacity) == (0, 1000)
    assert p.core.audit().balanced


def test_a_worker_that_comes_is_used():
    p = Picking(workers=1, slots=1)
    p.request("a")
    p.request("b")
    p.run(0.1)
    assert p.core.add_worker(spec(1)) == 1
    p.run(0.1)
    assert p.worker_of("b") == 1
    with pytest.raises(ParameterError, match="is there already"):
        p.core.add_worker(spec(1))


def test_who_is_never_taken_is_lost():
    p = Picking(start_max_s=3.0)
    p.request("a")
    p.run(2.9)
    assert p.core.audit().reserved == 1
    p.run(0.2)
    assert p.core.audit().ended == {End.TIMEOUT: 1}


def test_what_an_engine_runs_beyond_our_own_takes_its_slots():
    p = Picking(workers=1, slots=2, capacity=1000)
    p.core.told(0, Gauges(running=2, waiting=0, kv_usage=0.5))
    p.request("a")
    p.run(0.1)
    assert p.answer("a") is None
    assert p.core.audit().workers[0].foreign == 2
    p.core.told(0, Gauges(running=1, waiting=0, kv_usage=0.5))
    p.run(0.1)
    assert isinstance(p.answer("a"), Placed)


@pytest.mark.parametrize("policy", ["br-t", "br-0", "fcfs"])
def test_nobody_is_held_for_steps_that_do_not_come(policy):
    p = Picking(workers=2, slots=4, policy=policy)
    for worker in range(2):
        p.core.told(worker, Gauges(running=1))
    p.request("a")
    p.run(0.2)
    assert isinstance(p.answer("a"), Placed)


def test_what_may_be_our_own_counts_when_told_twice():
    p = Picking(workers=1, slots=4)
    p.request("a")
    for foreign in (0, 2):
        p.core.told(0, Gauges(running=3))
        assert p.core.audit().workers[0].foreign == foreign


def test_what_engines_told_long_ago_does_not_count():
    p = Picking(workers=1, slots=1)
    p.core.told(0, Gauges(running=1))
    p.core.told(0, Gauges(running=1))
    p.request("a")
    p.run(1.0)
    assert p.answer("a") is None
    p.run(20.0)
    assert isinstance(p.answer("a"), Placed)


def test_a_failed_policy_leaves_nobody_without_an_answer_whatever_is_full():
    p = Picking(workers=2, slots=1, capacity=20, mode="immediate")
    with_policy(p, Raiser())
    for index in range(6):
        p.request(f"r{index}", 15)
        assert isinstance(p.answer(f"r{index}"), Placed)


def test_who_is_never_taken_is_no_fault_of_its_worker():
    p = Picking(workers=1, start_max_s=1.0, down_after=1)
    p.request("a")
    p.run(2.0)
    assert p.core.workers[0].open


def test_tokens_beyond_the_books_take_room():
    p = Picking(workers=2, slots=4, capacity=100, policy="jsq-load")
    for worker, usage in ((0, 0.95), (1, 0.0)):
        p.core.told(worker, Gauges(running=1, kv_usage=usage))
    for index in range(3):
        p.request(f"r{index}", 10)
        p.run(0.1)
        assert p.worker_of(f"r{index}") == 1


def test_ignored_pins_are_reported_once():
    p = Picking(specs=[spec(i, rank=i, port=80) for i in range(2)], slots=16, policy="jsq-load")
    for index in range(12):
        p.request(f"r{index}", 10)
        p.run(0.01)
    for _ in range(30):
        p.clock.now += 1.0
        p.core.told(0, Gauges(running=12, waiting=0))
        p.core.told(1, Gauges(running=0, waiting=0))
    faults = [each for each in p.log.of(Fault) if each.kind == "pin-ignored"]
    assert len(faults) == 2
    assert "host:80 seems to ignore the rank" in faults[0].text


def test_pins_that_are_kept_are_not_reported():
    p = Picking(specs=[spec(i, rank=i, port=80) for i in range(2)], slots=16, policy="jsq-load")
    for index in range(12):
        p.request(f"r{index}", 10)
        p.run(0.01)
    for turn in range(60):
        p.clock.now += 1.0
        for worker in range(2):
            p.core.told(worker, Gauges(running=p.core.workers[worker].reserved - turn % 2))
    assert not p.log.of(Fault)


def finished_one_by_one(p, count, at):
    """Have requests served one after another, each at the rank that `at` makes of its pin."""
    finished = [0, 0]
    for index in range(count):
        p.request(f"r{index}", 10)
        p.run(0.01)
        finished[at(p.worker_of(f"r{index}"))] += 1
        assert p.core.ended(f"r{index}", End.FINISHED)
        p.clock.now += 1.0
        for worker in range(2):
            p.core.told(worker, Gauges(running=0, waiting=0, finished=finished[worker]))
    return [each.text for each in p.log.of(Fault) if each.kind == "pin-ignored"]


def test_ignored_pins_are_reported_where_ranks_run_equally_many():
    specs = [spec(i, rank=i, port=80) for i in range(2)]
    p = Picking(specs=specs, slots=16, policy="random")
    chosen = cycle((0, 1))
    # Once for all ranks of the server.
    [text] = finished_one_by_one(p, 300, lambda _: next(chosen))
    assert "requests that were sent to it did not come" in text
    assert "host:80 seems to ignore the rank" in text


def test_pins_that_are_kept_are_not_reported_where_ranks_run_equally_many():
    specs = [spec(i, rank=i, port=80) for i in range(2)]
    p = Picking(specs=specs, slots=16, policy="random")
    assert finished_one_by_one(p, 300, lambda rank: rank) == []


def test_what_is_sent_to_a_worker_and_lost_there_is_counted():
    p = Picking(workers=2, slots=4, policy="jsq")

    def counts():
        return [(each.sent, each.lost) for each in p.core.workers]

    p.core.rebuild([("before", 0, 10, 1)])
    assert counts() == [(0, 0)] * 2
    p.request("a", sequences=3)
    p.run(0.1)
    assert p.worker_of("a") == 1
    p.answers["a"] = []
    p.core.again("a", p.answers["a"].append)
    p.run(0.1)
    assert p.worker_of("a") == 0
    assert counts() == [(3, 0), (3, 3)]
    p.core.started("a", 1)
    assert counts() == [(3, 3), (6, 3)]
    p.core.ended("a", End.FINISHED)
    # Which rank of a server has those that ran before is not known for certain.
    p.core.ended("before", End.DISCONNECTED)
    assert counts() == [(3, 3), (6, 3)]
    p.request("b")
    p.run(0.1)
    p.core.ended("b", End.RESET)
    assert sum(lost for _, lost in counts()) == 7


def test_streams_that_a_server_has_lost_are_ended():
    p = Picking(workers=1, leak_s=5.0, start_max_s=0.0)
    p.request("a")
    p.core.started("a", 0)
    p.clock.now += 1.0
    p.core.told(0, Gauges(running=0, waiting=0))
    p.request("b")
    p.run(4.9)
    p.core.told(0, Gauges(running=0, waiting=0))
    assert p.core.audit().reserved == 2
    p.clock.now += 0.2
    p.core.told(0, Gauges(running=0, waiting=0))
    assert [each.name for each in p.log.of(Ended)] == ["a"]


def test_books_are_rebuilt_from_what_runs():
    p = Picking(workers=2, capacity=1000)
    assert p.core.rebuild([("a", 0, 100, 5), ("b", 1, 50, 0), ("a", 0, 100, 5)]) == 2
    found = p.core.audit()
    assert found.balanced
    assert [(each.reserved, each.started) for each in found.workers] == [(1, 1), (1, 1)]
    assert found.workers[0].kv_tokens == 105
    p.run(0.1)
    assert p.core.ended("a", End.FINISHED)
    assert p.core.ended("b", End.FINISHED)


def test_all_streams_can_be_given_up():
    p = Picking()
    for name in "abc":
        p.request(name)
        p.run(0.1)
    assert p.core.abandon(End.RESET) == 3
    assert p.core.audit().ended == {End.RESET: 3}


def test_prompts_that_fit_nowhere_are_left_to_the_engine():
    p = Picking(workers=1, capacity=100, slots=2)
    p.request("a", 5000)
    p.request("b", 80)
    p.run(0.1)
    assert isinstance(p.answer("a"), Placed)
    assert isinstance(p.answer("b"), Placed)


def test_each_choice_takes_a_slot():
    p = Picking(workers=2, slots=4, policy="fcfs")
    p.request("a", 20, sequences=3)
    p.run(0.1)
    p.request("b", 20, sequences=4)
    p.run(0.1)
    assert p.worker_of("a") != p.worker_of("b")
    p.request("c", 20, sequences=2)
    p.request("d", 20)
    p.run(0.1)
    assert p.answer("c") is None
    assert p.worker_of("d") == p.worker_of("a")
    found = p.core.audit()
    assert found.balanced
    assert [each.sequences for each in found.workers] == [4, 4]
    assert [each.reserved for each in found.workers] in ([2, 1], [1, 2])
    p.core.first_token("b")
    p.core.started("b", p.worker_of("b"))
    assert p.core.ended("b", End.FINISHED)
    p.run(0.1)
    assert isinstance(p.answer("c"), Placed)
    for name in "acd":
        p.core.ended(name, End.FINISHED)
    assert not any(each.sequences for each in p.core.audit().workers)


def test_more_choices_than_slots_are_left_to_the_engine():
    p = Picking(workers=1, slots=4)
    p.request("a", 20, sequences=100)
    assert isinstance(p.answer("a"), Placed)
    p.core.rebuild([("b", 0, 5, 2)])
    assert p.core.audit().workers[0].sequences == 5


def crowded(**params):
    """Two workers of four slots; one has a slot free, the other two."""
    p = Picking(workers=2, slots=4, policy="fcfs", wait_max_s=2.0, **params)
    for turn in range(8):
        p.request(f"r{turn}")
        p.run(0.01)
    first = [f"r{turn}" for turn in range(8) if p.worker_of(f"r{turn}") == 0]
    second = [f"r{turn}" for turn in range(8) if p.worker_of(f"r{turn}") == 1]
    for name in (first[0], *second[:2]):
        assert p.core.ended(name, End.FINISHED)
    return p


def test_who_finds_too_few_slots_for_its_choices_is_refused_in_the_end():
    p = crowded(retry_after_s=3.0)
    p.request("many", sequences=3)
    p.run(1.99)
    assert p.answer("many") is None
    p.run(0.02)
    assert p.answer("many") == Refused(429, "no worker had slots for 3 sequences for 2 s", 3.0)
    assert [each.sequences for each in p.core.audit().workers] == [3, 2]


def test_or_goes_where_most_slots_are_and_all_its_choices_count():
    p = crowded(overdue="place")
    p.request("many", sequences=3)
    p.run(2.01)
    assert p.worker_of("many") == 1
    p.request("next")
    p.run(0.01)
    assert p.worker_of("next") == 0
    p.request("last")
    p.run(0.01)
    assert p.answer("last") is None
    found = p.core.audit()
    assert found.balanced
    assert [each.sequences for each in found.workers] == [4, 5]


@pytest.mark.parametrize("params", [{"overtakes": 1e6}, {"overtakes": 1.0, "wait_max_s": 1e4}])
def test_a_worker_is_kept_for_who_needs_several_slots(params):
    p = Picking(workers=2, **{"slots": 4, "policy": "br-t", "wait_max_s": 2.0, **params})
    for turn in range(8):
        p.request(f"r{turn}")
    p.run(0.01)
    p.request("many", sequences=3)
    oldest = 0
    while p.answer("many") is None:
        # One slot frees at a time, and somebody waits for it.
        p.request(f"r{oldest + 8}")
        p.run(0.01)
        assert p.core.ended(f"r{oldest}", End.FINISHED)
        p.run(0.1)
        oldest += 1
        assert all(each.sequences <= each.slots for each in p.core.audit().workers)
    assert isinstance(p.answer("many"), Placed)
    assert p.core.audit().balanced
    # Nothing is kept any more.
    p.run(0.1)
    assert sum(each.sequences for each in p.core.audit().workers) == 8


def test_the_worker_that_is_kept_has_slots_enough():
    p = Picking(specs=[spec(0, slots=1), spec(1, slots=2)], policy="fcfs", wait_max_s=8.0)
    singles = ["a", "b", "c"]
    for name in singles:
        p.request(name)
        p.run(0.01)
    assert [each.sequences for each in p.core.audit().workers] == [1, 2]
    p.request("many", sequences=2)
    for name in "defghi":
        p.request(name)
    p.run(4.5)
    # The small one has a slot free before the large one has any.
    singles.sort(key=p.worker_of)
    for name in singles:
        assert p.core.ended(name, End.FINISHED)
        p.run(0.1)
    assert p.worker_of("many") == 1
    assert p.worker_of("d") == 0


def test_choices_go_where_there_are_slots_for_all_of_them():
    small, large = spec(0, slots=1), spec(1, slots=4)
    p = Picking(specs=[small, large], policy="fcfs")
    p.request("a", sequences=2)
    p.run(0.01)
    p.request("b", sequences=3)
    p.run(0.01)
    assert p.worker_of("a") == 1
    assert p.answer("b") is None
    assert p.core.ended("a", End.FINISHED)
    p.run(0.01)
    assert p.worker_of("b") == 1


def test_a_worker_is_tried_again_by_one_request_of_several_choices():
    p = Picking(workers=1, slots=4, down_after=1, down_s=1.0)
    p.core.reported(0, ok=False, why="gone")
    p.run(1.01)
    p.request("a", sequences=3)
    p.request("b", sequences=1)
    p.run(0.01)
    assert p.worker_of("a") == 0
    assert p.answer("b") is None
    p.core.first_token("a")
    p.run(0.1)
    assert p.worker_of("b") == 0


def test_tokens_of_several_choices_are_not_the_steps_of_one():
    p = Picking(workers=1, slots=16)
    p.request("a", 20, sequences=8, max_tokens=50)
    p.run(1.0)
    p.core.started("a", 0)
    p.core.first_token("a")
    p.run(1.0)
    before = p.core.audit().scale
    assert p.core.ended("a", End.FINISHED, Usage(20, 400))
    assert p.core.audit().scale == before
    (ended,) = p.log.of(Ended)
    assert ended.tokens == 400
    assert ended.tpot_s == pytest.approx((ended.at_s - p.log.of(FirstToken)[0].at_s) / 49)


def test_the_models_own_count_stays_within_what_was_allowed():
    p = Picking(workers=1)
    p.request("a", 20, max_tokens=2)
    p.core.started("a", 0)
    p.run(5.0)
    assert p.core.ended("a", End.DISCONNECTED)
    assert p.log.of(Ended)[0].tokens == 2


def test_indices_are_used_again():
    p = Picking(workers=2)
    for index in range(2, 30):
        p.core.retire(0)
        assert p.core.add_worker(spec(index)) == 0
    assert len(p.core.audit().workers) == 2
    assert p.core.audit().balanced


def test_prompts_that_no_model_takes_are_not_booked():
    p = Picking(workers=1)
    p.request("a", 10**9)
    p.run(1.0)
    assert p.core.audit().workers[0].kv_tokens < 1000
    assert max(each.step.duration_s for each in p.log.of(Stepped)) < 1.0


def test_equal_prefixes_go_where_they_are_cached():
    p = Picking(workers=4, slots=8, policy="prefix-affinity", block_tokens=16)
    blocks = tuple(range(100, 120))
    p.request("a", 320, blocks=blocks)
    p.run(0.2)
    for index in range(3):
        p.request(f"r{index}", 320, blocks=blocks)
        p.run(0.2)
        assert p.worker_of(f"r{index}") == p.worker_of("a")


def test_a_model_that_breaks_is_made_anew():
    p = Picking(workers=2)
    for name in "abc":
        p.request(name)
        p.run(0.1)

    def broken():
        raise ValueError("no such handle")

    p.core._books.ranks.step = broken
    p.run(0.2)
    assert [each.kind for each in p.log.of(Fault)] == ["model"]
    assert p.core.audit().balanced
    for name in "abc":
        assert p.core.ended(name, End.FINISHED)


def test_a_listener_that_fails_is_left_out():
    p = Picking()

    class Broken:
        def event(self, event):
            raise OSError("disk full")

    p.core.listeners.insert(0, Broken())
    p.request("a")
    assert isinstance(p.answer("a"), Placed)
    assert len(p.core.listeners) == 2
    p.run(10.0)
    assert [each.kind for each in p.log.of(Fault)] == ["listener"]
    assert len(p.core.listeners) == 1


def test_a_listener_that_fails_at_an_event_is_told_of_the_next():
    p = Picking()

    class Picky(Log):
        def event(self, event):
            if type(event) is Decided:
                raise LookupError("no such worker")
            super().event(event)

    picky = Picky()
    p.core.listeners.insert(0, picky)
    for index in range(200):
        p.request(f"r{index}")
        p.core.ended(f"r{index}", End.FINISHED)
    assert len(picky.of(Ended)) == 200
    assert not p.log.of(Fault)


def test_closed_workers_have_no_room_and_keep_their_loads():
    p = Picking(workers=2)
    p.request("a", 40)
    worker = p.worker_of("a")
    p.core.retire(worker)
    session = p.core._made.session
    p.core._driver.decider.look()
    assert session.limits[ROOM, worker] == session.limits[SLOTS, worker] == 0
    assert session.limits[0, worker] > 0


@given(steps=st.lists(st.tuples(st.integers(1, 400), st.integers(2, 400)), min_size=5, max_size=9))
@settings(max_examples=25, deadline=None)
def test_how_fast_steps_are_is_learned(steps):
    p = Picking(workers=1)
    step_s = 0.05
    for index, (prompt, tokens) in enumerate(steps):
        name = f"r{index}"
        p.request(name, prompt)
        p.run(0.1)
        p.core.first_token(name)
        p.run(step_s * (tokens - 1))
        p.core.ended(name, End.FINISHED, Usage(prompt, tokens))
    model = [each.step.duration_s for each in p.log.of(Stepped)][-1]
    assert model == pytest.approx(step_s, rel=0.15)


def test_how_fast_steps_are_is_learned_from_counters():
    p = Picking(workers=1)
    p.request("a", 100)
    for turn in range(40):
        p.core.told(0, Gauges(running=1, steps=20 * turn))
        p.run(1.0)
    assert p.log.of(Stepped)[-1].step.duration_s == pytest.approx(0.05, rel=0.05)
    assert p.core._made.session.costs.base_s != p.core._made.costs(1.0).base_s


def test_steps_begin_with_the_engines():
    p = Picking(workers=1)
    p.request("first", 100)
    p.run(1.0)
    clock = p.core._clock
    length = clock.last_s
    began = clock.next_s + 0.4 * length
    for index in range(1, 30):
        now = began + index * 3 * length
        p.run(now - p.clock.now - length / 2)
        p.request(f"r{index}", 1)
        p.run(now - p.clock.now)
        p.core.ended(f"r{index}", End.FINISHED)
    off = (clock.next_s - p.clock.now) / length
    assert min(off % 1, -off % 1) < 0.15


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"policy": "br-x"}, "unknown policy 'br-x'"),
        ({"hardware": "abacus"}, "abacus"),
        ({"mode": "later"}, "mode is 'later', must be one of 'pooled', 'immediate'"),
        ({"pool_max": 0}, "pool_max is 0, must be at least 1"),
        ({"budget": 10}, "budget is 10, must be at least 256"),
        ({"slots": True}, "slots is True, must be a whole number"),
        ({"wait_max_s": float("inf")}, "wait_max_s is inf"),
        ({"overdue": "wait"}, "overdue is 'wait', must be one of 'refuse', 'place'"),
        ({"polic": "br-t"}, "did you mean 'policy'"),
    ],
)
def test_bad_parameters_are_one_line(values, said):
    with pytest.raises(BrsolverError) as caught:
        Core(PickerParams.from_table(values), [spec(0)], clock=Clock())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["host", "host:0", "host:99999", ":80", "a b:1", "h:1/x"])
def test_bad_addresses_are_refused(address):
    with pytest.raises(ParameterError, match="must be HOST:PORT"):
        WorkerSpec(name="w", address=address)


def test_workers_are_asked_for():
    with pytest.raises(ParameterError, match="must have at least one"):
        Core(PickerParams(), [], clock=Clock())


def test_parameters_come_from_a_file(tmp_path):
    path = tmp_path / "picker.toml"
    path.write_text(f'policy = "br-0"\nhardware = "{HARDWARE}"\nslots = 7\n')
    assert PickerParams.from_toml(path).slots == 7
    path.write_text("slots = \n")
    with pytest.raises(ParameterError, match="cannot be read as TOML"):
        PickerParams.from_toml(path)
