from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from integration.vllm import failsafe as failsafe_module
from integration.vllm.failsafe import FAILED, Failsafe


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
    time.sleep(0.05)
    signal.raise_signal(signal.SIGALRM)


def elapsed(monkeypatch, deadline, wall_s: float, kept_s: float) -> bool:
    """Whether a call is late that took so long, so much of it without a processor."""
    deadline.start()
    deadline.stop()
    began, kept = deadline._began_s, deadline._began_kept_s
    with monkeypatch.context() as patch:
        patch.setattr(failsafe_module.time, "perf_counter", lambda: began + wall_s)
        patch.setattr(deadline._kept, "seconds", lambda: kept + kept_s)
        return deadline.late()


def test_time_in_which_other_processes_had_the_processors_is_not_the_calls_own(monkeypatch):
    deadline = failsafe(budget_s=0.05)[0]._deadline
    if deadline._kept.seconds() is None:
        pytest.skip("this system's scheduler does not tell")
    assert not elapsed(monkeypatch, deadline, 0.04, 0.0)
    assert elapsed(monkeypatch, deadline, 0.06, 0.0)
    assert not elapsed(monkeypatch, deadline, 0.5, 0.46)
    assert elapsed(monkeypatch, deadline, 0.5, 0.44)
    assert elapsed(monkeypatch, deadline, 2.0, 1.99)


def test_short_waits_of_a_starved_call_are_not_taken_for_one_that_waits(monkeypatch):
    deadline = failsafe(budget_s=0.05)[0]._deadline
    if deadline._kept.seconds() is None:
        pytest.skip("this system's scheduler does not tell")
    deadline._waits = -1  # as if it had waited since a first look
    assert not elapsed(monkeypatch, deadline, 0.5, 0.46)


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


def test_a_call_that_other_processes_kept_from_running_is_not_late(monkeypatch):
    made, _ = failsafe(budget_s=0.05)
    deadline = made._deadline
    monkeypatch.setattr(deadline._kept, "seconds", lambda: None)
    deadline.start()
    deadline.stop()
    began = deadline._began_s
    monkeypatch.setattr(failsafe_module.time, "perf_counter", lambda: began + 0.5)
    assert not deadline.late()
    deadline._waits -= 1  # it waited for something meanwhile
    assert deadline.late()
    deadline._waits += 1
    monkeypatch.setattr(failsafe_module.time, "perf_counter", lambda: began + 2.0)
    assert deadline.late()


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
