"""gRPC services over these messages: handlers for servers, calls for clients."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from brsolver.errors import MissingExtraError, UnknownNameError
from integration.messages._build import message_class
from integration.messages._tables import SERVICES

if TYPE_CHECKING:
    from collections.abc import Callable

ACCESS_LOG = "envoy.service.accesslog.v3.AccessLogService"
"""What Envoy streams its access log to; method ``StreamAccessLogs``."""
EXTERNAL_PROCESSOR = "envoy.service.ext_proc.v3.ExternalProcessor"
"""What Envoy asks about each request; method ``Process``."""
HEALTH = "grpc.health.v1.Health"
"""gRPC's health checks; methods ``Check``, ``List`` and ``Watch``."""

__all__ = ["ACCESS_LOG", "EXTERNAL_PROCESSOR", "HEALTH", "Method", "call", "handler", "method"]


class Method(NamedTuple):
    """A method of a service.

    Attributes
    ----------
    path : str
        ``"/package.Service/Method"``.
    request, response : type
        Message classes.
    streams : tuple of (bool, bool)
        Whether requests come, and answers go, as streams.
    """

    path: str
    request: Any
    response: Any
    streams: tuple[bool, bool]

    @property
    def kind(self) -> str:
        """``unary_unary``, ``stream_stream`` and the like, as grpc names it."""
        return "_".join("stream" if streams else "unary" for streams in self.streams)


def method(service: str, name: str) -> Method:
    """Look a method up.

    Parameters
    ----------
    service : str
        Whole name of the service: one of this module's constants.
    name : str
        Of the method.

    Raises
    ------
    UnknownNameError
        If there is no such service or method.
    """
    methods = _known("gRPC service", service, SERVICES)
    asked, answered = _known(f"method of {service}", name, methods)
    package = service.rpartition(".")[0]
    request, response = (message_class(f"{package}.{t.rstrip('*')}") for t in (asked, answered))
    streams = asked.endswith("*"), answered.endswith("*")
    return Method(f"/{service}/{name}", request, response, streams)


def _known(kind: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise UnknownNameError.suggest(kind, name, table)
    return table[name]


def handler(service: str, **behaviours: Callable[..., Any]) -> Any:
    """Return a handler for ``server.add_generic_rpc_handlers``.

    Parameters
    ----------
    service : str
        Whole name of the service.
    **behaviours : callable
        By method name, what serves it: as grpc or ``grpc.aio`` asks of handlers.

    Raises
    ------
    UnknownNameError
        If there is no such service or method.
    MissingExtraError
        If grpcio is not installed.
    """
    grpc = _grpc()
    handlers = {}
    for name, behaviour in behaviours.items():
        found = method(service, name)
        make = getattr(grpc, f"{found.kind}_rpc_method_handler")
        handlers[name] = make(
            behaviour,
            request_deserializer=found.request.FromString,
            response_serializer=found.response.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service, handlers)


def call(channel: Any, service: str, name: str) -> Any:
    """Return what calls a method through a channel of grpc or ``grpc.aio``.

    Parameters
    ----------
    channel : grpc.Channel or grpc.aio.Channel
    service : str
        Whole name of the service.
    name : str
        Of the method.

    Raises
    ------
    UnknownNameError
        If there is no such service or method.
    """
    found = method(service, name)
    return getattr(channel, found.kind)(
        found.path,
        request_serializer=found.request.SerializeToString,
        response_deserializer=found.response.FromString,
    )


def _grpc() -> Any:
    try:
        return import_module("grpc")
    except ImportError as error:
        raise MissingExtraError.for_extra("grpcio", "proxy") from error
