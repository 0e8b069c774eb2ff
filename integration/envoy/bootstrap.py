"""Envoy's configuration as a whole, from ``serve.toml``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brsolver._limits import require_whole
from integration.envoy import clusters
from integration.envoy._parts import Part, extension, socket
from integration.envoy.listener import listener
from integration.envoy.routes import asks_again
from integration.settings import Address

if TYPE_CHECKING:
    from pathlib import Path

    from integration.settings import ServeConfig

ENDPOINTS = "endpoints.json"
"""What the file of the workers is called, in the folder that Envoy runs in."""
_ALLOCATOR: Part = {"bytes_to_release": 16 * 2**20, "memory_release_interval": "1s"}
"""What nobody has any more is given back: else Envoy keeps what it ever needed at its most."""
HIDDEN = "(a key of auth.keys_file or auth.keys_env)"
MARK = "brsolver"
"""Of the metadata of Envoy's node: tells which settings it was started with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports as they are once chosen: where the configuration has 0, a free one.

    Attributes
    ----------
    listen : int
        For clients.
    admin : int
        Envoy's own admin interface, on loopback.
    door : int
        The picker's HTTP door.
    grpc : int
        The picker's access log and external processor.
    """

    listen: int
    admin: int
    door: int
    grpc: int

    def __post_init__(self) -> None:
        for name in ("listen", "admin", "door", "grpc"):
            require_whole(name, getattr(self, name), 1, 65_535)


def bootstrap(config: ServeConfig, ports: Ports, *, endpoints: Path) -> dict[str, Any]:
    """Return the configuration that Envoy starts with.

    Parameters
    ----------
    config : ServeConfig
    ports : Ports
    endpoints : Path
        File of the workers that `Endpoints` writes; Envoy wants it to be there when it starts.

    Returns
    -------
    dict
        As JSON has it. It holds the API keys: see `redacted`.
    """
    made: dict[str, Any] = {
        "node": {"id": "brsolver", "cluster": "brsolver"},
        "admin": {"address": socket("127.0.0.1", ports.admin)},
        "static_resources": {
            "listeners": [listener(config, ports.listen)],
            "clusters": _clusters(config, ports, endpoints),
        },
        "overload_manager": _overload(config.limits.connections),
        "memory_allocator_manager": _ALLOCATOR,
    }
    made["node"]["metadata"] = {MARK: mark_of(made)}
    return made


def mark_of(configuration: dict[str, Any]) -> str:
    """Return what tells a configuration from others, its API keys and its mark aside."""
    rest = redacted(configuration)
    rest["node"].pop("metadata", None)
    return hashlib.sha256(as_text(rest).encode()).hexdigest()[:16]


def _clusters(config: ServeConfig, ports: Ports, endpoints: Path) -> list[Part]:
    host = config.picker.host
    made = [
        clusters.workers(config, endpoints.absolute()),
        clusters.picker(
            Address(host, ports.grpc),
            frozen_s=config.picker.watchdog_s,
            tls=config.picker.certificate is not None,
        ),
    ]
    if config.picker.door == "ext_authz" or asks_again(config):
        made.append(clusters.door(Address(host, ports.door)))
    if config.trace.opentelemetry is not None:
        made.append(clusters.spans(Address.parse(config.trace.opentelemetry)))
    return made


def _overload(connections: int) -> Part:
    monitor = extension(
        "resource_monitors.global_downstream_max_connections",
        "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=connections,
    )
    return {"resource_monitors": [monitor]}


def redacted(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the same without API keys, to be shown.

    Envoy does not start with it where there are some: what stands in their place could be shown at
    its door by anybody.
    """
    copy: dict[str, Any] = json.loads(json.dumps(configuration))
    for each in copy.get("static_resources", {}).get("listeners", ()):
        for chain in each["filter_chains"]:
            for part in chain["filters"][0]["typed_config"]["http_filters"]:
                for credential in part["typed_config"].get("credentials", ()):
                    del credential["key"]
                    credential[HIDDEN] = ""
    return copy


def as_text(configuration: dict[str, Any]) -> str:
    """Write a configuration as Envoy reads it from a file: JSON, indented."""
    return json.dumps(configuration, indent=1) + "\n"
