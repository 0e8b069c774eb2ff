"""What an entry of Envoy's access log says of a request: how it goes, or how it ended."""

from __future__ import annotations

from typing import Any, Final

from integration.messages.names import (
    AUTHZ,
    COMPLETION,
    FIRST,
    ID,
    LB,
    PROMPT,
    SO_FAR,
    USAGE,
)
from integration.picker import End, Seen, Usage
from integration.picker.bodies import kind_of

FLAGS: Final = (
    ("downstream_connection_termination", End.DISCONNECTED),
    ("downstream_remote_reset", End.DISCONNECTED),
    ("downstream_protocol_error", End.DISCONNECTED),
    ("upstream_request_timeout", End.TIMEOUT),
    ("stream_idle_timeout", End.TIMEOUT),
    ("upstream_max_stream_duration_reached", End.TIMEOUT),
    ("duration_timeout", End.TIMEOUT),
    ("unauthorized_details", End.REFUSED),
    ("rate_limited", End.REFUSED),
    ("overload_manager", End.REFUSED),
    ("upstream_connection_failure", End.WORKER_DIED),
    ("no_healthy_upstream", End.WORKER_DIED),
    ("failed_local_healthcheck", End.WORKER_DIED),
    ("dns_resolution_failure", End.WORKER_DIED),
    ("upstream_connection_termination", End.WORKER_DIED),
    ("upstream_remote_reset", End.RESET),
    ("upstream_protocol_error", End.RESET),
    ("upstream_overflow", End.RESET),
    ("local_reset", End.RESET),
)
"""Response flags, from the first cause to what follows from it: an aborted client also resets."""


_DIGITS = 15
"""Of microseconds; an answer of more would take thirty years."""


def reason(entry: Any) -> End:
    """Return why a request ended.

    Parameters
    ----------
    entry : HTTPAccessLogEntry
        Envoy's last entry of it.

    Returns
    -------
    End
    """
    flags = entry.common_properties.response_flags
    for name, end in FLAGS:
        # Messages have presence, of which their truth value says nothing.
        value = flags.HasField(name) if name == "unauthorized_details" else getattr(flags, name)
        if value:
            return end
    if entry.response.response_code.value >= 400:
        return End.REJECTED
    return End.FINISHED


def usage(entry: Any) -> Usage | None:
    """Return the tokens that the engine said a request had; None if Envoy saw no ``usage``."""
    found = entry.common_properties.metadata.filter_metadata
    if USAGE not in found:
        return None
    fields = found[USAGE].fields
    return Usage(
        prompt_tokens=_number(fields, PROMPT),
        completion_tokens=_number(fields, COMPLETION),
    )


def _number(fields: Any, name: str) -> int | None:
    if name not in fields:
        return None
    value = fields[name].number_value
    return int(value) if 0.0 <= value < 2**53 else None


def identity(entry: Any) -> str | None:
    """Return our identity of a request; None if it passed without a reservation.

    It stands in the metadata that the door set, or in the header where an upstream's entry does
    not have that.
    """
    header = entry.request.request_headers.get(ID)
    if header:
        return str(header)
    metadata = entry.common_properties.metadata.filter_metadata
    for namespace in (AUTHZ, LB):
        if namespace in metadata:
            fields = metadata[namespace].fields
            if ID in fields:
                return str(fields[ID].string_value)
    return None


def address(entry: Any) -> str | None:
    """Return the worker that a request went to, ``ip:port``; None if to none."""
    found = entry.common_properties.upstream_remote_address.socket_address
    if not found.address:
        return None
    host = f"[{found.address}]" if ":" in found.address else found.address
    return f"{host}:{found.port_value}"


def seen(entry: Any) -> Seen:
    """Return what Envoy has seen of an answer by the moment of an entry."""
    common = entry.common_properties
    return Seen(
        at_s=_since(common, "duration") or _read(common.custom_tags.get(SO_FAR, ""), 1e-3) or 0.0,
        sent=entry.response.response_body_bytes,
        kind=kind_of(entry.request.path) or "",
        asked_s=_since(common, "time_to_first_upstream_tx_byte"),
        first_s=_read(common.custom_tags.get(FIRST, ""), 1e-6),
        last_s=_since(common, "time_to_last_upstream_rx_byte"),
    )


def _since(common: Any, name: str) -> float | None:
    return seconds(getattr(common, name)) if common.HasField(name) else None


def _read(text: str, unit_s: float) -> float | None:
    """Return a tag in seconds; Envoy writes a dash for what was not."""
    plain = text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) * unit_s if plain else None


def seconds(duration: Any) -> float:
    """Return a duration in seconds."""
    return float(duration.seconds + duration.nanos * 1e-9)


def span(entry: Any) -> tuple[float, float]:
    """Return when its worker was sent a request and when it ended, in seconds of the wall clock.

    It may have come long before: held, or tried at another worker first.
    """
    common = entry.common_properties
    came_s = seconds(common.start_time)
    sent_s = came_s + (_since(common, "time_to_first_upstream_tx_byte") or 0.0)
    return sent_s, came_s + seconds(common.duration)
