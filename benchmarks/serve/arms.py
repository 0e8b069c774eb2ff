"""What stands between client and engines: one arm of the measurement each."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serve.processes import tree
from integration.free_ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROUTERS = "BRSOLVER_BENCH_ROUTERS"
"""Folder of `vllm-router` and `smg`: the ``bin`` of an environment of their own."""
PACKAGES = ("vllm-router", "smg")
STARTUP_S = 90.0
DIRECT = "direct"


@dataclass(frozen=True)
class Setting:
    """Where an arm is started.

    Attributes
    ----------
    folder : Path
        For its files.
    port : int
        To listen on.
    engines : list of int
        Ports of the engines.
    """

    folder: Path
    port: int
    engines: list[int]

    @property
    def addresses(self) -> list[str]:
        """``host:port`` of every engine."""
        return [f"127.0.0.1:{port}" for port in self.engines]

    @property
    def urls(self) -> list[str]:
        """URL of every engine."""
        return [f"http://{address}" for address in self.addresses]


@dataclass(frozen=True)
class Listening:
    """An arm that runs.

    Attributes
    ----------
    name : str
    ports : list of int
        Where clients go.
    pids : list of int
        Its processes, none of an arm that is nothing.
    """

    name: str
    ports: list[int]
    pids: list[int]


def commands(names: Sequence[str], more: Sequence[str]) -> dict[str, Callable]:
    """Return how arms are started, by name.

    Parameters
    ----------
    names : sequence of str
        Of `BUILT_IN`.
    more : sequence of str
        Further ones, ``NAME=COMMAND``, in whose command ``{port}`` is where it is to listen,
        ``{engines}`` the engines' addresses, separated by commas, and ``{config}`` a file for
        ``brsolver serve``.
    """
    found: dict[str, Callable] = {}
    for name in names:
        if name not in BUILT_IN:
            sys.exit(f"bench_serve: no arm {name!r}, must be of {', '.join(BUILT_IN)}")
        found[name] = BUILT_IN[name]
    for text in more:
        name, equals, command = text.partition("=")
        if not (name and equals and command):
            sys.exit(f"bench_serve: --command is {text!r}, must be NAME=COMMAND")
        found[name] = _given(command)
    return found


@contextmanager
def running(name: str, command_of: Callable, folder: Path, engines: list[int]) -> Iterator:
    """Run an arm until the block is left; it takes requests when the block begins."""
    if name == DIRECT:
        yield Listening(name, engines, [])
        return
    folder.mkdir()
    setting = Setting(folder, free_port(), engines)
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command_of(setting), stdout=out, stderr=out, start_new_session=True
        )
    try:
        _await(name, process, setting.port, log)
        yield Listening(name, [setting.port], tree(process.pid))
    finally:
        _end(process)


def _await(name: str, process: subprocess.Popen, port: int, log: Path) -> None:
    """Wait until a completion comes through."""
    deadline = time.monotonic() + STARTUP_S
    while process.poll() is None and time.monotonic() < deadline:
        if _completes(port):
            return
        time.sleep(0.2)
    said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    state = "takes no requests" if process.poll() is None else "has ended"
    sys.exit(f"bench_serve: arm {name} {state}; it said last: {said[0][:300]}")


def _completes(port: int) -> bool:
    body = json.dumps({"model": "fake", "prompt": "a", "max_tokens": 2, "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status == 200 and b"[DONE]" in answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end(process: subprocess.Popen) -> None:
    """End an arm and what it started, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _given(command: str) -> Callable:
    def start(setting: Setting) -> list[str]:
        fields = {
            "port": setting.port,
            "engines": ",".join(setting.addresses),
            "config": _serve_config(setting, "ext_authz"),
        }
        return [part.format(**fields) for part in shlex.split(command)]

    return start


def _nothing(setting: Setting) -> list[str]:
    del setting
    return []


def vllm_router(policy: str) -> Callable:
    """Return how ``vllm-router`` is started with a policy of its own."""

    def start(setting: Setting) -> list[str]:
        options = ["--policy", policy, "--worker-urls", *setting.urls]
        prometheus = free_port()
        at = ["--host", "127.0.0.1", "--port", str(setting.port)]
        quiet = ["--prometheus-port", str(prometheus), "--log-level", "error"]
        return [str(_routers() / "vllm-router"), *at, *quiet, *options]

    return start


def _smg(setting: Setting) -> list[str]:
    options = ["--policy", "round_robin", "--worker-urls", *setting.urls]
    prometheus = free_port()
    at = ["--host", "127.0.0.1", "--port", str(setting.port)]
    quiet = ["--prometheus-port", str(prometheus), "--log-level", "error"]
    return [str(_routers() / "smg"), "launch", *at, *quiet, *options]


def _routers() -> Path:
    """Return where the other routers are; they are installed beside nothing else if need be."""
    named = os.environ.get(ROUTERS)
    place = Path(named) if named else _own_environment()
    for package in PACKAGES:
        if not (place / package).exists():
            sys.exit(f"bench_serve: {place} has no {package}; set {ROUTERS} to a folder that has")
    return place


def _own_environment() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "brsolver-bench"
    place = root / "routers" / "bin"
    if not all((place / package).exists() for package in PACKAGES):
        sys.stderr.write(f"bench_serve: installing {' and '.join(PACKAGES)} into {root}\n")
        subprocess.run([sys.executable, "-m", "venv", root / "routers"], check=True)
        install = [place / "python", "-m", "pip", "install", "--quiet", *PACKAGES]
        if subprocess.run(install, check=False).returncode:
            sys.exit(f"bench_serve: cannot install {PACKAGES}; set {ROUTERS} to a folder that has")
    return place


def _envoy(setting: Setting) -> list[str]:
    path = setting.folder / "envoy.json"
    path.write_text(json.dumps(_plain_bootstrap(setting)))
    program = os.environ.get("BRSOLVER_BENCH_ENVOY") or shutil.which("envoy")
    beside = Path(sys.executable).parent / "envoy"
    if program is None and not beside.exists():
        sys.exit("bench_serve: there is no envoy; name one with BRSOLVER_BENCH_ENVOY=PATH")
    quiet = ["--log-level", "error", "--use-dynamic-base-id"]
    return [program or str(beside), "-c", str(path), *quiet]


def _plain_bootstrap(setting: Setting) -> dict:
    """Return an Envoy that sends requests to the engine with the fewest, and does nothing else."""
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
        "HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}}
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    breaker = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 100_000)
    cluster = {
        "name": "engines",
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [breaker]},
        "load_assignment": {
            "cluster_name": "engines",
            "endpoints": [{"lb_endpoints": [_endpoint(port) for port in setting.engines]}],
        },
    }
    listener = {
        "name": "in",
        "address": _address(setting.port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _endpoint(port: int) -> dict:
    return {"endpoint": {"address": _address(port)}}


def _address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _serve(door: str) -> Callable:
    def start(setting: Setting) -> list[str]:
        config = _serve_config(setting, door)
        return [sys.executable, "-m", "brsolver", "serve", "--config", str(config)]

    return start


def _serve_config(setting: Setting, door: str) -> Path:
    path = setting.folder / "serve.toml"
    path.write_text(
        f"[listen]\nport = {setting.port}\n"
        f"[workers]\naddresses = {json.dumps(setting.addresses)}\n"
        f'[picker]\ndoor = "{door}"\n'
        "[router]\nslots = 1024\n"
        "[admin]\nport = 0\n"
    )
    return path


BUILT_IN: dict[str, Callable] = {
    DIRECT: _nothing,
    "vllm-router": vllm_router("round_robin"),
    "smg": _smg,
    "envoy": _envoy,
    "brsolver": _serve("ext_authz"),
    "brsolver-ext-proc": _serve("ext_proc"),
}
"""Arms that need no more than their name."""
