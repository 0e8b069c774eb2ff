from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from admin_events import Clock, Source
from admin_traffic import play, served, traffic
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import OutputError
from brsolver.traces import load_trace
from integration.admin.recorder import EventRecorder
from integration.picker.events import NOWHERE, Ask, End, Ended, Requested, Usage
from integration.serve.wiring import recorder_of
from integration.settings import ServeConfig, Trace, Workers

if TYPE_CHECKING:
    from pathlib import Path


def recording(path: Path, **fields) -> tuple[EventRecorder, Source]:
    recorder = EventRecorder(path, **fields)
    return recorder, Source(Clock(), recorder)


def test_what_a_core_served_is_a_trace(tmp_path):
    real = served(policy="jsq-load", mode="immediate")
    recorder = EventRecorder(tmp_path / "served.jsonl")
    real.core.listeners.append(recorder)
    requests = traffic(30, per_second=20.0)
    play(real, requests)
    recorder.close()
    trace = load_trace(tmp_path / "served.jsonl")
    assert trace.output_tokens.tolist() == [each.output_tokens for each in requests]
    assert trace.prompt_tokens.tolist() == [each.ask.prompt_tokens for each in requests]
    first_s = requests[0].at_s
    assert trace.arrival_s == pytest.approx([each.at_s - first_s for each in requests], abs=1e-5)
    assert trace.columns["max_tokens"].tolist() == [200] * 30


def test_engines_know_lengths_better_than_the_door(tmp_path):
    recorder, source = recording(tmp_path / "served.jsonl")
    source.requested("told", prompt_tokens=90)
    source.ended("told", prompt_tokens=104, tokens=7)
    source.requested("not asked", prompt_tokens=50)
    source.ended("not asked", tokens=None, counted=11)
    source.requested("left", prompt_tokens=60)
    source.ended("left", end=End.DISCONNECTED, tokens=None, counted=1, tpot_s=None)
    recorder.close()
    trace = load_trace(tmp_path / "served.jsonl")
    assert trace.prompt_tokens.tolist() == [104, 50, 60]
    assert trace.output_tokens.tolist() == [7, 11, 1]


def test_what_generated_nothing_is_left_out(tmp_path):
    recorder, source = recording(tmp_path / "served.jsonl")
    source.requested("kept")
    source.requested("refused")
    source.refused("refused")
    source.requested("withdrawn")
    source.ended("withdrawn", NOWHERE, End.DISCONNECTED, tokens=None, ttft_s=None, tpot_s=None)
    source.requested("rejected")
    source.ended("rejected", 0, End.REJECTED, tokens=0)
    source.ended("kept")
    source.ended("unheard of")
    recorder.close()
    assert len(load_trace(tmp_path / "served.jsonl")) == 1


@settings(max_examples=30, deadline=None)
@given(
    asks=st.lists(
        st.tuples(
            st.none() | st.integers(1, 10**6),
            st.lists(st.integers(0, 2**64 - 1), max_size=4),
            st.none() | st.sampled_from(["sk-secret-one", "sk-secret-two"]),
        ),
        min_size=1,
        max_size=8,
    ),
    order=st.randoms(use_true_random=False),
)
def test_any_mixture_can_be_read_back_and_tells_no_key(tmp_path_factory, asks, order):
    path = tmp_path_factory.mktemp("traces") / "served.jsonl"
    recorder, source = recording(path)
    for at, (max_tokens, blocks, key) in enumerate(asks):
        source.clock.now += 1.0
        source.requested(str(at), 1 + at, max_tokens=max_tokens, blocks=tuple(blocks), key=key)
    names = list(range(len(asks)))
    order.shuffle(names)
    for at in names:
        source.ended(str(at), tokens=3, prompt_tokens=1 + at)
    recorder.close()
    assert "sk-secret" not in path.read_text()
    trace = load_trace(path)
    assert trace.prompt_tokens.tolist() == [1 + at for at in range(len(asks))]
    tenants = trace.columns.get("tenant")
    keys = [key for *_, key in asks]
    if tenants is not None and None not in keys:
        assert len(set(tenants.tolist())) == len(set(keys))


def test_clients_of_any_name_are_recorded(tmp_path):
    recorder = EventRecorder(tmp_path / "served.jsonl")
    recorder.event(Requested("a", Ask("a", 3, key="\ud800"), 0.0))
    recorder.event(Ended("a", 0, End.FINISHED, Usage(3, 4), 1.0, None, None, 4))
    recorder.close()
    assert len((tmp_path / "served.jsonl").read_text().splitlines()) == 1


def test_what_another_recorder_wrote_stays(tmp_path):
    for index in range(3):
        recorder = EventRecorder(tmp_path / "served.jsonl")
        recorder.event(Requested("a", Ask("a", 3 + index), 0.0))
        recorder.event(Ended("a", 0, End.FINISHED, Usage(3 + index, 4), 1.0, None, None, 4))
        recorder.close()
    found = [tmp_path / name for name in ("served.1.jsonl", "served.2.jsonl", "served.jsonl")]
    assert [f'"prompt_tokens": {n}' in file.read_text() for n, file in enumerate(found, 3)] == [
        True
    ] * 3


def test_two_full_files_are_kept_and_are_one_trace_together(tmp_path):
    path, most = tmp_path / "served.jsonl", 500
    recorder, source = recording(path, rotate_bytes=most)
    for at in range(40):
        source.clock.now += 1.0
        source.requested(f"r{at}")
        source.ended(f"r{at}", tokens=1 + at)
    recorder.close()
    older, row = tmp_path / "served.jsonl.1", len(path.read_text().splitlines()[0])
    assert sorted(tmp_path.iterdir()) == [path, older]
    assert max(path.stat().st_size, older.stat().st_size) < most + 2 * row
    assert len(load_trace(older)) > 1
    both = tmp_path / "both.jsonl"
    both.write_text(older.read_text() + path.read_text())
    trace = load_trace(both)
    kept = len(trace)
    assert trace.output_tokens.tolist() == [1 + at for at in range(40)][-kept:]
    assert trace.arrival_s.tolist() == pytest.approx(list(range(kept)))


@pytest.mark.parametrize(("bound", "rows"), [({}, 1), ({"record_mib": 1}, 2)])
def test_settings_say_whether_what_is_there_is_gone_on_with(tmp_path, bound, rows):
    config = ServeConfig(
        workers=Workers(addresses=("127.0.0.1:80",)),
        trace=Trace(record="served.jsonl", **bound),
        folder=tmp_path,
    )
    for _ in range(2):
        recorder = recorder_of(config)
        source = Source(Clock(), recorder)
        source.requested("a")
        source.ended("a")
        recorder.close()
    assert len(load_trace(tmp_path / "served.jsonl")) == rows


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(OutputError, match=r"record is .*none/served\.jsonl") as raised:
        EventRecorder(tmp_path / "none" / "served.jsonl")
    assert "\n" not in str(raised.value)
