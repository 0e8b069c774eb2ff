"""The access log that tells the picker of every start and end of what it has placed.

Of streams whose identity ends in a mark it tells in between, too: the picker marks a few at a
time, so that what it is told a second has a bound, however many streams there are.
"""

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

_GENERATES = r"[^?]*/(completions|messages|embeddings|responses)/*(\?.*)?"
"""Paths that take a slot; see `integration.picker.bodies.kind_of`."""


START = "UpstreamPoolReady"
"""An entry when a worker has a request, of every attempt: the last one is where it runs."""
GOES_ON = "DownstreamPeriodic"
END = "DownstreamEnd"


def access_log(kind: str) -> Part:
    """Return a log to the picker.

    All logs have the same settings but for their filters: Envoy then sends what a thread of its
    own logs in one stream, in order.

    Parameters
    ----------
    kind : str
        Of entries that it is for: `START`, `GOES_ON` or `END`.
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
            "custom_tags": [{"tag": name, "value": text} for name, text in _TAGS.items()],
        },
        additional_request_headers_to_log=[names.ID],
    )
    which = _ours(kind)
    if kind == END:
        which = {"or_filter": {"filters": [which, _routed_alone()]}}
    log["filter"] = _every(which, {"log_type_filter": {"types": [kind]}})
    return log


_TAGS = {
    names.FIRST: "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%",
    names.SO_FAR: "%DURATION%",
}


def _ours(kind: str) -> Part:
    """Return a filter for what the picker knows: of the rest there may be any amount."""
    if kind == GOES_ON:
        return _header(names.ID, {"safe_regex": {"regex": f".*{names.WATCHED}{names.UNREAD}?"}})
    return {"header_filter": {"header": {"name": names.ID, "present_match": True}}}


def _routed_alone() -> Part:
    """Return a filter for what Envoy routed by itself while there was no picker.

    Of what a picker places only that has no identity; errors are not told, as of those that are
    refused at the door there may be any amount.
    """
    tells = {"value": {"default_value": 299, "runtime_key": "brsolver.routed_alone"}, "op": "LE"}
    return _every(
        _header(":method", {"exact": "POST"}),
        _header(":path", {"safe_regex": {"regex": _GENERATES}}),
        {"status_code_filter": {"comparison": tells}},
    )


def _every(*filters: Part) -> Part:
    return {"and_filter": {"filters": list(filters)}}


def _header(name: str, text: Part) -> Part:
    return {"header_filter": {"header": {"name": name, "string_match": text}}}
