"""The messages, as tables: per line a field's number, name and type.

A type is a scalar, a message or enumeration of the same package, or one of another package by its
whole name. ``[]`` behind it repeats it, ``{}`` makes it a map from strings, ``/NAME`` puts it into
that one-of. Fields that nobody here reads are left out: they are kept as unknown fields.
"""

from __future__ import annotations

from typing import NamedTuple


class Package(NamedTuple):
    """What is taken from one protobuf package.

    Attributes
    ----------
    name : str
    messages : dict of str to str
        By name within the package (a nested one with a dot), the fields' lines.
    enums : dict of str to str
        By name within the package, ``NAME=NUMBER`` for every value.
    """

    name: str
    messages: dict[str, str]
    enums: dict[str, str]


TYPE = Package("envoy.type.v3", {"HttpStatus": "1 code StatusCode"}, {
    "StatusCode": (
        "Empty=0 OK=200 BadRequest=400 Unauthorized=401 Forbidden=403 NotFound=404"
        " PayloadTooLarge=413 TooManyRequests=429 RequestHeaderFieldsTooLarge=431"
        " InternalServerError=500 BadGateway=502 ServiceUnavailable=503 GatewayTimeout=504"
    ),
})  # fmt: skip # a table

CORE = Package("envoy.config.core.v3", {
    "Node": """
        1 id string
        2 cluster string
        6 user_agent_name string
    """,
    "Metadata": "1 filter_metadata google.protobuf.Struct{}",
    "HeaderValue": """
        1 key string
        2 value string
        3 raw_value bytes
    """,
    "HeaderMap": "1 headers HeaderValue[]",
    "HeaderValueOption": """
        1 header HeaderValue
        2 append google.protobuf.BoolValue
        3 append_action HeaderValueOption.HeaderAppendAction
        4 keep_empty_value bool
    """,
    "SocketAddress": """
        1 protocol SocketAddress.Protocol
        2 address string
        3 port_value uint32 /port_specifier
        4 named_port string /port_specifier
    """,
    "Address": "1 socket_address SocketAddress /address",
}, {
    "HeaderValueOption.HeaderAppendAction": (
        "APPEND_IF_EXISTS_OR_ADD=0 ADD_IF_ABSENT=1 OVERWRITE_IF_EXISTS_OR_ADD=2"
        " OVERWRITE_IF_EXISTS=3"
    ),
    "SocketAddress.Protocol": "TCP=0 UDP=1",
    "RequestMethod": (
        "METHOD_UNSPECIFIED=0 GET=1 HEAD=2 POST=3 PUT=4 DELETE=5 CONNECT=6 OPTIONS=7 TRACE=8"
        " PATCH=9"
    ),
})  # fmt: skip # a table

ACCESS_LOG = Package("envoy.data.accesslog.v3", {
    "HTTPAccessLogEntry": """
        1 common_properties AccessLogCommon
        2 protocol_version HTTPAccessLogEntry.HTTPVersion
        3 request HTTPRequestProperties
        4 response HTTPResponseProperties
    """,
    "AccessLogCommon": """
        1 sample_rate double
        2 downstream_remote_address envoy.config.core.v3.Address
        3 downstream_local_address envoy.config.core.v3.Address
        5 start_time google.protobuf.Timestamp
        6 time_to_last_rx_byte google.protobuf.Duration
        7 time_to_first_upstream_tx_byte google.protobuf.Duration
        8 time_to_last_upstream_tx_byte google.protobuf.Duration
        9 time_to_first_upstream_rx_byte google.protobuf.Duration
        10 time_to_last_upstream_rx_byte google.protobuf.Duration
        11 time_to_first_downstream_tx_byte google.protobuf.Duration
        12 time_to_last_downstream_tx_byte google.protobuf.Duration
        13 upstream_remote_address envoy.config.core.v3.Address
        14 upstream_local_address envoy.config.core.v3.Address
        15 upstream_cluster string
        16 response_flags ResponseFlags
        17 metadata envoy.config.core.v3.Metadata
        18 upstream_transport_failure_reason string
        19 route_name string
        20 downstream_direct_remote_address envoy.config.core.v3.Address
        21 filter_state_objects google.protobuf.Any{}
        22 custom_tags string{}
        23 duration google.protobuf.Duration
        24 upstream_request_attempt_count uint32
        25 connection_termination_details string
        26 stream_id string
        27 intermediate_log_entry bool
        28 downstream_transport_failure_reason string
        29 downstream_wire_bytes_sent uint64
        30 downstream_wire_bytes_received uint64
        31 upstream_wire_bytes_sent uint64
        32 upstream_wire_bytes_received uint64
        33 access_log_type AccessLogType
    """,
    "ResponseFlags": """
        1 failed_local_healthcheck bool
        2 no_healthy_upstream bool
        3 upstream_request_timeout bool
        4 local_reset bool
        5 upstream_remote_reset bool
        6 upstream_connection_failure bool
        7 upstream_connection_termination bool
        8 upstream_overflow bool
        9 no_route_found bool
        10 delay_injected bool
        11 fault_injected bool
        12 rate_limited bool
        13 unauthorized_details ResponseFlags.Unauthorized
        14 rate_limit_service_error bool
        15 downstream_connection_termination bool
        16 upstream_retry_limit_exceeded bool
        17 stream_idle_timeout bool
        18 invalid_envoy_request_headers bool
        19 downstream_protocol_error bool
        20 upstream_max_stream_duration_reached bool
        21 response_from_cache_filter bool
        22 no_filter_config_found bool
        23 duration_timeout bool
        24 upstream_protocol_error bool
        25 no_cluster_found bool
        26 overload_manager bool
        27 dns_resolution_failure bool
        28 downstream_remote_reset bool
    """,
    "ResponseFlags.Unauthorized": "1 reason ResponseFlags.Unauthorized.Reason",
    "HTTPRequestProperties": """
        1 request_method envoy.config.core.v3.RequestMethod
        2 scheme string
        3 authority string
        4 port google.protobuf.UInt32Value
        5 path string
        6 user_agent string
        7 referer string
        8 forwarded_for string
        9 request_id string
        10 original_path string
        11 request_headers_bytes uint64
        12 request_body_bytes uint64
        13 request_headers string{}
        14 upstream_header_bytes_sent uint64
        15 downstream_header_bytes_received uint64
    """,
    "HTTPResponseProperties": """
        1 response_code google.protobuf.UInt32Value
        2 response_headers_bytes uint64
        3 response_body_bytes uint64
        4 response_headers string{}
        5 response_trailers string{}
        6 response_code_details string
        7 upstream_header_bytes_received uint64
        8 downstream_header_bytes_sent uint64
    """,
}, {
    "AccessLogType": (
        "NotSet=0 TcpUpstreamConnected=1 TcpPeriodic=2 TcpConnectionEnd=3 DownstreamStart=4"
        " DownstreamPeriodic=5 DownstreamEnd=6 UpstreamPoolReady=7 UpstreamPeriodic=8"
        " UpstreamEnd=9 DownstreamTunnelSuccessfullyEstablished=10 UdpTunnelUpstreamConnected=11"
        " UdpPeriodic=12 UdpSessionEnd=13"
    ),
    "HTTPAccessLogEntry.HTTPVersion": "PROTOCOL_UNSPECIFIED=0 HTTP10=1 HTTP11=2 HTTP2=3 HTTP3=4",
    "ResponseFlags.Unauthorized.Reason": "REASON_UNSPECIFIED=0 EXTERNAL_SERVICE=1",
})  # fmt: skip # a table

ACCESS_LOG_SERVICE = Package("envoy.service.accesslog.v3", {
    "StreamAccessLogsResponse": "",
    "StreamAccessLogsMessage": """
        1 identifier StreamAccessLogsMessage.Identifier
        2 http_logs StreamAccessLogsMessage.HTTPAccessLogEntries /log_entries
    """,
    "StreamAccessLogsMessage.Identifier": """
        1 node envoy.config.core.v3.Node
        2 log_name string
    """,
    "StreamAccessLogsMessage.HTTPAccessLogEntries":
        "1 log_entry envoy.data.accesslog.v3.HTTPAccessLogEntry[]",
}, {})  # fmt: skip # a table

PROCESSING_MODE = Package("envoy.extensions.filters.http.ext_proc.v3", {
    "ProcessingMode": """
        1 request_header_mode ProcessingMode.HeaderSendMode
        2 response_header_mode ProcessingMode.HeaderSendMode
        3 request_body_mode ProcessingMode.BodySendMode
        4 response_body_mode ProcessingMode.BodySendMode
        5 request_trailer_mode ProcessingMode.HeaderSendMode
        6 response_trailer_mode ProcessingMode.HeaderSendMode
    """,
}, {
    "ProcessingMode.HeaderSendMode": "DEFAULT=0 SEND=1 SKIP=2",
    "ProcessingMode.BodySendMode": (
        "NONE=0 STREAMED=1 BUFFERED=2 BUFFERED_PARTIAL=3 FULL_DUPLEX_STREAMED=4 GRPC=5"
    ),
})  # fmt: skip # a table

EXT_PROC = Package("envoy.service.ext_proc.v3", {
    "ProtocolConfiguration": """
        1 request_body_mode
            envoy.extensions.filters.http.ext_proc.v3.ProcessingMode.BodySendMode
        2 response_body_mode
            envoy.extensions.filters.http.ext_proc.v3.ProcessingMode.BodySendMode
        3 send_body_without_waiting_for_header_response bool
    """,
    "ProcessingRequest": """
        2 request_headers HttpHeaders /request
        3 response_headers HttpHeaders /request
        4 request_body HttpBody /request
        5 response_body HttpBody /request
        6 request_trailers HttpTrailers /request
        7 response_trailers HttpTrailers /request
        8 metadata_context envoy.config.core.v3.Metadata
        9 attributes google.protobuf.Struct{}
        10 observability_mode bool
        11 protocol_config ProtocolConfiguration
    """,
    "ProcessingResponse": """
        1 request_headers HeadersResponse /response
        2 response_headers HeadersResponse /response
        3 request_body BodyResponse /response
        4 response_body BodyResponse /response
        5 request_trailers TrailersResponse /response
        6 response_trailers TrailersResponse /response
        7 immediate_response ImmediateResponse /response
        8 dynamic_metadata google.protobuf.Struct
        9 mode_override envoy.extensions.filters.http.ext_proc.v3.ProcessingMode
        10 override_message_timeout google.protobuf.Duration
        11 request_drain bool
    """,
    "HttpHeaders": """
        1 headers envoy.config.core.v3.HeaderMap
        3 end_of_stream bool
    """,
    "HttpBody": """
        1 body bytes
        2 end_of_stream bool
        3 end_of_stream_without_message bool
        4 grpc_message_compressed bool
    """,
    "HttpTrailers": "1 trailers envoy.config.core.v3.HeaderMap",
    "HeadersResponse": "1 response CommonResponse",
    "BodyResponse": "1 response CommonResponse",
    "TrailersResponse": "1 header_mutation HeaderMutation",
    "CommonResponse": """
        1 status CommonResponse.ResponseStatus
        2 header_mutation HeaderMutation
        3 body_mutation BodyMutation
        4 trailers envoy.config.core.v3.HeaderMap
        5 clear_route_cache bool
    """,
    "ImmediateResponse": """
        1 status envoy.type.v3.HttpStatus
        2 headers HeaderMutation
        3 body bytes
        4 grpc_status GrpcStatus
        5 details string
    """,
    "GrpcStatus": "1 status uint32",
    "HeaderMutation": """
        1 set_headers envoy.config.core.v3.HeaderValueOption[]
        2 remove_headers string[]
    """,
    "StreamedBodyResponse": """
        1 body bytes
        2 end_of_stream bool
        3 end_of_stream_without_message bool
        4 grpc_message_compressed bool
    """,
    "BodyMutation": """
        1 body bytes /mutation
        2 clear_body bool /mutation
        3 streamed_response StreamedBodyResponse /mutation
    """,
}, {
    "CommonResponse.ResponseStatus": "CONTINUE=0 CONTINUE_AND_REPLACE=1",
})  # fmt: skip # a table

HEALTH = Package("grpc.health.v1", {
    "HealthCheckRequest": "1 service string",
    "HealthCheckResponse": "1 status HealthCheckResponse.ServingStatus",
    "HealthListRequest": "",
    "HealthListResponse": "1 statuses HealthCheckResponse{}",
}, {
    "HealthCheckResponse.ServingStatus": "UNKNOWN=0 SERVING=1 NOT_SERVING=2 SERVICE_UNKNOWN=3",
})  # fmt: skip # a table

PACKAGES = (TYPE, CORE, ACCESS_LOG, ACCESS_LOG_SERVICE, PROCESSING_MODE, EXT_PROC, HEALTH)
"""All of them, each after those it needs."""

SERVICES = {
    "envoy.service.accesslog.v3.AccessLogService": {
        "StreamAccessLogs": ("StreamAccessLogsMessage*", "StreamAccessLogsResponse"),
    },
    "envoy.service.ext_proc.v3.ExternalProcessor": {
        "Process": ("ProcessingRequest*", "ProcessingResponse*"),
    },
    "grpc.health.v1.Health": {
        "Check": ("HealthCheckRequest", "HealthCheckResponse"),
        "List": ("HealthListRequest", "HealthListResponse"),
        "Watch": ("HealthCheckRequest", "HealthCheckResponse*"),
    },
}
"""By service and method, what is asked and answered; ``*`` where it is a stream of them."""
