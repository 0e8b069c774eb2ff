"""Arms of a bench, the servers that they need, and what the simulator says of them."""

from __future__ import annotations

import re
import tomllib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from brsolver.cli._input import InputOptions, input_flags
from brsolver.cli.main import app
from brsolver.errors import ParameterError, UnknownNameError
from brsolver.hardware.step_time import StepTime
from integration.bench import switching
from integration.bench.arms import parse_arm, parse_arms
from integration.bench.prefilled import Setting, foretell, foretold_figures
from integration.bench.switching import settings_of, stage_for
from integration.bench.workload import WorkloadParams, workloads

ARMS = ("default", "jsq-load@immediate", "br-0@pooled", "interval 4", "interval 8")
TRACE = "preset:uniform:n=200,s_low=8,s_high=200,o_low=6,o_high=40"


class TestArms:
    def test_an_interval_is_vllms_own_rule_on_servers_of_their_own(self):
        arm = parse_arm(" interval  8 ")
        assert (arm.name, arm.mode, arm.policy.name) == ("interval 8", "observe", "vllm")
        assert arm.arguments == ("--prefill-schedule-interval", "8")
        assert parse_arm("br-0@pooled").arguments == ()

    @pytest.mark.parametrize("text", ["interval", "interval 1", "interval x", "interval 99999"])
    def test_what_is_no_interval_is_refused(self, text):
        with pytest.raises(ParameterError, match="interval is"):
            parse_arm(text)

    def test_hardware_is_named_or_a_file_whose_path_is_made_absolute(self, tmp_path, monkeypatch):
        assert settings_of(None) == {}
        assert settings_of("bfio") == {"hardware": "bfio"}
        source = Path(switching.__file__).parents[2] / "brsolver/hardware/presets/bfio.toml"
        (tmp_path / "mine.toml").write_text(source.read_text())
        monkeypatch.chdir(tmp_path)
        assert settings_of("mine.toml") == {"hardware": str(tmp_path / "mine.toml")}
        with pytest.raises(UnknownNameError):
            settings_of("h2000")


class Servers:
    """Makes servers that take in a new file as soon as it is there."""

    def __init__(self) -> None:
        self.started: list[tuple[str, tuple[str, ...]]] = []
        self.living = 0

    @contextmanager
    def __call__(self, environment, label, arguments):
        self.started.append((label, arguments))
        self.living += 1
        assert self.living == 1
        self.file, self.texts = Path(environment["BRSOLVER_ROUTER"]), []
        params = SimpleNamespace(api_servers=1)
        yield SimpleNamespace(params=params, get=self.get, log="a.log", url="", condition=str)
        self.living -= 1

    def get(self, *_):
        text = self.file.read_text()
        if text not in self.texts[-1:]:
            self.texts.append(text)
        return f"brsolver_reloads_total {len(self.texts) - 1}\n"


@pytest.fixture
def servers(monkeypatch):
    monkeypatch.setattr(switching, "warm_up", lambda *_: None)
    return Servers()


def played(servers, names, **given) -> list[dict[str, object]]:
    arms = parse_arms(names)
    files = []
    with stage_for(arms, servers, None, **given) as stage:
        for arm in arms:
            with stage.running(arm, "run"):
                files.append(tomllib.loads(servers.file.read_text()))
    assert servers.living == 0
    return files


def test_one_server_serves_all_arms_that_are_started_alike(servers):
    files = played(servers, ARMS, restart=False, settings={"hardware": "bfio"})
    assert servers.started == [
        ("server", ()),
        ("server2", ("--prefill-schedule-interval", "4")),
        ("server3", ("--prefill-schedule-interval", "8")),
    ]
    assert [each["policy"] for each in files] == ["vllm", "jsq-load", "br-0", "vllm", "vllm"]
    assert [each["mode"] for each in files][2:4] == ["pooled", "observe"]
    assert {each["hardware"] for each in files} == {"bfio"}


def test_servers_of_their_own_are_told_as_much(servers):
    files = played(servers, ARMS, restart=True, settings={"hardware": "bfio"})
    assert [arguments for _, arguments in servers.started][2:4] == [
        (),
        ("--prefill-schedule-interval", "4"),
    ]
    assert [each["policy"] for each in files] == ["vllm", "jsq-load", "br-0", "vllm", "vllm"]
    assert {each["hardware"] for each in files} == {"bfio"}


def test_a_server_without_the_adapter_is_told_nothing(monkeypatch):
    told = {}

    @contextmanager
    def make(environment, label, arguments):
        told[label] = environment
        yield None

    off = parse_arm("off")
    with stage_for([off], make, None, restart=True) as stage, stage.running(off, "run"):
        assert told == {"run": {}}


def test_what_is_foretold_is_what_a_session_measures():
    (load,) = workloads(WorkloadParams(trace=TRACE, requests=120), 1)
    step_time = StepTime(
        model="loads", base=0.02, per_sequence=1e-4, per_token=1e-6, per_prefill_token=1e-3
    )
    setting = Setting(ranks=2, slots=8, budget=256, capacity=None, concurrency=24)
    found = {
        name: foretold_figures(
            foretell(load.trace, parse_arm(name), step_time, setting), load.trace
        )
        for name in ("default", "interval 8", "br-t@pooled")
    }
    for each in found.values():
        assert each["e2e_p50_ms"] > each["ttft_p50_ms"] > 0
        # Eight of sixteen slots' worth of requests wait: no faster than full ranks are.
        assert 0 < each["throughput_tok_s"] < 16 / step_time.base
        assert each["tpot_p50_ms"] > 1e3 * step_time.base
        assert np.isnan(each["output_us"])
    # The engine's interval is the arm's: prompts wait for it.
    assert found["interval 8"] != found["default"]
    assert found["br-t@pooled"]["throughput_tok_s"] > found["default"]["throughput_tok_s"]


def test_a_trace_is_read_with_the_options_of_other_commands(tmp_path):
    help_ = CliRunner().invoke(app, ["vllm", "bench", "--help"], env={"COLUMNS": "200"})
    assert {flag.option for flag in input_flags()} <= set(re.findall(r"--[a-z-]+", help_.stdout))
    path = tmp_path / "t.csv"
    path.write_text("prompt_tokens,output_tokens\n9,1\n8,2\n7,3\n")
    source = InputOptions.of({"skip": "1"}).source(str(path))
    (load,) = workloads(WorkloadParams(trace=source, requests=2), 1)
    assert load.output_tokens.tolist() == [2, 3]
