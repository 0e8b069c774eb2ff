"""Messages of gRPC's health checks."""

from __future__ import annotations

from integration.messages._build import enum_values, message_class

HealthCheckRequest = message_class("grpc.health.v1.HealthCheckRequest")
"""Asks about a service, by name; an empty one is the server itself."""
HealthCheckResponse = message_class("grpc.health.v1.HealthCheckResponse")
"""Says how it is."""
HealthListRequest = message_class("grpc.health.v1.HealthListRequest")
"""Asks about all services."""
HealthListResponse = message_class("grpc.health.v1.HealthListResponse")
"""Says of all services how they are."""
STATUSES = enum_values("grpc.health.v1.HealthCheckResponse.ServingStatus")
"""Numbers of ``status`` by name: ``SERVING``, ``NOT_SERVING``."""

__all__ = [
    "STATUSES",
    "HealthCheckRequest",
    "HealthCheckResponse",
    "HealthListRequest",
    "HealthListResponse",
]
