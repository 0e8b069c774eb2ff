"""The compiled engines and client of the front door's benchmark, and its tables."""

import shutil
import subprocess
import sys

import httpx
import pytest

from benchmarks import bench_serve
from benchmarks.bench_serve import DIRECT, Measured, rows
from benchmarks.serve import programs
from benchmarks.serve.arms import Setting, commands
from benchmarks.serve.processes import NOTHING, Memory, Peak, cpu_seconds, memory, program, tree
from benchmarks.serve.programs import Load

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
REPORT = {
    "seconds": 2.0,
    "statuses": {},
    "tokens": 400,
    "finished": 4,
    "all_finished": 5,
    "ttft_p50_ms": 3.0,
    "ttft_p95_ms": 4.0,
    "tpot_p95_ms": 5.0,
} | dict.fromkeys(bench_serve.BAD, 0)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    programs.compile_all(folder)
    return folder


def drive(folder, ports, load, seconds=0.3):
    said = []
    report = programs.run_client(folder, ports, load, warm_s=0.1, seconds=seconds, on=said.append)
    assert said == ["begin", "end"]
    return report


@needs_compiler
@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("clock_s", [0.0, 0.005])
def test_nothing_is_lost_between_engines_and_client(compiled, clock_s, usage):
    with programs.running_engines(compiled, 3) as engines:
        engines.set_clock(clock_s)
        report = drive(compiled, engines.ports, Load(streams=20, tokens=7, usage=usage))
        metrics = httpx.get(f"http://127.0.0.1:{engines.ports[0]}/metrics").text
    assert report["all_finished"] == report["all_begun"] > 20
    assert report["tokens"] > 0
    assert {report[name] for name in bench_serve.BAD} == {0}
    assert 'num_requests_running{engine="0",model_name="fake"} 0' in metrics


@needs_compiler
@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        ({"kind": "reset", "after": 3}, "lost"),
        ({"kind": "half-close", "after": 3}, "lost"),
        ({"kind": "error"}, "refused"),
    ],
)
def test_the_client_counts_what_goes_wrong(compiled, fault, counted):
    command = [sys.executable, "-m", "integration.engines", "--port", "0", "--speed", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        url = engine.stdout.readline().split()[0]
        assert engine.stdout.readline() == "ready\n"
        httpx.post(f"{url}/fault", json=fault | {"times": 3}).raise_for_status()
        report = drive(compiled, [int(url.rpartition(":")[2])], Load(streams=5, tokens=20))
        engine.terminate()
    assert report[counted] == 3
    assert report["statuses"] == ({"500": 3} if counted == "refused" else {})
    assert report["all_finished"] == report["all_begun"] - 3
    assert sum(report[name] for name in bench_serve.BAD) == 3


def test_tables_hold_arms_against_the_baseline_and_against_none():
    found = {
        DIRECT: Measured([REPORT | {"ttft_p50_ms": 1.0}], [0.0]),
        "vllm-router": Measured([REPORT], [2.0], Memory(30.0, 20.0)),
        "other": Measured(
            [REPORT | {"tokens": 800, "lost": 2, "statuses": {"503": 1}}] * 2, [3.0, 3.0]
        ),
    }
    direct, base, other = rows(found)
    assert direct[:5] == [DIRECT, 200.0, 1.0, 1.0, 0.0]
    assert base[7:11] == [2.0, 1.0, 30.0, 20.0]
    assert other[1:5] == [400.0, 2.0, 3.0, 2.0]
    assert other[-2:] == [10, "4 lost, 2 answers 503"]


def test_processes_are_looked_up_with_what_they_started():
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        pids = tree(process.pid)
        assert pids[0] == process.pid
        assert memory(pids).rss >= memory(pids).pss > 0
        assert cpu_seconds(pids) >= 0
        process.communicate(b"\n")
    assert cpu_seconds(pids) == 0
    assert memory(pids) == Memory(0.0, 0.0)


def test_memory_is_told_by_program():
    command = [sys.executable, "-m", "timeit", "-s", "print(flush=True); input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        # Until it runs the system may not know its command.
        process.stdout.readline()
        with Peak([process.pid]) as peak, Peak([process.pid, process.pid]) as both:
            pass
        assert program(process.pid) == "timeit"
        process.kill()
    assert peak.apart["timeit"] == peak.most
    assert both.most.rss > both.apart["timeit"].rss > 0
    measured = Measured()
    measured.grown(both)
    measured.grown(peak)
    assert measured.memory == both.most
    assert measured.apart["timeit"].rss >= both.apart["timeit"].rss
    assert program(process.pid) == ""
    assert memory([process.pid]) == NOTHING


def test_a_given_command_is_told_where_things_are(tmp_path):
    arms = commands([DIRECT], ["own=serve --at {port} {engines} --config {config}"])
    command = arms["own"](Setting(tmp_path, 81, [1, 2]))
    assert command[:4] == ["serve", "--at", "81", "127.0.0.1:1,127.0.0.1:2"]
    assert 'addresses = ["127.0.0.1:1", "127.0.0.1:2"]' in (tmp_path / "serve.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--parts", "all"], "--parts has 'all', must be of idle"),
        (["--arms", "other"], "no arm 'other', must be of direct"),
        (["--command", "serve"], "--command is 'serve', must be NAME=COMMAND"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, says):
    with pytest.raises(SystemExit, match=says):
        bench_serve.main(arguments)


def test_a_missing_compiler_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match="must be a C compiler: No such file"):
        programs.compile_all(tmp_path)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="there is no C compiler: install cc, or name one"):
        programs.compile_all(tmp_path)
