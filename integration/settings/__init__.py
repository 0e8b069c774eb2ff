"""What ``brsolver serve`` is told: ``serve.toml``, checked.

Each table of the file is a frozen dataclass, `ServeConfig` holds one of each, `load` reads them.
Whatever is wrong with a file is one line.
"""

from __future__ import annotations

from integration.settings._checks import Address
from integration.settings.config import WHO, ServeConfig, built, load, named, read_tables
from integration.settings.keys import ApiKey
from integration.settings.limits import Auth, Limits
from integration.settings.tables import (
    Admin,
    Door,
    Envoy,
    KvEvents,
    Listen,
    Log,
    Trace,
)
from integration.settings.workers import Tiers, Whence, Workers

__all__ = [
    "WHO",
    "Address",
    "Admin",
    "ApiKey",
    "Auth",
    "Door",
    "Envoy",
    "KvEvents",
    "Limits",
    "Listen",
    "Log",
    "ServeConfig",
    "Tiers",
    "Trace",
    "Whence",
    "Workers",
    "built",
    "load",
    "named",
    "read_tables",
]
