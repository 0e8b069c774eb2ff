"""The file that ``brsolver tune`` writes, loaded as it is by whoever serves."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from serve_stack import DEADLINE_S

from brsolver import SimulationParams
from brsolver.errors import ParameterError
from brsolver.executors.inline import InlineExecutor, InlineLane
from brsolver.hardware.model import read_hardware
from brsolver.registry import PolicySpec
from brsolver.simulator import Arrivals
from brsolver.simulator.arrivals import arrival_times
from brsolver.simulator.prefill import Prefill
from brsolver.traces import Trace
from brsolver.tuned import read_tuned
from brsolver.tuning import TuneParams, tune, write_tuned
from brsolver.tuning.work import GapTask, RunTask
from integration.serve.processes import Running, fetch
from integration.settings import load
from integration.vllm.config import from_environment
from integration.vllm.inspection import try_names
from integration.vllm.recorder import Recorder
from integration.vllm.requests import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.tuning import TuneResult

PAGE = Path(__file__).parents[2] / "docs/tune.md"
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


@pytest.mark.parametrize(
    ("recommended", "own", "mode"),
    [
        ("published", "", "observe"),
        ("published", 'mode = "immediate"\n', "immediate"),
        ("project", "", "pooled"),
    ],
)
def test_what_is_kept_as_it_is_vllm_routes_itself(
    tuned: Path, recommended: str, own: str, mode: str
) -> None:
    facts = f'[tuned]\nrecommended = "{recommended}"\n'
    tuned.write_text(TEXT.replace("[tuned]\n", facts) + f"[adapter]\n{own}")
    config = from_environment({"BRSOLVER_ROUTER": str(tuned)})
    assert config is not None
    assert config.params.mode == mode
    assert load(tuned, {}, workers="a:1").router.mode == "pooled"
    assert SimulationParams.from_toml(tuned).routing == "pooled"


class Pretending(InlineExecutor):
    """Simulates nothing: what is written does not hang on figures."""

    @contextmanager
    def open(self, function: Any, shared: Mapping[str, object] | None = None) -> Iterator[Any]:
        del function
        yield InlineLane(pretended, shared or {})


def pretended(task: RunTask | GapTask, shared: object) -> dict[str, Any]:
    del shared
    if isinstance(task, GapTask):
        return {"certified": False, "requests": task.end}
    return {"bulk_tok_s": 1.0 + task.first, "engine_s": 1e-3, "task_s": 1e-3}


@pytest.fixture(scope="module", params=["a preset's", "its own"])
def came_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what tuning came to, with hardware of a preset or of a file."""
    mine = tmp_path_factory.mktemp("hardware") / "server.toml"
    mine.write_text(HARDWARE)
    rows = np.arange(240)
    trace = Trace(prompt_tokens=50 + 37 * rows % 400, output_tokens=3 + 11 * rows % 20)
    params = SimulationParams(
        workers=2, slots=4, capacity=20_000, slo_ttft_ms=900.0,
        prefill=Prefill(mode="colocated", budget=512),
    )  # fmt: skip
    hardware = (str(mine),) if request.param == "its own" else ()
    tuning = TuneParams(budget_s=1e6, trials=2, hardware=hardware)
    return tune(
        trace, params, tuning, policies="br-t:kappa=2.5", predictor="survival",
        executor=Pretending(),
    )  # fmt: skip


@pytest.fixture(params=["published", "project"])
def written(came_out: TuneResult, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the file that tuning writes where it recommends a setting."""
    path = write_tuned(replace(came_out, recommended=request.param), tmp_path)
    assert path is not None
    return path


def test_what_was_written_is_loaded_by_all_as_it_is(written: Path, came_out: TuneResult) -> None:
    found = read_tuned(written)
    assert found is not None
    role = str(found.facts["recommended"])
    chosen = came_out.by_role(role)
    assert chosen is not None
    policy, params = chosen.candidate.policy, chosen.candidate.params
    assert policy.text == {"published": "vllm", "project": "br-t:kappa=2.5"}[role]

    picker = load(written, {}, workers="one:8000,two:8000")
    router = picker.router
    assert picker.workers.addresses == ("one:8000", "two:8000")
    assert PolicySpec.parse(router.policy).params == policy.params
    assert (router.mode, router.predictor) == (params.routing, "survival")
    assert (router.slots, router.capacity, router.budget) == (4, 20_000, 512)
    assert (router.prefill, router.slo_ttft_ms) == (True, 900.0)
    beside = router.hardware.endswith(".toml")
    assert beside == (written.parent / "hardware.toml").exists()
    hardware = str(picker.path(router.hardware)) if beside else router.hardware
    assert read_hardware(hardware).step_time == params.step_time

    adapter = from_environment({"BRSOLVER_ROUTER": str(written)})
    assert adapter is not None
    assert adapter.policy.params == policy.params
    assert adapter.params.mode == ("observe" if role == "published" else "pooled")
    try_names(adapter)
    assert SimulationParams.from_toml(written) == params


@pytest.mark.parametrize("timed", [False, True])
def test_a_simulation_of_it_meets_the_traffic_that_was_tuned_for(
    timed: bool, tmp_path: Path
) -> None:
    rows = np.arange(240)
    trace = Trace(
        prompt_tokens=50 + 37 * rows % 400, output_tokens=3 + 11 * rows % 20,
        arrival_s=np.sqrt(rows) if timed else None,
    )  # fmt: skip
    params = SimulationParams(
        workers=2, slots=4, arrivals=Arrivals(mode="utilization", utilization=0.7), seed=5,
        prefill=Prefill(mode="colocated", budget=512),
    )  # fmt: skip
    result = tune(
        trace, params, TuneParams(budget_s=1e6, trials=2), policies="br-t", executor=Pretending()
    )
    published = result.validated[0]
    candidate = published.candidate
    slots = replace(candidate, params=replace(candidate.params, slots=32))
    result = replace(result, validated=(replace(published, candidate=slots),))
    written = write_tuned(replace(result, recommended="published"), tmp_path)
    assert written is not None
    found = SimulationParams.from_toml(written)
    assert found.slots == 32
    assert np.array_equal(arrival_times(trace, found), arrival_times(trace, params))


@pytest.mark.parametrize(
    "spoilt", ["[router]\nkappa = 3\n", "[routers]\n", "[tuned]\n[router]\npolicy = 3\n", ""]
)
def test_what_the_user_added_outlives_whatever_else_is_wrong(
    came_out: TuneResult, spoilt: str, tmp_path: Path
) -> None:
    own = (
        "[adapter]\nreload_s = 60.0\n[adapter.parameters]\nkappa = 2.5\n"
        '[adapter."x.y"]\n"a b" = 1\nsince = 2026-12-01\n[picker]\nseed = 3\nx = [{a = "b"}]\n'
    )
    (tmp_path / "tuned.toml").write_text(spoilt + own)
    for _ in range(2):
        path = write_tuned(came_out, tmp_path)
        assert path is not None
        found = read_tuned(path)
        assert found is not None
        assert found.own == {
            "adapter": {
                "reload_s": 60.0,
                "parameters": {"kappa": 2.5},
                "x.y": {"a b": 1, "since": date(2026, 12, 1)},
            },
            "picker": {"seed": 3, "x": [{"a": "b"}]},
        }


@pytest.mark.parametrize("text", ["[adapter]\nreload_s = \n", 'adapter = "mine"\n'])
def test_what_could_not_be_kept_is_not_replaced(
    came_out: TuneResult, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "tuned.toml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"tuned\.toml: .*must be") as caught:
        write_tuned(came_out, tmp_path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == text


def served(recorder: Recorder, requests: int) -> None:
    for at in range(requests):
        request = Request(f"r{at}", 50 + at % 400, 64, 100.0 + 0.05 * at)
        request.generated = 3 + at % 20
        recorder.arrived(request)
        recorder.ended(request)


def cron_line(folder: Path) -> str:
    """Return the page's line as cron hands it to a shell, in another folder."""
    (line,) = re.findall(r"^0 4 \* \* \* +(.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return str(line).replace(r"\%", "%").replace("/var/lib/brsolver", shlex.quote(str(folder)))


ROWS = 64 * 1024
"""Bytes: some 400 rows."""


@pytest.mark.skipif(os.name == "nt", reason="there is no cron")
@pytest.mark.parametrize("most", [None, ROWS], ids=["no bound", "a bound"])
def test_every_night_what_the_adapter_recorded_is_tuned_on(
    tmp_path: Path, most: int | None
) -> None:
    before = Recorder(tmp_path / "served.jsonl", rotate_bytes=most)
    served(before, 300)
    before.close()
    # It is started again, and goes on while cron runs.
    recorder = Recorder(tmp_path / "served.jsonl", rotate_bytes=most)
    served(recorder, 600)
    (tmp_path / "server.toml").write_text(HARDWARE)
    program = tmp_path / "bin" / "brsolver"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m brsolver "$@"\n')
    program.chmod(0o755)
    smaller = "--workers 2 --slots 4 --policies br-t --trials 3 --jobs 1"
    night = subprocess.run(
        ["sh", "-c", f"{cron_line(tmp_path)} {smaller}"],  # noqa: S607 # as cron does
        env={**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    recorder.close()
    assert night.returncode == 0, night.stderr
    rows = {each.name: each.read_text().count("\n") for each in tmp_path.glob("*.jsonl*")}
    # What the recorder had not flushed yet is the newest.
    if most is None:
        assert rows["served.1.jsonl"] == 300
        assert 256 <= rows["yesterday.jsonl"] < 600
    else:
        assert rows["served.jsonl"] < rows["served.jsonl.1"] < rows["yesterday.jsonl"]
        assert "served.1.jsonl" not in rows
    path = tmp_path / "tuned" / "tuned.toml"
    found = read_tuned(path)
    assert found is not None
    assert found.simulation["arrivals"]["mode"] == "timestamps"
    assert found.router["hardware"] == "hardware.toml"
    # What runs goes on running: nothing of it is searched.
    engine, prefill = dict(found.engine), found.engine["prefill"]
    assert (engine["workers"], engine["slots"]) == (2, 4)
    assert (prefill["budget"], prefill["interval"]) == (8192, 1)
    searched = json.loads((path.parent / "tune.json").read_text())["searched"]
    assert searched.keys() >= {"routing"}
    assert not searched.keys() & {"slots", "hardware", *prefill}
    config = from_environment({"BRSOLVER_ROUTER": str(path)})
    assert config is not None
    try_names(config)
    assert config.policy.name in {"br-t", "vllm"}


@pytest.mark.parametrize("by_tune", [False, True], ids=["by hand", "by tune"])
def test_a_picker_serves_with_it(
    tuned: Path, came_out: TuneResult, tmp_path: Path, by_tune: bool
) -> None:
    if by_tune:
        write_tuned(replace(came_out, recommended="project"), tuned.parent)
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
