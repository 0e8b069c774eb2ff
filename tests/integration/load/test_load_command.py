"""``brsolver load`` as it is called."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from engine_client import SAMPLE
from typer.testing import CliRunner

from brsolver.cli.main import app
from brsolver.errors import OutputError
from brsolver.traces import load_trace
from integration.load import saving
from integration.serve.processes import fetch

PATIENCE_S = 60.0
TRACE = "preset:uniform:n=30,s_low=3,s_high=9,o_low=2,o_high=9"
LOAD = (sys.executable, "-m", "brsolver", "load")


@contextmanager
def engine(*options):
    command = (sys.executable, "-m", "integration.engines", "--port", "0", *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[0]
            assert process.stdout.readline() == "ready\n"
            yield url
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def url():
    with engine("--speed", "100", "--max-model-len", "500") as found:
        yield found


def called(*arguments, trace=TRACE, **environment):
    return subprocess.run(
        [*LOAD, trace, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env=os.environ | environment,
    )


def test_a_table_for_people(url):
    done = called("--target", url, "--concurrency", "5", "--slo-ttft", "5000")
    assert done.returncode == 0, done.stderr
    assert "fake on preset:uniform: 30 requests" in done.stdout
    for words in ("of 30 requests", "goodput", "TTFT", "TPOT", "ITL", "E2E", "sent late by"):
        assert words in done.stdout
    assert "Latencies count from when a request was due" in done.stdout


def test_json_and_files_for_programs(url, tmp_path):
    out, vllm = tmp_path / "out.parquet", tmp_path / "vllm.json"
    done = called(
        *("--target", f"{url}/v1", "--rate", "200", "--json", "--seed", "3"),
        *("--out", str(out), "--vllm-json", str(vllm)),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["complete"], told["requests"], told["failed"]) == (30, 30, {})
    assert told["model"] == "fake"
    assert told["ttft_ms"]["count"] == 30
    assert f"wrote {out}" in done.stderr
    assert len(load_trace(out)) == len(load_trace(vllm)) == 30
    again = called("--target", url, "--json", "--requests", "5", trace=str(out))
    assert json.loads(again.stdout)["complete"] == 5


def test_figures_are_shown_though_a_file_cannot_be_written(url, tmp_path, monkeypatch):
    def full(*_):
        raise OutputError("came.csv: cannot be written: No space left on device")

    monkeypatch.setattr(saving, "write_results", full)
    out = tmp_path / "came.csv"
    asked = ["load", TRACE, "--target", url, "--concurrency", "5", "--json", "--out", str(out)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2
    assert json.loads(done.stdout)["complete"] == 30
    assert "No space left on device" in done.stderr


def test_some_failed_is_exit_1_and_the_rest_is_shown(url, tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("prompt_tokens,output_tokens,arrival_s\n5,5,0\n499,5,0\n5,3,0.01\n")
    done = called("--target", url, "--json", trace=str(path))
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["complete"], told["failed"]) == (2, {"too long": 1})
    assert "1 of 3 requests are longer than the context of fake, 500 tokens" in done.stderr
    left_out = called("--target", url, "--json", "--drop-oversized", trace=str(path))
    assert left_out.returncode == 0
    assert json.loads(left_out.stdout)["requests"] == 2


def test_an_interruption_prints_what_is_there(tmp_path):
    out = tmp_path / "out.csv"
    with engine("--speed", "20", "--slots", "4") as slow:
        arguments = ("preset:uniform:n=5000,s_low=3,s_high=9,o_low=9,o_high=99", "--target", slow)
        arguments += ("--concurrency", "8", "--json", "--out", str(out))
        process = subprocess.Popen(
            [*LOAD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while in_flight(slow) < 4:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, complaints
    told = json.loads(said)
    assert told["interrupted_by_user"]
    assert told["complete"] + told["interrupted"] + told["unsent"] == 5000
    assert told["failed"] == {}
    assert told["interrupted"] == 8
    assert "Traceback" not in complaints


def in_flight(url):
    samples = SAMPLE.findall(fetch(f"{url}/metrics"))
    return sum(float(value) for name, _, value in samples if name == "num_requests_running")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "has no arrival times, must be sent with --rate or --concurrency"),
        (["--rate", "0"], "rate is 0, must be at least"),
        (["--concurrency", "2", "--rate", "3"], "one of them must be left out"),
        (["--target", "localhost:8000"], "must be http://HOST:PORT or https://HOST:PORT"),
        (["--target", "http://127.0.0.1:1", "--rate", "3"], "cannot be reached"),
        (["--rate", "3", "--requests", "31"], "requests is 31, must be from 1 to the 30"),
        (["--rate", "3", "--header", "no"], "--header is 'no', must be NAME=VALUE"),
        (["--rate", "3", "--header", "a=b\nc"], "must be NAME=VALUE"),
        (["--rate", "3", "--body", "[1]"], "--body is '[1]', must be a JSON object"),
        (["--rate", "3", "--body", "{"], "must be a JSON object: "),
        (["--rate", "3", "--body", '{"prompt": 1}'], "--body has prompt, which the load sets"),
        (
            ["--rate", "3", "--body", '{"ignore_eos": false}'],
            "--body has ignore_eos, which the load",
        ),
        (["--rate", "3", "--chat", "--prompts", "ids"], "prompts are ids, must be text"),
        (["--rate", "3", "--prompts", "words"], "prompts is 'words', must be ids or text"),
        (["--rate", "3", "--tokenizer", "nowhere"], "tokenizer is 'nowhere', must be a file"),
        (["--rate", "3", "--out", "x.txt"], "--out is 'x.txt', must end in .csv, .jsonl or"),
        (["--rate", "3", "--vllm-json", "no/x.json"], "the folder no does not exist"),
        (["--rate", "3", "--timeout", "0"], "timeout is 0, must be at least"),
        (["--rate", "3", "--slo-ttft", "0"], "slo_ttft is 0, must be at least"),
        (["--rate", "3", "--model", "other"], "model 'other' is not served"),
        (["--rate", "3", "--warm-up", "-1"], "warm_up is -1, must be at least 0"),
        (["--rate", "3", "--max-connections", "0"], "max_connections is 0, must be at least 1"),
    ],
)
def test_bad_input_is_one_line(url, arguments, says):
    target = () if "--target" in arguments else ("--target", url)
    done = CliRunner().invoke(app, ["load", TRACE, *target, *arguments])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("brsolver: error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_the_key_is_a_variables(url):
    done = called(
        *("--target", url, "--concurrency", "2", "--json", "--api-key-env", "MY_KEY"),
        MY_KEY="secret",
    )
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr
