"""``brsolver vllm calibrate`` on a real server: the file is written and read back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rig.servers import model_folder, rig_environment, rig_server

from brsolver.hardware import read_hardware
from integration.bench.steps import read_steps

if TYPE_CHECKING:
    from pathlib import Path

    from integration.bench.steps import Steps

pytestmark = pytest.mark.vllm

SWEEP = (
    *("--batches", "1,2,3", "--contexts", "16,64,160,320", "--chunks", "32,48"),
    *("--decode-steps", "64", "--held-out", "1", "--rounds", "1", "--json"),
)


def command(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "brsolver", "vllm", "calibrate", *arguments, *SWEEP],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: dict, written: Path, ranks: int) -> None:
    """How near the fit comes is not asked here: other tests share the machine's cores."""
    step_time = read_hardware(str(written)).step_time
    assert step_time.model == "loads"
    assert step_time.base + step_time.per_sequence + step_time.per_token > 0
    points = {(tuple(p["sequences"]), p["context"]) for p in found["points"] if not p["held_out"]}
    seen = {(sequences[0], context) for sequences, context in points}
    swept = {(batch, context) for batch in (1, 2, 3) for context in (16, 64, 160, 320)}
    assert all(len(sequences) == ranks for sequences, _ in points)
    kinds = {p["steps_of"] for p in found["points"]}
    assert {"decode", "chunk on one rank"} <= kinds
    assert found["fit"]["prefill_rows"] >= 6
    assert "vllm 0.32" in found["conditions"]
    assert seen == swept
    assert found["held_out"]["checks"] >= 1


def agree(steps: Steps, ranks: int) -> None:
    assert steps.decoding.shape[1] == ranks
    assert (steps.decoding + steps.prefill_tokens == steps.scheduled).all()


def test_a_server_is_started_and_measured(tmp_path: Path) -> None:
    server = {
        "--dtype": "float32",
        "--load-format": "dummy",
        "--max-model-len": "1024",
        "--kv-cache-memory-bytes": str(256 * 2**20),
    }
    arguments = [f"--server-arg={text}" for pair in server.items() for text in pair]
    arguments += [f"--server-env={name}={value}" for name, value in rig_environment().items()]
    out = tmp_path / "tiny.toml"
    found = command(
        str(model_folder()),
        *("--ranks", "1", "--slots", "4", "--out", str(out)),
        *("--steps", str(tmp_path / "steps"), "--logs", str(tmp_path / "server.log")),
        *("--server-arg=--enforce-eager", *arguments),
    )
    check(found, out, 1)
    agree(read_steps(tmp_path / "steps"), 1)


def test_a_server_that_runs_is_measured_and_finds_its_step_time_itself(tmp_path: Path) -> None:
    steps, out = tmp_path / "steps", tmp_path / "tiny.toml"
    with rig_server(router="vllm", mode="observe", slots=4, steps=steps) as server:
        found = command(
            *("--url", server.url, "--steps", str(steps), "--slots", "4", "--out", str(out))
        )
        check(found, out, 2)
        metrics = server.get("/metrics")
    samples = {
        line.split()[0]: float(line.split()[1])
        for line in metrics.splitlines()
        if line.startswith("brsolver_step_")
    }
    logged = read_steps(steps)
    agree(logged, 2)
    used = (logged.scheduled.sum(axis=1) > 0).sum()
    # Steps after idleness are left out, and those whose prompts are not sure.
    assert 0.3 * used < samples["brsolver_step_observations"] <= used
    assert samples["brsolver_step_base_seconds"] > 0
