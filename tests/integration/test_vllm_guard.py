from __future__ import annotations

import signal
import threading
import time

import pytest

from integration.vllm import guard as guard_module
from integration.vllm.guard import FAILED, Guard


def guard(budget_s: float = 0.05, max_failures: int = 3):
    said: list[str] = []
    made = Guard(budget_s, max_failures, failed=said.append, stood_down=lambda: said.append("down"))
    return made, said


def test_answers_come_through():
    made, said = guard()
    assert made.run("decision", lambda x: x + 1, 2) == 3
    assert said == []
    assert made.active


def test_what_raises_is_counted_until_it_is_enough():
    made, said = guard()
    for _ in range(3):
        assert made.active
        assert made.run("decision", lambda: 1 // 0) is FAILED
    assert not made.active
    assert said == ["decision"] * 3 + ["down"]


def test_what_hangs_is_interrupted():
    made, _ = guard()
    assert made.interrupts
    assert made.run("decision", time.sleep, 60) is FAILED
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_nothing_is_interrupted_once_a_call_is_over():
    made, _ = guard(budget_s=0.01)
    made.run("decision", lambda: None)
    time.sleep(0.05)
    signal.raise_signal(signal.SIGALRM)


def test_a_call_that_other_processes_kept_from_running_is_not_late(monkeypatch):
    made, _ = guard(budget_s=0.05)
    deadline = made._deadline
    deadline.start()
    deadline.stop()
    began = deadline._began_s
    monkeypatch.setattr(guard_module.time, "perf_counter", lambda: began + 0.5)
    assert not deadline.late()
    deadline._waits -= 1  # it waited for something meanwhile
    assert deadline.late()
    deadline._waits += 1
    monkeypatch.setattr(guard_module.time, "perf_counter", lambda: began + 2.0)
    assert deadline.late()


def test_a_call_that_computes_past_its_budget_is_late():
    made, _ = guard(budget_s=0.02)

    def compute():
        while True:
            pass

    assert made.run("decision", compute) is FAILED


def test_off_the_main_thread_being_late_shows_afterwards():
    answers = []

    def work():
        made, _ = guard(budget_s=0.01)
        answers.append(made.interrupts)
        answers.append(made.run("decision", time.sleep, 0.05))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False, FAILED]


def test_a_signal_that_the_process_uses_itself_is_left_alone():
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        made, _ = guard()
        assert not made.interrupts
    finally:
        signal.signal(signal.SIGALRM, before)


def test_failures_far_apart_are_forgiven(monkeypatch):
    monkeypatch.setattr(guard_module, "FORGIVEN_AFTER", 10)
    made, _ = guard()
    for _ in range(20):
        made.run("decision", lambda: 1 // 0)
        for _ in range(10):
            made.run("decision", lambda: None)
    assert made.active


def test_failures_in_between_successes_add_up():
    made, _ = guard()
    for _ in range(3):
        made.run("decision", lambda: 1 // 0)
        made.run("decision", lambda: None)
    assert not made.active


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process_is_not_a_failure(leaving):
    made, _ = guard()

    def leave():
        raise leaving

    with pytest.raises(leaving):
        made.run("decision", leave)
    assert made.failures == 0
