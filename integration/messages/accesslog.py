"""Messages of Envoy's gRPC access log."""

from __future__ import annotations

from integration.messages._build import enum_values, message_class

StreamAccessLogsMessage = message_class("envoy.service.accesslog.v3.StreamAccessLogsMessage")
"""A batch of entries; the first of a stream says who sends them."""
StreamAccessLogsResponse = message_class("envoy.service.accesslog.v3.StreamAccessLogsResponse")
"""Empty; sent once, when the stream ends."""
HTTPAccessLogEntry = message_class("envoy.data.accesslog.v3.HTTPAccessLogEntry")
"""One request at one moment of its life: `TYPES` says which."""
AccessLogCommon = message_class("envoy.data.accesslog.v3.AccessLogCommon")
"""What entries of all protocols have: times, addresses, flags, metadata."""
ResponseFlags = message_class("envoy.data.accesslog.v3.ResponseFlags")
"""Why a response was not simply the upstream's."""
TYPES = enum_values("envoy.data.accesslog.v3.AccessLogType")
"""Numbers of ``access_log_type`` by name: ``UpstreamPoolReady``, ``DownstreamEnd``."""

__all__ = [
    "TYPES",
    "AccessLogCommon",
    "HTTPAccessLogEntry",
    "ResponseFlags",
    "StreamAccessLogsMessage",
    "StreamAccessLogsResponse",
]
