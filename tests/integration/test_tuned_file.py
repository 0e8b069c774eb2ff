"""The file that ``brsolver tune`` writes, loaded as it is by whoever serves."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest
from serve_stack import DEADLINE_S
from typer.testing import CliRunner

from brsolver import SimulationParams
from brsolver.cli.main import app
from brsolver.errors import ParameterError
from brsolver.tuned import read_tuned
from integration.serve.processes import Running, fetch
from integration.settings import load
from integration.vllm.config import from_environment
from integration.vllm.inspection import try_names
from integration.vllm.recorder import Recorder
from integration.vllm.requests import Request

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """
[tuned]
version = "0.1.0"
goal = "latency"

[router]
policy = "br-t:kappa=2.5"
mode = "pooled"
predictor = "survival"
hardware = "hardware.toml"
prefill = true
refresh_steps = 16
request_tokens = 0
slo_ttft_ms = 900.0

[engine]
workers = 4
slots = 48
capacity = 200000

[engine.prefill]
mode = "colocated"
budget = 4096
interval = 2

[simulation]
seed = 3

[simulation.arrivals]
mode = "rate"
rate = 2.5
"""
HARDWARE = """name = "mine"
[step_time]
model = "loads"
base = 0.02
per_sequence = 6e-5
per_token = 4e-8
per_prefill_token = 3e-5
"""


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "hardware.toml").write_text(HARDWARE)
    path = folder / "tuned.toml"
    path.write_text(TEXT)
    return path


def test_a_simulation(tuned: Path) -> None:
    params = SimulationParams.from_toml(tuned)
    assert (params.workers, params.slots, params.capacity) == (4, 48, 200_000)
    assert params.routing == "pooled"
    assert (params.prefill.budget, params.prefill.interval) == (4096, 2)
    assert params.step_time.per_sequence == 6e-5
    assert (params.arrivals.mode, params.arrivals.rate, params.seed) == ("rate", 2.5, 3)
    assert (params.slo_ttft_ms, params.refresh_steps) == (900.0, 16)


def test_the_adapter(tuned: Path) -> None:
    config = from_environment({"BRSOLVER_ROUTER": str(tuned)})
    assert config is not None
    assert config.policy.name == "br-t"
    assert config.policy.params.kappa == 2.5
    assert (config.params.mode, config.params.prefill) == ("pooled", True)
    assert (config.params.slo_ttft_ms, config.params.refresh_steps) == (900.0, 16)
    try_names(config)
    over = from_environment({"BRSOLVER_ROUTER": str(tuned), "BRSOLVER_MODE": "observe"})
    assert over is not None
    assert over.params.mode == "observe"


def test_the_picker_with_workers_beside_it(tuned: Path) -> None:
    config = load(tuned, {}, workers="one:8000, two:8000")
    assert config.workers.addresses == ("one:8000", "two:8000")
    router = config.router
    assert (router.policy, router.slots, router.capacity) == ("br-t:kappa=2.5", 48, 200_000)
    assert (router.budget, router.prefill, router.slo_ttft_ms) == (4096, True, 900.0)
    assert (config.folder / router.hardware).read_text() == HARDWARE


def test_the_picker_with_workers_in_a_file(tuned: Path, tmp_path: Path) -> None:
    engines = tmp_path / "engines.toml"
    engines.write_text('[[worker]]\naddress = "one:8000"\n')
    config = load(tuned, {}, workers=str(engines))
    assert config.path(config.workers.file or "") == engines


def test_workers_are_needed(tuned: Path) -> None:
    with pytest.raises(ParameterError, match="workers names none"):
        load(tuned, {})


def test_settings_that_name_the_file(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(
        '[router]\ntuned = "tuned/tuned.toml"\nslots = 50\n[workers]\naddresses = ["a:1"]\n'
        "keep_alive_s = 2.0\n"
    )
    config = load(path, {})
    assert (config.router.policy, config.router.slots) == ("br-t:kappa=2.5", 50)
    assert (config.folder / config.router.hardware).read_text() == HARDWARE
    other = load(path, {}, workers="b:2")
    assert other.workers.addresses == ("b:2",)
    assert other.workers.keep_alive_s == 2.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('tuned = "none.toml"', "cannot be read as TOML"),
        ('tuned = "other.toml"', "must be a file of brsolver tune"),
        ("tuned = 3", "must be the path of a file"),
    ],
)
def test_settings_that_name_no_such_file(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "other.toml").write_text("workers = 3\n")
    path = tmp_path / "serve.toml"
    path.write_text(f'[router]\n{line}\n[workers]\naddresses = ["a:1"]\n')
    with pytest.raises(ParameterError, match=message):
        load(path, {})


def test_what_is_for_one_reader_alone(tuned: Path) -> None:
    tuned.write_text(TEXT + "[adapter]\nreload_s = 60.0\n[picker]\npool_max = 7\n")
    config = from_environment({"BRSOLVER_ROUTER": str(tuned)})
    assert config is not None
    assert config.params.reload_s == 60.0
    assert load(tuned, {}, workers="a:1").router.pool_max == 7
    assert SimulationParams.from_toml(tuned).workers == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('policy = "br-t:kappa=2.5"', "", "policy is missing"),
        ("[engine]\n", "[engine]\nslotts = 3\n", "did you mean 'slots'"),
        ("[simulation]\n", "[simulations]\n", "did you mean 'simulation'"),
        ("[router]\n", "[router]\nreload_s = 3.0\n", "key of .router."),
    ],
)
def test_a_file_that_was_spoilt_is_one_line(tuned: Path, old: str, new: str, message: str) -> None:
    tuned.write_text(TEXT.replace(old, new))
    for read in (
        SimulationParams.from_toml,
        read_tuned,
        lambda path: from_environment({"BRSOLVER_ROUTER": str(path)}),
        lambda path: load(path, {}, workers="a:1"),
    ):
        with pytest.raises(ParameterError, match=message) as caught:
            read(tuned)
        assert str(tuned) in str(caught.value)


def test_any_other_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("workers = 3\n")
    assert read_tuned(path) is None


def served(at: int) -> Request:
    request = Request(f"r{at}", 50 + at % 400, 64, 100.0 + 0.05 * at)
    request.generated = 3 + at % 20
    return request


def test_what_the_adapter_recorded_is_tuned_on(tmp_path: Path) -> None:
    yesterday = tmp_path / "served.jsonl"
    recorder = Recorder(yesterday)
    for at in range(240):
        request = served(at)
        recorder.arrived(request)
        recorder.ended(request)
    recorder.close()
    arguments = [
        "tune", yesterday, "--timestamps", "--workers", 2, "--slots", 4, "--prefill", "colocated",
        "--goal", "latency", "--policies", "br-t", "--trials", 3, "--jobs", 1,
        "--out", tmp_path / "out",
    ]  # fmt: skip
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    config = from_environment({"BRSOLVER_ROUTER": str(tmp_path / "out" / "tuned.toml")})
    assert config is not None
    assert config.policy.name in {"br-t", "vllm"}


def test_a_picker_serves_with_it(tuned: Path, tmp_path: Path) -> None:
    pages: list[str] = []

    def ready(line: str) -> bool:
        if line.startswith("page on "):
            pages.append(line.split()[2])
        return line == "ready"

    path = tmp_path / "serve.toml"
    path.write_text(
        '[router]\ntuned = "tuned/tuned.toml"\n[picker]\ndoor = "ext_proc"\n'
        "[admin]\nport = 0\nshadows = []\n"
    )
    with socket.socket() as engine:
        engine.bind(("127.0.0.1", 0))
        engine.listen()
        workers = f"127.0.0.1:{engine.getsockname()[1]}"
        arguments = ["picker", "--config", str(path), "--workers", workers]
        with Running(arguments, ready=ready) as picker:
            assert "brsolver_" in fetch(f"{pages[0]}metrics")
            picker.signal(signal.SIGTERM)
            assert picker.wait(DEADLINE_S) == 0
