"""The gRPC server that the doors share."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from brsolver.errors import MissingExtraError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BODY_LIMIT = 64 * 2**20
"""Bytes of a body; Envoy is told its own limit."""
AROUND = 64 * 2**20
"""Bytes of a message beyond those of a body: headers, and what a body over the limit is refused
for. Envoy lets pass, without the picker, what a message cannot hold."""
_OPTIONS = (
    # What was taken may be sent, with what is put into it.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 100_000),
    # Envoy pings every second, also while nothing is asked: that is how it notices a frozen picker.
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)


class GrpcServer:
    """A gRPC server on this loop.

    Parameters
    ----------
    handlers : iterable
        Of `integration.messages.services.handler`.
    body_limit : int
        Bytes of a request's body that a message must have room for.
    certificate, key : Path, optional
        PEM files; without, connections are not encrypted.
    """

    def __init__(
        self,
        handlers: Iterable[Any],
        *,
        body_limit: int = BODY_LIMIT,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        if (certificate is None) != (key is None):
            raise ParameterError("certificate and key belong together: one of them is missing")
        try:
            aio = import_module("grpc.aio")
        except ImportError as error:
            raise MissingExtraError.for_extra("grpcio", "proxy") from error
        room = ("grpc.max_receive_message_length", body_limit + AROUND)
        self._server = aio.server(options=(*_OPTIONS, room))
        self._server.add_generic_rpc_handlers(tuple(handlers))
        self._files = (certificate, key)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen.

        Parameters
        ----------
        host : str
        port : int
            0 for a free one.

        Returns
        -------
        int
            The port.

        Raises
        ------
        ParameterError
            If it is taken, or certificate and key cannot be used.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._bind(address)
        except (OSError, RuntimeError) as error:
            raise ParameterError(f"port {port} on {host} cannot be listened on: {error}") from error
        await self._server.start()
        return bound

    def _bind(self, address: str) -> int:
        certificate, key = self._files
        if certificate is None or key is None:
            return int(self._server.add_insecure_port(address))
        grpc = import_module("grpc")
        pair = (key.read_bytes(), certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair])
        return int(self._server.add_secure_port(address, credentials))

    async def stop(self, grace_s: float = 0.0) -> None:
        """Listen no more; calls under way get `grace_s` seconds."""
        await self._server.stop(grace_s or None)
