from __future__ import annotations

import math

import numpy as np
import pytest
from admin_events import Clock, Source
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import ParameterError
from brsolver.results.barrier import PARTS
from integration.admin.buckets import COUNTS, N_STEPS, N_TOKENS, SPENT, Buckets
from integration.admin.params import AdminParams, WindowParams
from integration.admin.view import View, plain, to_json
from integration.admin.window import Window
from integration.picker.events import NOWHERE, End

SMALL = WindowParams(bucket_s=1.0, buckets=20, requests=8, faults=3)


def watched(workers: int = 2, params: WindowParams = SMALL) -> tuple[Window, Source]:
    clock = Clock()
    window = Window([f"w{g}" for g in range(workers)], clock=clock, params=params)
    return window, Source(clock, window)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.001, 3.0),
            st.lists(st.floats(-0.2, 0.25), min_size=4, max_size=4),
            st.floats(0.0, 2.0),
        ),
        max_size=30,
    )
)
def test_all_time_is_somewhere_and_none_twice(steps):
    buckets = Buckets(100.0, 1, SMALL)
    now = 100.0
    for duration_s, shares, pause_s in steps:
        now += pause_s + duration_s
        lost = [share * duration_s for share in shares]
        buckets.step(now, duration_s, lost)
    buckets.move(now + 1.0)
    spent = buckets.spent(buckets.numbers(-1))
    assert (spent >= -1e-12).all()
    # A bucket's seconds add up to its width: steps do not overlap here.
    assert spent.sum(axis=0) == pytest.approx(np.ones(spent.shape[1]))
    stepped = sum(duration for duration, *_ in steps)
    if now + 1.0 < 100.0 + SMALL.length_s - 1:
        assert spent[:-1].sum() == pytest.approx(stepped)


def test_a_step_over_several_buckets_is_split():
    buckets = Buckets(0.0, 1, SMALL)
    buckets.step(3.5, 3.0, (1.5, 0.0, 0.0, 0.0))
    buckets.move(4.0)
    spent = dict(zip(SPENT, buckets.spent(range(4)).tolist(), strict=True))
    assert spent["useful"] == pytest.approx([0.25, 0.5, 0.5, 0.25])
    assert spent["prefill"] == pytest.approx([0.25, 0.5, 0.5, 0.25])
    assert spent["idle"] == pytest.approx([0.5, 0.0, 0.0, 0.5])


def test_what_is_older_than_the_window_is_forgotten():
    buckets = Buckets(0.0, 1, SMALL)
    buckets.count(N_STEPS, 0.5, 7)
    assert buckets.counts(range(1))[N_STEPS].tolist() == [7]
    buckets.move(500.25)
    numbers = buckets.numbers(-1)
    assert (numbers.start, numbers.stop) == (481, 500)
    assert not buckets.counts(numbers).any()
    # What is told late is entered in the oldest bucket there is.
    buckets.count(N_STEPS, 3.0)
    assert buckets.newest == 500


def test_levels_stay_until_somebody_says_otherwise():
    buckets = Buckets(0.0, 2, SMALL)
    buckets.levels(0.5, 4, np.array([10, 20]))
    buckets.move(3.5)
    assert buckets.held(range(3)).tolist() == [4, 4, 4]
    assert buckets.kv_tokens(range(3)).tolist() == [[10] * 3, [20] * 3]


def test_the_pool_and_reservations_follow_every_way_a_request_can_go():
    window, source = watched()
    for name in "abcdef":
        source.requested(name)
    assert window.held == 6
    source.decided("a", 0)
    source.decided("b", 1)
    source.decided("c", 1)
    source.started("c", 0)
    source.refused("d")
    source.ended("e", NOWHERE, End.DISCONNECTED, tokens=None, ttft_s=None, tpot_s=None)
    assert (window.held, [each.reserved for each in window.workers]) == (1, [2, 1])
    for name in "abc":
        source.ended(name)
    source.ended("a")
    source.decided("f", 1)
    source.ended("f", 1, End.WORKER_DIED, tokens=3)
    assert (window.held, [each.reserved for each in window.workers], window.live) == (0, [0, 0], {})
    window.settle()
    assert not window.kv_tokens.any()


def test_tokens_count_whether_or_not_clients_ask_for_usage():
    window, source = watched()
    source.served("asked", tokens=5)
    source.served("not asked", tokens=None, counted=7)
    window.settle()
    assert window.buckets.counts(range(1))[N_TOKENS].tolist() == [12]
    assert window.ended.since(0.0)["output_tokens"].tolist() == [5, 7]


def test_what_comes_back_is_held_again():
    window, source = watched()
    source.requested("a")
    source.decided("a", 1)
    source.returned("a", 1)
    assert (window.held, [each.reserved for each in window.workers]) == (1, [0, 0])
    source.returned("a", 1)
    source.returned("nobody", 1)
    assert window.held == 1
    source.decided("a", 0)
    assert (window.held, [each.reserved for each in window.workers]) == (0, [1, 0])
    source.returned("a", 0)
    source.refused("a")
    assert (window.held, [each.reserved for each in window.workers], window.live) == (0, [0, 0], {})


def test_idle_workers_hold_nothing_although_no_step_says_so():
    window, source = watched()
    source.requested("a")
    source.decided("a", 1)
    source.stepped([0, 500], backlog=[0, 70])
    assert (window.kv_tokens.tolist(), window.backlog.tolist()) == ([0, 500], [0, 70])
    source.ended("a", 1)
    window.settle()
    assert (window.kv_tokens.tolist(), window.backlog.tolist()) == ([0, 0], [0, 0])


def test_workers_join_and_change():
    window, source = watched()
    source.changed(2, "added")
    source.changed(0, "down", "connection refused")
    source.stepped([1, 2, 3], running=[-1, 1, 1])
    states = [(each.name, each.state) for each in window.workers]
    assert states == [("w0", "down"), ("w1", "up"), ("worker 2", "up")]
    assert window.running.tolist() == [0, 1, 1]
    assert window.buckets.kv_tokens(range(1)).shape == (3, 1)


def test_who_takes_the_place_of_one_that_is_gone_has_a_name_of_its_own():
    names, clock = ["pod-a", "pod-b"], Clock()
    window = Window(names, clock=clock, params=SMALL, name_of=lambda index: names[index])
    source = Source(clock, window)
    source.changed(0, "gone")
    assert window.worker(0).name == "pod-a"
    names[0] = "pod-c"
    source.changed(0, "added")
    states = [(each.name, each.state) for each in window.workers]
    assert states == [("pod-c", "up"), ("pod-b", "up")]


def test_slow_requests_are_the_latest_ones_that_waited_longest():
    window, source = watched()
    for i, ttft_s in enumerate((0.5, 0.1, 2.0, None, 0.3)):
        source.requested(str(i))
        source.clock.now += 1.0
        source.decided(str(i))
        source.ended(str(i), ttft_s=ttft_s)
    slow = window.ended.slowest(0.0, 3)
    assert [each["name"] for each in slow] == ["2", "3", "0"]
    assert window.ended.percentiles(0.0, "ttft_s") == pytest.approx((0.4, 1.775))
    assert window.ended.percentiles(source.clock.now + 1, "ttft_s") is None
    for i in range(100):
        source.served(f"later {i}")
    assert len(window.ended) == SMALL.requests
    assert all(each["name"].startswith("later") for each in window.ended.slowest(0.0, 20))


def test_faults_in_a_row_are_one_with_a_number():
    window, source = watched()
    for kind in ("a", "b", "b", "c", "d"):
        source.fault(kind)
    assert [(each.kind, each.times) for each in window.faults] == [("b", 2), ("c", 1), ("d", 1)]


def test_events_that_are_not_known_are_passed_over():
    window, _ = watched()
    window.event(object())


def test_a_view_tells_everything_once_and_then_what_is_new():
    window, source = watched()
    view = View(window, list, {"policy": "br-t"})
    for _ in range(60):
        source.stepped([100, 300], lost_s=(0.0, 0.0, 0.01, 0.0))
    source.served("a")
    source.fault("late")
    snapshot = view.snapshot()
    assert snapshot["spent"] == ("useful", *PARTS, "idle")
    assert snapshot["counts"] == COUNTS
    assert snapshot["history"]["first"] == 0
    assert snapshot["history"]["held"] == [0, 0]
    assert snapshot["history"]["spent"][3] == pytest.approx([250.0, 250.0], abs=1.0)
    told = view.told
    source.clock.now += 1.0
    tick = view.tick(told)
    assert (tick["history"]["first"], len(tick["history"]["held"])) == (told + 1, 1)
    assert tick["faults"][0]["text"] == "something broke"
    assert tick["slow"][0]["worker"] == "w0"


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_whatever_is_told_is_json(value):
    import json

    read = json.loads(to_json(value))
    if isinstance(value, float) and math.isfinite(value):
        assert read == value


def test_json_knows_arrays_and_enumerations():
    assert plain({"a": np.array([1, 2]), "b": End.RESET, 3: np.float64("nan")}) == {
        "a": [1, 2],
        "b": "reset",
        "3": None,
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"host": "0.0.0.0"}, "token must be set"),  # noqa: S104 # refused
        ({"host": ""}, "host is empty"),
        ({"token": "short"}, "token is too short"),
        ({"port": 70_000}, "port is 70"),
        ({"tick_s": 0}, "tick_s is 0"),
        ({"clients": 0}, "clients is 0"),
        ({"window": None}, "window"),
    ],
)
def test_bad_parameters_are_one_line(fields, said):
    with pytest.raises(ParameterError, match=said) as raised:
        AdminParams(**fields)
    assert "\n" not in str(raised.value)


def test_a_token_does_not_show():
    assert "0123456789abcdef" not in repr(AdminParams(token="0123456789abcdef"))  # noqa: S106 # of a test
