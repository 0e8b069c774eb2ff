"""Engines as actors of a local Ray cluster, the router where it always is: in the API server.

vLLM knows no Ray resource of CPUs, so a platform plug-in of this test, found in every process,
calls them what it calls GPUs, of which the cluster is said to have two.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed in the rig"),
]

PORT = 6399
RAY = (sys.executable, "-m", "ray.scripts.scripts")
REGISTER = """
def register():
    return "ray_on_cpu_platform.RayOnCpu"
"""
PLATFORM = """
from vllm.platforms.cpu import CpuPlatform


class RayOnCpu(CpuPlatform):
    ray_device_key = "GPU"
"""


@pytest.fixture
def ray_folder():
    """A folder with a short name: Ray's sockets lie deep in it, and such paths are limited."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture
def host() -> str:
    """The address by which Ray knows this machine, loopback only if there is no other."""
    from ray.util import get_node_ip_address

    return get_node_ip_address()


@pytest.fixture
def cluster(tmp_path: Path, ray_folder: str, host: str):
    """A Ray cluster of this machine; yields the environment of whoever uses it."""
    meta = tmp_path / "ray_on_cpu-1.dist-info"
    meta.mkdir()
    (tmp_path / "ray_on_cpu.py").write_text(REGISTER)
    (tmp_path / "ray_on_cpu_platform.py").write_text(PLATFORM)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: ray-on-cpu\nVersion: 1\n")
    (meta / "entry_points.txt").write_text(
        "[vllm.platform_plugins]\nray_on_cpu = ray_on_cpu:register\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    from rig.servers import rig_environment

    environment = rig_environment() | {
        "PYTHONPATH": path,
        "RAY_ADDRESS": f"{host}:{PORT}",
        # Once anybody has started a cluster here Ray asks for a token, which its check lacks.
        "RAY_AUTH_MODE": "disabled",
    }
    command = [
        *RAY,
        *("start", "--head", "--block", f"--port={PORT}", f"--node-ip-address={host}"),
        *("--num-gpus=2", "--num-cpus=4", "--include-dashboard=false", "--disable-usage-stats"),
        *(f"--object-store-memory={200_000_000}", f"--temp-dir={ray_folder}"),
    ]
    variables = dict(os.environ) | environment
    with subprocess.Popen(command, env=variables, start_new_session=True) as head:
        try:
            _await_cluster(head, variables, host)
            yield environment
        finally:
            _end(head)


def _await_cluster(head: subprocess.Popen[bytes], variables: dict[str, str], host: str) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert head.poll() is None, "the cluster did not start"
        asked = subprocess.run(
            [*RAY, "health-check", f"--address={host}:{PORT}"],
            capture_output=True,
            check=False,
            env=variables,
        )
        if asked.returncode == 0:
            return
        time.sleep(1)
    raise AssertionError("the cluster did not answer")


def _end(head: subprocess.Popen[bytes]) -> None:
    """End the cluster: its session is its own, whereas `ray stop` would end everybody's."""
    head.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)


def test_requests_are_routed_to_engines_that_ray_runs(cluster, host, tmp_path):
    from rig.servers import rig_server
    from serving import await_figures, empty, mixed

    router = tmp_path / "router.toml"
    # How fast decisions are is not asked here, on machines that do much else meanwhile.
    router.write_text('policy = "br-0"\nbudget_ms = 5000\n')
    arguments = ("--data-parallel-backend", "ray", "--data-parallel-address", host)
    with rig_server(
        router=str(router),
        slots=4,
        max_model_len=500,
        arguments=arguments,
        environment=cluster,
        log=tmp_path / "server.log",
    ) as server:
        assert sum(mixed(server, 60).values()) == 60
        found = await_figures(server, empty)
        assert empty(found), json.dumps(found, indent=1)
        assert found["brsolver_routed_requests_total"] > 0
        assert found.get("brsolver_fallbacks_total", 0) == 0
