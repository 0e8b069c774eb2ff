from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from integration.routing import failsafe as failsafe_module
from integration.routing.failsafe import FAILED, Failsafe


def failsafe(budget_s: float = 0.05, max_failures: int = 3):
    said: list[str] = []
    made = Failsafe(budget_s, max_failures, failed=said.append)
    made.when_down(lambda: said.append("down"))
    return made, said


def test_answers_come_through():
    made, said = failsafe()
    assert made.run("decision", lambda x: x + 1, 2) == 3
    assert said == []
    assert made.active


def test_what_raises_is_counted_until_it_is_enough():
    made, said = failsafe()
    for _ in range(3):
        assert made.active
        assert made.run("decision", lambda: 1 // 0) is FAILED
    assert not made.active
    assert said == ["decision"] * 3 + ["down"]


def test_what_hangs_is_interrupted():
    made, _ = failsafe()
    assert made.interrupts
    assert made.run("decision", time.sleep, 60) is FAILED
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_nothing_is_interrupted_once_a_call_is_over():
    made, _ = failsafe(budget_s=0.01)
    made.run("decision", lambda: None)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    signal.raise_signal(signal.SIGALRM)


def lateness(monkeypatch, *looks, budget_s: float = 0.05) -> list[bool]:
    """Whether a call is found late at each look.

    A look is what the clock, the processor's clock, the time kept from the processor (None where
    the scheduler does not tell) and the count of waits say.
    """
    deadline = Failsafe(budget_s, 3, failed=print)._deadline
    deadline.start()
    deadline.stop()
    wall_s, cpu_s = deadline._began_s, deadline._began_cpu_s
    found = []
    for wall, cpu, kept, waits in looks:
        with monkeypatch.context() as patch:
            patch.setattr(failsafe_module.time, "perf_counter", lambda at=wall: wall_s + at)
            patch.setattr(failsafe_module.time, "thread_time", lambda at=cpu: cpu_s + at)
            patch.setattr(deadline._kept, "seconds", lambda at=kept: at)
            patch.setattr(failsafe_module, "_waits", lambda at=waits: at)
            found.append(deadline.late())
    return found


def test_a_call_within_its_budget_is_not_late(monkeypatch):
    assert lateness(monkeypatch, (0.04, 0.04, 0.0, 0), (0.05, 0.0, 0.0, 9)) == [False, False]


def test_a_call_that_has_computed_for_longer_than_its_budget_is_late_at_once(monkeypatch):
    assert lateness(monkeypatch, (0.06, 0.051, 0.0, 0)) == [True]


@pytest.mark.parametrize("kept", [0.0, None])
def test_a_call_that_waits_is_late_at_the_second_look(monkeypatch, kept):
    looks = (0.051, 0.0, kept, 0), (0.0635, 0.0, kept, 1)
    assert lateness(monkeypatch, *looks) == [False, True]


def test_time_in_which_other_processes_had_the_processors_is_not_the_calls_own(monkeypatch):
    # Of 0.45 s it had the processor for 0.02 s; it waits now and then for a moment.
    looks = [(0.05 + i * 0.05, 0.002 * i, 3 + i * 0.047, i) for i in range(9)]
    assert lateness(monkeypatch, *looks) == [False] * 9


def test_what_is_its_own_adds_up_to_the_budget(monkeypatch):
    looks = (0.051, 0.03, 0.01, 0), (0.08, 0.04, 0.027, 0), (0.11, 0.042, 0.054, 0)
    assert lateness(monkeypatch, *looks) == [False, False, False]
    looks = (0.051, 0.03, 0.01, 0), (0.08, 0.04, 0.027, 0), (0.11, 0.05, 0.045, 0)
    assert lateness(monkeypatch, *looks) == [False, False, True]
    looks = (0.051, 0.04, 0.0, 0), (0.08, 0.049, 0.01, 0)
    assert lateness(monkeypatch, *looks) == [False, True]


def test_where_the_scheduler_does_not_tell_a_call_may_not_wait_at_all(monkeypatch):
    looks = (0.051, 0.01, None, 4), (0.1, 0.02, None, 4), (0.2, 0.03, None, 5)
    assert lateness(monkeypatch, *looks) == [False, False, True]


@pytest.mark.parametrize("kept", [0.0, None])
def test_there_is_an_end_to_what_starvation_excuses(monkeypatch, kept):
    assert lateness(monkeypatch, (0.99, 0.0, kept, 0), (1.01, 0.0, kept, 0))[1]


def scheduler_tells() -> float:
    """Seconds that the scheduler kept the thread that asks from running."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9


def test_the_scheduler_is_asked_about_the_thread_that_asks():
    kept = failsafe_module._KeptWaiting()
    if kept.seconds() is None:
        pytest.skip("this system's scheduler does not tell")

    def between() -> None:
        least, found, most = scheduler_tells(), kept.seconds(), scheduler_tells()
        in_order.append(least <= found <= most)

    in_order: list[bool] = []
    between()
    thread = threading.Thread(target=between)
    thread.start()
    thread.join()
    between()
    kept.close()
    assert in_order == [True] * 3


def test_a_call_that_computes_past_its_budget_is_late():
    made, _ = failsafe(budget_s=0.02)

    def compute():
        while True:
            pass

    assert made.run("decision", compute) is FAILED


def test_off_the_main_thread_being_late_shows_afterwards():
    answers = []

    def work():
        made, _ = failsafe(budget_s=0.01)
        answers.append(made.interrupts)
        answers.append(made.run("decision", time.sleep, 0.05))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False, FAILED]


def test_a_signal_that_the_process_uses_itself_is_left_alone():
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        made, _ = failsafe()
        assert not made.interrupts
    finally:
        signal.signal(signal.SIGALRM, before)


def test_failures_far_apart_are_forgiven(monkeypatch):
    monkeypatch.setattr(failsafe_module, "FORGIVEN_AFTER", 10)
    made, _ = failsafe()
    for _ in range(20):
        made.run("decision", lambda: 1 // 0)
        for _ in range(10):
            made.run("decision", lambda: None)
    assert made.active


def test_failures_in_between_successes_add_up():
    made, _ = failsafe()
    for _ in range(3):
        made.run("decision", lambda: 1 // 0)
        made.run("decision", lambda: None)
    assert not made.active


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process_is_not_a_failure(leaving):
    made, _ = failsafe()

    def leave():
        raise leaving

    with pytest.raises(leaving):
        made.run("decision", leave)
    assert made.failures == 0
