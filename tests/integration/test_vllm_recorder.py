from __future__ import annotations

import asyncio

import pytest
from fake_vllm import Deployment, FinishReason

from brsolver.traces import load_trace
from integration.vllm.recorder import Recorder, path_of
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
        d.adapter.recorder.close()
        return set(d.sent())

    sent = asyncio.run(scenario())
    trace = load_trace(path)
    expected = sorted(20 if name == "pinned" else 10 + int(name) for name in sent)
    assert sorted(trace.prompt_tokens.tolist()) == expected
    assert set(trace.output_tokens.tolist()) == {2}
