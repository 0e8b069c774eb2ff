"""What clients speak to: one listener, one connection manager."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.envoy._parts import Part, extension, seconds, socket
from integration.envoy.clusters import SPANS
from integration.envoy.filters import ANSWER_BYTES, forged, http_filters
from integration.envoy.logs import END, GOES_ON, access_log
from integration.envoy.replies import local_replies
from integration.envoy.routes import route_config

if TYPE_CHECKING:
    from integration.settings import Door, Limits, ServeConfig

_OURS, _OURS_KIB = 16, 2
"""Headers, and KiB of them, that filters put on a request: Envoy counts them with its client's."""
_MOST_KIB = 8192
"""Of headers, for Envoy."""
STATS = "in"
"""What the listener's figures are called: ``http.in.downstream_rq_active``."""


def listener(config: ServeConfig, port: int) -> Part:
    """Return the listener."""
    chain: Part = {"filters": [_connection_manager(config)]}
    if config.listen.certificate is not None and config.listen.key is not None:
        chain["transport_socket"] = _tls(config, config.listen.certificate, config.listen.key)
    return {
        "name": STATS,
        "address": socket(config.listen.host, port),
        "per_connection_buffer_limit_bytes": max(config.limits.body_bytes, ANSWER_BYTES),
        "listener_filters_timeout": "15s",
        "filter_chains": [chain],
    }


def _connection_manager(config: ServeConfig) -> Part:
    manager = extension(
        "filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STATS,
        codec_type="AUTO",
        early_header_mutation_extensions=[_early_mutation()],
        http_filters=http_filters(config),
        route_config=route_config(config),
        local_reply_config=local_replies(),
        **_logs(config.picker),
        **_bounds(config.limits),
        **_STRICT,
        **_IDENTITY,
    )
    if config.trace.opentelemetry is not None:
        manager["typed_config"]["tracing"] = _tracing(config)
    return manager


_STRICT: Part = {
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "REJECT_REQUEST",
    "use_remote_address": True,
    # Nobody is trusted with Envoy's own headers, not even loopback.
    "internal_address_config": {
        "cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]
    },
    "server_header_transformation": "PASS_THROUGH",
}
_IDENTITY: Part = {
    "generate_request_id": True,
    "preserve_external_request_id": True,
    "always_set_request_id_in_response": True,
    # Else a digit of the client's identity would carry whether it is traced.
    "request_id_extension": {
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
            "pack_trace_reason": False,
            "use_request_id_for_trace_sampling": False,
        }
    },
}


def _bounds(limits: Limits) -> Part:
    return {
        "max_request_headers_kb": min(limits.header_bytes // 1024 + _OURS_KIB, _MOST_KIB),
        "request_headers_timeout": "10s",
        "request_timeout": seconds(limits.upload_s),
        # A request may be held for long, and a stream be silent: attempts are bounded instead.
        "stream_idle_timeout": "0s",
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "max_headers_count": limits.headers + _OURS,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": 1_048_576,
        },
    }


def _logs(door: Door) -> Part:
    if not door.sample_streams:
        return {"access_log": [access_log(END)]}
    return {
        "access_log": [access_log(END), access_log(GOES_ON)],
        "access_log_options": {"access_log_flush_interval": seconds(door.sample_s)},
    }


def _early_mutation() -> Part:
    return extension(
        "http.early_header_mutation.header_mutation",
        "http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=forged(),
    )


def _tracing(config: ServeConfig) -> Part:
    return {
        "random_sampling": {"value": 100 * config.trace.sampling},
        "spawn_upstream_span": True,
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": SPANS}, "timeout": "1s"},
                "service_name": config.trace.service,
            },
        },
    }


def _tls(config: ServeConfig, certificate: str, key: str) -> Part:
    files = {
        "certificate_chain": {"filename": str(config.path(certificate).absolute())},
        "private_key": {"filename": str(config.path(key).absolute())},
    }
    return extension(
        "transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificates": [files],
        },
    )
