from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest
from fake_vllm import Deployment, FinishReason

from brsolver.traces import load_trace
from integration.vllm.recorder import Recorder, obstacle, path_of
from integration.vllm.requests import Request


def request(name: str, arrival_s: float, generated: int, **fields) -> Request:
    made = Request(name, 10, 50, arrival_s)
    made.generated = generated
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def test_requests_are_written_in_order_of_arrival_whatever_order_they_end_in(tmp_path):
    path = tmp_path / "served.jsonl"
    recorder = Recorder(path)
    rows = [request("a", 100.0, 3), request("b", 100.5, 1), request("c", 102.0, 7)]
    for row in rows:
        recorder.arrived(row)
    for row in (rows[2], rows[0]):
        recorder.ended(row)
    recorder.close()
    trace = load_trace(path)
    assert trace.output_tokens.tolist() == [3, 7]
    assert trace.arrival_s.tolist() == [0.0, 2.0]
    assert trace.columns["max_tokens"].tolist() == [50, 50]


def test_a_server_that_is_started_again_erases_nothing(tmp_path):
    path = tmp_path / "served.jsonl"
    for generated in (3, 5, 7):
        recorder = Recorder(path)
        row = request("a", 100.0, generated)
        recorder.arrived(row)
        recorder.ended(row)
        recorder.close()
    kept = [tmp_path / name for name in ("served.1.jsonl", "served.2.jsonl", "served.jsonl")]
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert [load_trace(each).output_tokens.tolist() for each in kept] == [[3], [5], [7]]


class Life:
    """What a server records between its start and its end, with a bound."""

    def __init__(self, path, rotate_bytes=10**6):
        self.recorder = Recorder(path, rotate_bytes=rotate_bytes)

    def serve(self, *outputs, at=100.0):
        for place, generated in enumerate(outputs):
            row = request("a", at + place, generated)
            self.recorder.arrived(row)
            self.recorder.ended(row)
        return self

    def end(self):
        self.recorder.close()


def joined(folder):
    """Read both files as one trace, as the page on tuning says."""
    both = folder / "both"
    names = ("served.jsonl.1", "served.jsonl")
    there = [folder / name for name in names if (folder / name).exists()]
    both.write_bytes(b"".join(each.read_bytes() for each in there))
    trace = load_trace(both)
    both.unlink()
    return trace


def test_a_record_with_a_bound_is_gone_on_with_when_a_server_is_started_again(tmp_path):
    path = tmp_path / "served.jsonl"
    Life(path).serve(3, 5).end()
    # Its clock is another one by now.
    Life(path).serve(7, 9, at=5.0).end()
    assert list(tmp_path.iterdir()) == [path]
    trace = load_trace(path)
    assert trace.output_tokens.tolist() == [3, 5, 7, 9]
    assert trace.arrival_s.tolist() == [0.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_however_often_a_server_is_started_its_record_has_a_bound_and_is_a_trace(tmp_path, rows):
    path, most = tmp_path / "served.jsonl", 600
    for life in range(12):
        Life(path, most).serve(*range(1 + 10 * life, 1 + 10 * life + rows)).end()
        sizes = [each.stat().st_size for each in tmp_path.iterdir()]
        assert len(sizes) <= 2
        assert max(sizes) < 2 * most
    outputs = joined(tmp_path).output_tokens.tolist()
    served = [1 + 10 * life + at for life in range(12) for at in range(rows)]
    assert outputs == served[-len(outputs) :]
    assert len(outputs) > 2


def test_a_row_that_a_killed_server_did_not_finish_is_cut_off(tmp_path):
    path = tmp_path / "served.jsonl"
    Life(path).serve(3, 5).end()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    Life(path).serve(7).end()
    assert load_trace(path).output_tokens.tolist() == [3, 5, 7]


def test_a_server_that_was_killed_between_two_files_goes_on_with_the_older(tmp_path):
    path = tmp_path / "served.jsonl"
    Life(path).serve(3, 5).end()
    path.replace(tmp_path / "served.jsonl.1")
    path.write_text('{"prompt')
    Life(path).serve(7).end()
    trace = joined(tmp_path)
    assert trace.output_tokens.tolist() == [3, 5, 7]
    assert trace.arrival_s.tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("text", ["no trace\n", "[]\n", '{"arrival_s": NaN}\n', "{}\n"])
def test_what_is_no_trace_is_put_aside_and_not_gone_on_with(tmp_path, text):
    path = tmp_path / "served.jsonl"
    path.write_text(text)
    Life(path).serve(7).end()
    assert (tmp_path / "served.1.jsonl").read_text() == text
    assert load_trace(path).output_tokens.tolist() == [7]


def test_without_a_bound_both_files_of_one_with_a_bound_are_put_aside_in_order(tmp_path):
    path = tmp_path / "served.jsonl"
    Life(path, 1).serve(3, 5).end()
    recorder = Recorder(path)
    recorder.close()
    kept = [tmp_path / f"served.{number}.jsonl" for number in (1, 2)]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, path])
    assert [load_trace(each).output_tokens.tolist() for each in kept] == [[3], [5]]


def test_a_file_that_was_taken_away_is_begun_anew(tmp_path):
    path = tmp_path / "served.jsonl"
    life = Life(path, 1).serve(3)
    path.unlink()
    life.serve(5).end()
    assert load_trace(path).output_tokens.tolist() == [5]


def test_what_holds_nothing_and_what_is_a_folder_stay_where_they_are(tmp_path):
    Recorder(tmp_path / "served.jsonl").close()
    Recorder(tmp_path / "served.jsonl").close()
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        Recorder(folder)
    assert sorted(tmp_path.iterdir()) == [folder, tmp_path / "served.jsonl"]


def test_a_clock_that_is_set_back_still_gives_a_trace(tmp_path):
    recorder = Recorder(tmp_path / "served.jsonl")
    for row in (request("a", 100.0, 1), request("b", 90.0, 1), request("c", 101.0, 1)):
        recorder.arrived(row)
        recorder.ended(row)
    recorder.close()
    assert load_trace(tmp_path / "served.jsonl").arrival_s.tolist() == [0.0, 0.0, 1.0]


def test_what_generated_nothing_is_left_out(tmp_path):
    recorder = Recorder(tmp_path / "served.jsonl")
    for row in (request("a", 1.0, 0), request("b", 2.0, 2, session="s", model="m")):
        recorder.arrived(row)
        recorder.ended(row)
    recorder.close()
    trace = load_trace(tmp_path / "served.jsonl")
    assert len(trace) == 1
    assert trace.columns["session"].tolist() == ["s"]
    assert trace.columns["model"].tolist() == ["m"]


def test_each_api_server_has_a_file_of_its_own():
    assert str(path_of("a/served.jsonl", 1, 0)) == "a/served.jsonl"
    assert str(path_of("a/served.jsonl", 2, 1)) == "a/served.1.jsonl"


@pytest.mark.parametrize("mode", ["immediate", "pooled", "observe"])
def test_all_that_vllm_serves_is_recorded_once(tmp_path, mode):
    path = tmp_path / "served.jsonl"

    async def scenario():
        d = Deployment("br-0", mode, slots=1, environ={"BRSOLVER_RECORD": str(path)})
        for i in range(5):
            await d.add(str(i), 10 + i, arrival_time=float(i))
        await d.add("pinned", 20, arrival_time=5.0, data_parallel_rank=1)
        await d.settle()
        await d.client.abort_requests_async(["4"])  # held in pooled mode, else sent
        for _ in range(12):
            for name, rank in d.sent().items():
                if name in d.client.reqs_in_flight:
                    await d.report(rank, {name: 2}, {name}, finish_reason=FinishReason.STOP)
            await asyncio.sleep(0.005)
        d.adapter.desk.recorder.close()
        return set(d.sent())

    sent = asyncio.run(scenario())
    trace = load_trace(path)
    expected = sorted(20 if name == "pinned" else 10 + int(name) for name in sent)
    assert sorted(trace.prompt_tokens.tolist()) == expected
    assert set(trace.output_tokens.tolist()) == {2}


def test_a_bound_in_the_file_has_a_server_that_is_started_again_go_on(tmp_path):
    path, settings = tmp_path / "served.jsonl", tmp_path / "router.toml"
    settings.write_text(f'policy = "br-0"\nrecord = "{path.as_posix()}"\nrecord_mib = 1\n')

    async def served(name):
        d = Deployment(environ={"BRSOLVER_ROUTER": str(settings)})
        await d.add(name)
        await d.report(d.sent()[name], {name: 1}, {name}, finish_reason=FinishReason.STOP)
        d.adapter.desk.recorder.close()

    for name in ("a", "b"):
        asyncio.run(served(name))
    assert sorted(tmp_path.iterdir()) == [settings, path]
    assert len(load_trace(path)) == 2


def _warnings(caplog):
    return [r.message for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("rows", [3, 5000], ids=["at-close", "while-serving"])
def test_a_full_disk_ends_the_recording_with_one_warning_and_nothing_else(caplog, tmp_path, rows):
    (tmp_path / "served.jsonl").symlink_to("/dev/full")
    recorder = Recorder(tmp_path / "served.jsonl")
    for i in range(rows):
        each = request(str(i), float(i), 1)
        recorder.arrived(each)
        recorder.ended(each)
    recorder.close()
    recorder.close()
    late = request("late", 1.0, 1)
    recorder.arrived(late)
    recorder.ended(late)
    (said,) = _warnings(caplog)
    assert "served.jsonl ends here (No space left on device)" in said
    assert not recorder._open


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_no_failure_of_the_adapter(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("integration.recording.FLUSH_ROWS", 1)
    (tmp_path / "served.jsonl").symlink_to("/dev/full")

    async def scenario():
        environ = {"BRSOLVER_RECORD": str(tmp_path / "served.jsonl")}
        d = Deployment("jsq-load", environ=environ)
        for i in range(12):
            await d.add(str(i))
            await d.report(d.sent()[str(i)], {str(i): 1}, {str(i)})
        assert d.adapter.failsafe.failures == 0
        assert d.adapter.failsafe.active
        assert d.books.state.load.tolist() == [0, 0]

    asyncio.run(scenario())
    assert len(_warnings(caplog)) == 1


def test_an_end_that_is_told_twice_or_of_nobody_is_not_kept(tmp_path):
    recorder = Recorder(tmp_path / "served.jsonl")
    blocker, twice = request("blocker", 0.0, 1), request("twice", 1.0, 2)
    for row in (blocker, twice):
        recorder.arrived(row)
    recorder.ended(twice)
    recorder.ended(twice)
    assert recorder._kept_back == 1
    recorder.ended(request("nobody", 2.0, 1))
    recorder.ended(blocker)
    recorder.ended(blocker)
    assert (len(recorder._open), recorder._kept_back) == (0, 0)
    recorder.close()
    assert load_trace(tmp_path / "served.jsonl").output_tokens.tolist() == [1, 2]


def test_a_request_that_never_ends_keeps_back_no_more_than_so_many(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("integration.recording.MOST_KEPT_BACK", 10)
    recorder = Recorder(tmp_path / "served.jsonl")
    stuck = [request("stuck", 0.0, 1), request("too", 20.0, 1)]
    for i in range(100):
        if i in (0, 20):
            recorder.arrived(stuck[i // 20])
        each = request(str(i), float(i), 1 + i)
        recorder.arrived(each)
        recorder.ended(each)
        assert len(recorder._open) <= 12
    # What was left out may still end: its place in the order is taken.
    recorder.ended(stuck[0])
    recorder.close()
    assert load_trace(tmp_path / "served.jsonl").output_tokens.tolist() == list(range(1, 101))
    (said,) = _warnings(caplog)
    assert "request stuck is left out" in said


def test_it_is_known_beforehand_what_cannot_be_written(tmp_path):
    assert obstacle(str(tmp_path / "served.jsonl")) is None
    (tmp_path / "there.jsonl").touch()
    assert obstacle(str(tmp_path / "there.jsonl")) is None
    assert "there is no folder" in obstacle(str(tmp_path / "none" / "served.jsonl"))
    assert obstacle(str(tmp_path / "served.jsonl"), goes_on=True) is None
    (tmp_path / "folder.jsonl").mkdir()
    assert "cannot be written" in obstacle(str(tmp_path / "folder.jsonl"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_what_is_gone_on_with_must_be_open(tmp_path):
    path = tmp_path / "served.jsonl"
    path.write_text("{}\n")
    path.chmod(0o400)
    assert obstacle(str(path)) is None
    assert "cannot be written" in obstacle(str(path), goes_on=True)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_what_is_there_must_be_put_aside(tmp_path):
    path = tmp_path / "served.jsonl"
    path.write_text("{}\n")
    tmp_path.chmod(0o500)
    try:
        assert "cannot be written" in obstacle(str(path))
        with pytest.raises(PermissionError):
            Recorder(path)
    finally:
        tmp_path.chmod(0o700)
