"""Envoy, the data plane: its configuration, its workers, its process.

- `bootstrap` makes Envoy's configuration from ``serve.toml``; `redacted` and `as_text` show it.
- `Endpoints` writes which workers there are, `resolve` finds their addresses.
- `find_envoy` finds the program, `EnvoyProcess` runs it, `EnvoyAdmin` asks it for figures.
"""

from __future__ import annotations

from integration.envoy.admin import EnvoyAdmin, EnvoyAdminError, Host
from integration.envoy.bootstrap import ENDPOINTS, Ports, as_text, bootstrap, redacted
from integration.envoy.endpoints import Endpoints, resolve
from integration.envoy.process import EnvoyProcess, EnvoyStartError
from integration.envoy.program import EnvoyMissingError, find_envoy

__all__ = [
    "ENDPOINTS",
    "Endpoints",
    "EnvoyAdmin",
    "EnvoyAdminError",
    "EnvoyMissingError",
    "EnvoyProcess",
    "EnvoyStartError",
    "Host",
    "Ports",
    "as_text",
    "bootstrap",
    "find_envoy",
    "redacted",
    "resolve",
]
