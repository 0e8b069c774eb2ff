"""``brsolver vllm bench`` on a real server, and what its parts refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rig.servers import model_folder, rig_environment

from brsolver.errors import ParameterError
from integration.bench.arms import parse_arms
from integration.bench.counters import change, imbalance, output_us, parse_counters, routing_us
from integration.bench.figures import FIGURES
from integration.bench.steps import STEPS
from integration.bench.switching import Reloading
from integration.bench.workload import WorkloadParams, workloads

if TYPE_CHECKING:
    from pathlib import Path

    from integration.bench.server import Server

pytestmark = pytest.mark.vllm

TRACE = "preset:uniform:n=200,s_low=8,s_high=200,o_low=6,o_high=40"
EXPOSITION = """\
# HELP brsolver_routing_seconds x
# TYPE brsolver_routing_seconds histogram
brsolver_routing_seconds_bucket{{le="0.00005"}} {low}
brsolver_routing_seconds_bucket{{le="0.0002"}} {high}
brsolver_routing_seconds_bucket{{le="+Inf"}} {high}
# TYPE brsolver_kv_max_tokens_total counter
brsolver_kv_max_tokens_total {top}
# TYPE brsolver_kv_mean_tokens_total counter
brsolver_kv_mean_tokens_total {mean}
# TYPE brsolver_fallbacks_total counter
brsolver_fallbacks_total{{reason="a"}} 1
brsolver_fallbacks_total{{reason="b"}} {b}
# TYPE vllm:other gauge
vllm:other 3
"""


def test_the_command_compares_policies_on_one_server(tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    steps.mkdir()
    server = {
        "--dtype": "float32",
        "--load-format": "dummy",
        "--max-model-len": "1024",
        "--kv-cache-memory-bytes": str(256 * 2**20),
    }
    arguments = [f"--server-arg={text}" for pair in server.items() for text in pair]
    environment = rig_environment() | {STEPS: str(steps)}
    arguments += [f"--server-env={name}={value}" for name, value in environment.items()]
    command = [sys.executable, "-m", "brsolver", "vllm", "bench", str(model_folder())]
    done = subprocess.run(
        [
            *command,
            *("--policies", "default,jsq-load@immediate,br-0@pooled", "--rounds", "1"),
            # Five times what is in flight: a server that falls behind delivers the outputs of all
            # that run at once, and a window of one such burst has no length.
            *("--trace", TRACE, "--requests", "100", "--slots", "8", "--waiting", "4", "--json"),
            *("--server-arg=--enforce-eager", *arguments, "--logs", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [run["arm"] for run in result["runs"]] == [
        "default",
        "jsq-load@immediate",
        "br-0@pooled",
    ]
    for run in result["runs"]:
        assert set(FIGURES) <= set(run)
        assert run["throughput_tok_s"] > 0
        assert 1 <= run["kv_imbalance_steps"] < 2
        # The books run behind the steps by up to one flush at both ends of the window.
        assert run["kv_imbalance_adapter"] == pytest.approx(run["kv_imbalance_steps"], rel=0.15)
        assert run["fallbacks"] == 0
    assert "round 1/1, br-0@pooled" in done.stderr


def test_an_arm_without_the_adapter_cannot_be_switched_to(tmp_path: Path) -> None:
    (load,) = workloads(WorkloadParams(trace=TRACE, requests=4), 1)

    def unused(*_: object) -> Server:
        raise AssertionError("no server should be made")

    with pytest.raises(ParameterError, match="'off' needs a server of its own"):
        Reloading(unused, tmp_path / "router.toml", parse_arms(["br-0", "off"]), load)


def test_counters_are_differences_over_the_interval() -> None:
    before = parse_counters(EXPOSITION.format(low=5, high=10, top=100, mean=90, b=0))
    after = parse_counters(EXPOSITION.format(low=55, high=110, top=400, mean=290, b=2))
    assert imbalance(before, after) == pytest.approx(300 / 200)
    assert change(before, after, "brsolver_fallbacks_total") == 2
    assert routing_us(before, after, 50) == pytest.approx(50)
    assert routing_us(before, after, 99) == pytest.approx(200)
    assert "vllm:other" not in after.totals
    for nothing in (output_us(before, after), imbalance(before, before)):
        assert nothing != nothing  # noqa: PLR0124 # NaN is the one value unequal to itself
