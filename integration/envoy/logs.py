"""The access log that tells the picker of every start and end of what it has placed."""

from __future__ import annotations

from integration.envoy._parts import Part, extension, seconds
from integration.messages import names

PICKER = "picker"
"""Cluster of the picker's gRPC services."""
FLUSH_S = 0.02
"""Seconds for which entries gather; one batch costs Python little more than one entry."""
BATCH_BYTES = 3 * 2**20
"""At most, while the picker is too busy to take entries; gRPC takes messages of 4 MiB. Beyond it
Envoy drops entries."""


def access_log(*, types: tuple[str, ...] = ()) -> Part:
    """Return a log to the picker.

    Parameters
    ----------
    types : tuple of str
        Kinds of entries that it is for; empty is all.
    """
    log = extension(
        "access_loggers.http_grpc",
        "access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config={
            "log_name": names.LOG,
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": PICKER}},
            "buffer_flush_interval": seconds(FLUSH_S),
            "buffer_size_bytes": BATCH_BYTES,
        },
        additional_request_headers_to_log=[names.ID],
    )
    log["filter"] = {"and_filter": {"filters": [_ours(), _types(types)]}} if types else _ours()
    return log


def _ours() -> Part:
    """Return a filter for what the picker knows: of the rest there may be any amount."""
    return {"header_filter": {"header": {"name": names.ID, "present_match": True}}}


def _types(types: tuple[str, ...]) -> Part:
    return {"log_type_filter": {"types": list(types)}}
