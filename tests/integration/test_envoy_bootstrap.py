"""Envoy accepts what is generated for it, whatever ``serve.toml`` says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from front_door import certificate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brsolver.errors import OutputError, ParameterError
from integration.envoy import (
    Endpoints,
    Ports,
    as_text,
    bootstrap,
    find_envoy,
    redacted,
    resolve,
)
from integration.settings import (
    ApiKey,
    Auth,
    Door,
    Limits,
    Listen,
    ServeConfig,
    Tiers,
    Trace,
    Workers,
)

PORTS = Ports(listen=20001, admin=20002, door=20003, grpc=20004)
WORKERS = Workers(addresses=("127.0.0.1:8000",))
SECRET = "sk-very-secret"  # noqa: S105 # of a test


def validated(folder: Path, config: ServeConfig) -> dict[str, Any]:
    """The configuration, once Envoy has said that it is one."""
    endpoints = Endpoints(folder / "endpoints.json")
    endpoints.write(("127.0.0.1:8000",))
    made = bootstrap(config, PORTS, endpoints=endpoints.path)
    path = folder / "envoy.json"
    path.write_text(as_text(made), encoding="utf-8")
    command = [find_envoy(), "--mode", "validate", "-c", path, "--log-level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return made


@st.composite
def configs(draw: st.DrawFn) -> ServeConfig:
    door = draw(st.sampled_from(["ext_authz", "ext_proc"]))
    rate = draw(st.none() | st.floats(0.01, 1e6))
    limits = Limits(
        body_bytes=draw(st.integers(1024, 2**30)),
        header_bytes=1024 * draw(st.integers(1, 8192)),
        headers=draw(st.integers(10, 10_000)),
        rate=rate,
        burst=None if rate is None else draw(st.none() | st.integers(1, 10_000_000)),
        connections=draw(st.integers(1, 10_000_000)),
        idle_s=draw(st.floats(0.05, 86_400)),
        retries=draw(st.integers(0, 100)),
        backoff_ms=draw(st.floats(1, 1000)),
    )
    tiers = door == "ext_proc" and draw(st.booleans())
    names = draw(st.lists(st.text("abc-._1", min_size=1, max_size=9), unique=True, max_size=4))
    return ServeConfig(
        listen=Listen(
            host=draw(st.sampled_from(["127.0.0.1", "0.0.0.0", "::1"])),  # noqa: S104
            paths=tuple(draw(st.lists(st.sampled_from(["/v1/", "/", "/ping"]), min_size=1))),
        ),
        workers=Workers() if tiers else Workers(addresses=("[::1]:1",), tls=draw(st.booleans())),
        tiers=Tiers(prefill=("a:1",), decode=("b:1",)) if tiers else None,
        limits=limits,
        auth=Auth(forward=draw(st.booleans())),
        picker=Door(
            door=door,
            host=draw(st.sampled_from(["127.0.0.1", "0.0.0.0", "::1"])),  # noqa: S104
            watchdog_s=draw(st.floats(0.5, 3600)),
            sample_streams=draw(st.sampled_from([0, 1, 1024])),
            sample_s=draw(st.floats(0.05, 60.0)),
        ),
        trace=Trace(
            opentelemetry=draw(st.none() | st.just("collector:4317")),
            sampling=draw(st.floats(0, 1)),
        ),
        keys=tuple(ApiKey(name, f"sk-{at}") for at, name in enumerate(names)),
    )


@given(config=configs())
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_envoy_accepts_whatever_can_be_configured(tmp_path: Path, config: ServeConfig) -> None:
    validated(tmp_path, config)


def test_envoy_accepts_tls_on_both_sides(tmp_path: Path) -> None:
    certificate(tmp_path)
    workers = Workers(addresses=("127.0.0.1:8000",), tls=True, ca="cert.pem")
    listen = Listen(certificate="cert.pem", key="key.pem")
    validated(tmp_path, ServeConfig(listen=listen, workers=workers, folder=tmp_path))


@pytest.mark.parametrize("streams", [0, 16])
def test_logs_differ_in_their_filters_alone(streams: int) -> None:
    config = ServeConfig(workers=WORKERS, picker=Door(sample_streams=streams, sample_s=0.5))
    made = bootstrap(config, PORTS, endpoints=Path("endpoints.json"))
    manager = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    manager = manager["typed_config"]
    logs = [*manager["access_log"], *manager["http_filters"][-1]["typed_config"]["upstream_log"]]
    # Envoy sends what it logs with the same settings in one stream, in order: starts before ends.
    assert all(log["typed_config"] == logs[0]["typed_config"] for log in logs)
    ours = [log["filter"]["and_filter"]["filters"] for log in logs]
    types = [kind["log_type_filter"]["types"] for _, kind in ours]
    if streams:
        assert types == [["DownstreamEnd"], ["DownstreamPeriodic"], ["UpstreamPoolReady"]]
        assert manager["access_log_options"] == {"access_log_flush_interval": "0.5s"}
        assert ours[1][0]["header_filter"]["header"]["string_match"] == {
            "safe_regex": {"regex": ".*wu?"}
        }
    else:
        assert types == [["DownstreamEnd"], ["UpstreamPoolReady"]]
        assert "access_log_options" not in manager


def test_the_same_configuration_gives_the_same_bootstrap(tmp_path: Path) -> None:
    config = ServeConfig(workers=WORKERS)
    made = [bootstrap(config, PORTS, endpoints=tmp_path / "e.json") for _ in range(2)]
    assert made[0] == made[1] == json.loads(as_text(made[0]))


@pytest.mark.parametrize("door", ["ext_authz", "ext_proc"])
def test_what_is_shown_holds_no_keys(tmp_path: Path, door: Any) -> None:
    keys = (ApiKey("anna", SECRET),)
    config = ServeConfig(workers=WORKERS, keys=keys, picker=Door(door=door))
    made = bootstrap(config, PORTS, endpoints=tmp_path / "e.json")
    shown = as_text(redacted(made))
    assert SECRET in as_text(made)
    assert SECRET not in shown
    assert "anna" in shown


def test_admin_is_on_loopback_only(tmp_path: Path) -> None:
    config = ServeConfig(listen=Listen(host="0.0.0.0"), workers=WORKERS)  # noqa: S104 # asked for
    made = bootstrap(config, PORTS, endpoints=tmp_path / "e.json")
    address = made["admin"]["address"]["socket_address"]
    assert address == {"address": "127.0.0.1", "port_value": PORTS.admin}


def test_ports_are_those_chosen() -> None:
    with pytest.raises(ParameterError, match="door is 0, must be at least 1"):
        Ports(listen=1, admin=2, door=0, grpc=4)


@pytest.mark.parametrize(("watchdog_s", "silent"), [(2.0, "2.5s"), (30.0, "30.5s")])
def test_envoy_waits_for_a_picker_as_long_as_its_watchdog_does(
    watchdog_s: float, silent: str, tmp_path: Path
) -> None:
    door = Door(door="ext_proc", watchdog_s=watchdog_s)
    made = as_text(validated(tmp_path, ServeConfig(workers=WORKERS, picker=door)))
    assert f'"message_timeout": "{silent}"' in made
    assert f'"timeout": "{watchdog_s + 1:g}s"' in made


def test_endpoints_are_replaced_at_once_and_count_once(tmp_path: Path) -> None:
    endpoints = Endpoints(tmp_path / "e.json")
    assert endpoints.write(["127.0.0.1:1", "[::1]:2", "127.0.0.1:1"]) == ("127.0.0.1:1", "[::1]:2")
    first = json.loads(endpoints.path.read_text())
    endpoints.write([])
    second = json.loads(endpoints.path.read_text())
    assert first["version_info"] != second["version_info"]
    assert len(first["resources"][0]["endpoints"][0]["lb_endpoints"]) == 2
    assert second["resources"][0]["endpoints"][0]["lb_endpoints"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


def test_endpoints_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        Endpoints(tmp_path / "none" / "e.json").write([])


def test_names_are_resolved_to_what_envoy_calls_them() -> None:
    assert resolve("127.0.0.1:80") == ("127.0.0.1:80",)
    assert resolve("[::1]:80") == ("[::1]:80",)
    assert resolve("localhost:80")[0] in {"127.0.0.1:80", "[::1]:80"}
    with pytest.raises(ParameterError, match="whose host cannot be found"):
        resolve("nowhere.invalid:80")
