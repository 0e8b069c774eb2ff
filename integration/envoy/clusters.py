"""Whom Envoy speaks to: the engines, the picker, whoever takes spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.envoy._parts import Part, endpoint, extension, metadata_key, seconds, typed
from integration.envoy.filters import DOOR
from integration.envoy.logs import PICKER
from integration.envoy.routes import WORKERS
from integration.messages import names

if TYPE_CHECKING:
    from pathlib import Path

    from integration.settings import Address, Limits, ServeConfig

SPANS = "spans"
"""Cluster of what takes OpenTelemetry's spans."""
BACKLOG_BYTES = 64 * 2**20
"""Of entries that a busy picker has yet to read: some 60,000. Beyond it Envoy drops entries."""
_PLENTY = 1_000_000
"""For breakers towards the picker, which bounds its pool itself."""
_HEALTH_S = 2.0
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def workers(config: ServeConfig, endpoints: Path) -> Part:
    """Return the engines' cluster.

    Parameters
    ----------
    config : ServeConfig
    endpoints : Path
        File that says which they are; read again when another is moved to its place.
    """
    cluster = {
        "name": WORKERS,
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": WORKERS,
            "eds_config": {
                "path_config_source": {"path": str(endpoints)},
                "resource_api_version": "V3",
            },
        },
        "connect_timeout": seconds(config.limits.connect_s),
        "load_balancing_policy": _chosen(config.picker.door),
        "common_lb_config": {
            # No panic mode: where nobody answers, 503 at once is better than a request that waits.
            "healthy_panic_threshold": {"value": 0},
            # Else what turns out healthy within a second of an update is known a second later.
            "update_merge_window": "0s",
        },
        "ignore_health_on_host_removal": True,
        "health_checks": [_health(config)],
        "outlier_detection": _outliers(),
        "circuit_breakers": _breakers(config.limits),
        "upstream_connection_options": {"tcp_keepalive": _TCP_KEEPALIVE},
        "typed_extension_protocol_options": _engines(config.workers.keep_alive_s),
    }
    if config.workers.tls:
        cluster["transport_socket"] = _tls(config)
    return cluster


_TCP_KEEPALIVE = {"keepalive_probes": 3, "keepalive_time": 30, "keepalive_interval": 10}


def door(address: Address) -> Part:
    """Return the cluster of the picker's HTTP door."""
    # The door closes none by itself. Each held request has one.
    return _own(DOOR, address, _http1(60.0))


def picker(address: Address, *, frozen_s: float, tls: bool = False) -> Part:
    """Return the cluster of the picker's gRPC services; a frozen one is noticed in seconds.

    Parameters
    ----------
    address : Address
    frozen_s : float
        Seconds for which it may be frozen before its watchdog ends it.
    tls : bool
        Whether the picker asks for TLS. Its certificate is for gateways elsewhere and not looked
        at: the picker of this Envoy is on the same machine.
    """
    # A busy machine may keep it from answering for a while, and a log that breaks loses entries.
    alive = {"interval": "1s", "timeout": seconds(frozen_s + 1.0)}
    windows = {
        "initial_stream_window_size": BACKLOG_BYTES,
        "initial_connection_window_size": BACKLOG_BYTES,
    }
    cluster = _own(PICKER, address, _http2({"connection_keepalive": alive, **windows}))
    cluster["per_connection_buffer_limit_bytes"] = BACKLOG_BYTES
    if tls:
        context = {"alpn_protocols": ["h2"]}
        cluster["transport_socket"] = _tls_to(context)
    return cluster


def spans(address: Address) -> Part:
    """Return the cluster of what takes spans."""
    return _own(SPANS, address, _http2({}))


def _own(name: str, address: Address, protocol: Part) -> Part:
    return {
        "name": name,
        "type": "STRICT_DNS",
        # Nobody listening is refused at once. A busy machine may take its time, and a connection
        # that times out takes all that wait for one with it, past the picker.
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [_thresholds(_PLENTY)]},
        "typed_extension_protocol_options": protocol,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint(address)]}],
        },
    }


def _chosen(kind: str) -> Part:
    """Return the balancer: whom the picker chose, and without it who has the fewest requests."""
    namespace = names.AUTHZ if kind == "ext_authz" else names.LB
    fewest = extension(
        "load_balancing_policies.least_request",
        "load_balancing_policies.least_request.v3.LeastRequest",
    )
    override = extension(
        "load_balancing_policies.override_host",
        "load_balancing_policies.override_host.v3.OverrideHost",
        override_host_sources=[{"metadata": metadata_key(namespace, names.ENDPOINT)}],
        selected_host_key=metadata_key(names.LB, names.SERVED),
        fallback_policy={"policies": [{"typed_extension_config": fewest}]},
    )
    return {"policies": [{"typed_extension_config": override}]}


def _health(config: ServeConfig) -> Part:
    every = seconds(config.workers.health_interval_s)
    return {
        # A busy engine may take its time.
        "timeout": seconds(max(_HEALTH_S, config.workers.health_interval_s)),
        "interval": every,
        "no_traffic_interval": every,
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        "http_health_check": {"path": config.workers.health_path},
    }


def _outliers() -> Part:
    """Return when a worker is left out for a while: when it breaks, not when it answers 500."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 5,
        "consecutive_gateway_failure": 5,
        "enforcing_consecutive_gateway_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "base_ejection_time": "5s",
        "interval": "1s",
        "max_ejection_percent": 50,
    }


def _breakers(limits: Limits) -> Part:
    return {"thresholds": [{**_thresholds(limits.connections), "track_remaining": True}]}


def _thresholds(most: int) -> Part:
    return {
        "max_connections": most,
        "max_pending_requests": most,
        "max_requests": most,
        "max_retries": most,
    }


def _engines(idle_s: float) -> Part:
    """Return how engines are spoken to: what only the picker may answer is taken off theirs."""
    options = _http1(idle_s)
    ours = {"remove_on_match": {"key_matcher": {"prefix": names.OWN, "ignore_case": True}}}
    options[_HTTP]["http_filters"] = [
        extension(
            "filters.http.header_mutation",
            "filters.http.header_mutation.v3.HeaderMutation",
            # Routes put it into ``host`` after they have taken headers off.
            mutations={"request_mutations": [{"remove": names.HOST}], "response_mutations": [ours]},
        ),
        extension("filters.http.upstream_codec", "filters.http.upstream_codec.v3.UpstreamCodec"),
    ]
    return options


def _http1(idle_s: float) -> Part:
    return _protocol({"http_protocol_options": {}}, idle_s)


def _http2(options: Part) -> Part:
    return _protocol({"http2_protocol_options": {"max_concurrent_streams": _PLENTY, **options}})


def _protocol(explicit: Part, idle_s: float | None = None) -> Part:
    options = typed(_HTTP.removeprefix("envoy."), explicit_http_config=explicit)
    if idle_s is not None:
        options["common_http_protocol_options"] = {"idle_timeout": seconds(idle_s)}
    return {_HTTP: options}


def _tls(config: ServeConfig) -> Part:
    ca = config.workers.ca
    trusted: Part = (
        {"trusted_ca": {"filename": str(config.path(ca).absolute())}}
        if ca is not None
        else {"system_root_certs": {}}
    )
    return _tls_to({"validation_context": trusted})


def _tls_to(context: Part) -> Part:
    return extension(
        "transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context=context,
    )
