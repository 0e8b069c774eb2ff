"""Messages of Envoy's external processing, which endpoint pickers speak."""

from __future__ import annotations

from integration.messages._build import enum_values, message_class

_SERVICE = "envoy.service.ext_proc.v3."
_CORE = "envoy.config.core.v3."

ProcessingRequest = message_class(f"{_SERVICE}ProcessingRequest")
"""What Envoy tells: headers, body or trailers, with metadata and attributes."""
ProcessingResponse = message_class(f"{_SERVICE}ProcessingResponse")
"""What becomes of it: mutations, metadata, an answer of the picker's own, or more time."""
ProtocolConfiguration = message_class(f"{_SERVICE}ProtocolConfiguration")
"""How bodies are sent; in the first request of a stream."""
HttpHeaders = message_class(f"{_SERVICE}HttpHeaders")
"""Headers, and whether nothing follows them."""
HttpBody = message_class(f"{_SERVICE}HttpBody")
"""A body, or a part of it."""
HttpTrailers = message_class(f"{_SERVICE}HttpTrailers")
"""Trailers."""
HeadersResponse = message_class(f"{_SERVICE}HeadersResponse")
"""Answers headers."""
BodyResponse = message_class(f"{_SERVICE}BodyResponse")
"""Answers a body."""
TrailersResponse = message_class(f"{_SERVICE}TrailersResponse")
"""Answers trailers."""
CommonResponse = message_class(f"{_SERVICE}CommonResponse")
"""Mutations of headers and body, within answers to both."""
ImmediateResponse = message_class(f"{_SERVICE}ImmediateResponse")
"""An answer to the client, instead of the upstream's."""
HeaderMutation = message_class(f"{_SERVICE}HeaderMutation")
"""Headers to set and to remove."""
BodyMutation = message_class(f"{_SERVICE}BodyMutation")
"""A body in place of the one that came; its ``content-length`` is the picker's to set."""
StreamedBodyResponse = message_class(f"{_SERVICE}StreamedBodyResponse")
"""A part of a body, where bodies go both ways as streams."""
GrpcStatus = message_class(f"{_SERVICE}GrpcStatus")
"""Status of a gRPC call that an immediate answer ends."""
ProcessingMode = message_class("envoy.extensions.filters.http.ext_proc.v3.ProcessingMode")
"""Which parts of requests and responses are sent."""
HttpStatus = message_class("envoy.type.v3.HttpStatus")
"""Status of an immediate answer; numbers beyond the table's names are kept."""
HeaderMap = message_class(f"{_CORE}HeaderMap")
"""Headers in their order."""
HeaderValue = message_class(f"{_CORE}HeaderValue")
"""A header; Envoy sends and prefers ``raw_value``."""
HeaderValueOption = message_class(f"{_CORE}HeaderValueOption")
"""A header to set, and what happens if it is there."""
Metadata = message_class(f"{_CORE}Metadata")
"""By namespace, what filters know of a request."""
Struct = message_class("google.protobuf.Struct")
"""Values by name, as in JSON; of this package's own pool, as all messages here."""
Duration = message_class("google.protobuf.Duration")
"""A span of time; of this package's own pool."""
HEADER_MODES = enum_values(
    "envoy.extensions.filters.http.ext_proc.v3.ProcessingMode.HeaderSendMode"
)
"""Numbers of header modes by name: ``SEND``, ``SKIP``."""
BODY_MODES = enum_values("envoy.extensions.filters.http.ext_proc.v3.ProcessingMode.BodySendMode")
"""Numbers of body modes by name: ``BUFFERED``, ``FULL_DUPLEX_STREAMED``."""
APPEND_ACTIONS = enum_values(f"{_CORE}HeaderValueOption.HeaderAppendAction")
"""Numbers of ``append_action`` by name: ``OVERWRITE_IF_EXISTS_OR_ADD``."""

__all__ = [
    "APPEND_ACTIONS",
    "BODY_MODES",
    "HEADER_MODES",
    "BodyMutation",
    "BodyResponse",
    "CommonResponse",
    "Duration",
    "GrpcStatus",
    "HeaderMap",
    "HeaderMutation",
    "HeaderValue",
    "HeaderValueOption",
    "HeadersResponse",
    "HttpBody",
    "HttpHeaders",
    "HttpStatus",
    "HttpTrailers",
    "ImmediateResponse",
    "Metadata",
    "ProcessingMode",
    "ProcessingRequest",
    "ProcessingResponse",
    "ProtocolConfiguration",
    "StreamedBodyResponse",
    "Struct",
    "TrailersResponse",
]
