"""Small pieces that Envoy's configuration is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from integration.settings import Address

Part = dict[str, Any]
"""A message of Envoy's, as JSON has it."""

ANY_PORT_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 # nothing is bound here
"""What is bound to all addresses is reached by these."""


def typed(kind: str, **fields: Any) -> Part:
    """Return a typed message: `kind` is its name behind ``envoy.``."""
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def extension(name: str, kind: str, **fields: Any) -> Part:
    """Return an extension: `name` behind ``envoy.``, `kind` behind ``envoy.extensions.``."""
    return {"name": f"envoy.{name}", "typed_config": typed(f"extensions.{kind}", **fields)}


def seconds(value: float) -> str:
    """Write a duration, to the microsecond."""
    return f"{value:.6f}".rstrip("0").rstrip(".") + "s"


def socket(host: str, port: int) -> Part:
    """Return an address."""
    return {"socket_address": {"address": host, "port_value": port}}


def endpoint(address: Address) -> Part:
    """Return an endpoint of a cluster."""
    host = ANY_PORT_HOSTS.get(address.host, address.host)
    return {"endpoint": {"address": socket(host, address.port)}}


def exactly(names: Iterable[str]) -> Part:
    """Return a matcher of headers' names."""
    return {"patterns": [{"exact": name, "ignore_case": True} for name in names]}


def metadata_key(namespace: str, *path: str) -> Part:
    """Return where a value stands in a request's metadata."""
    return {"key": namespace, "path": [{"key": step} for step in path]}
