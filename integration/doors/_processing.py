"""Messages of ext_proc's answers, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from integration.doors.answers import refusal_body, retry_after
from integration.messages.ext_proc import APPEND_ACTIONS, ProcessingResponse
from integration.messages.names import ENDPOINT, ID, LAST, LB, PREFILLER, RANK, REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from integration.doors.reception import Destination
    from integration.picker import Refused

CHUNK = 62_000
"""Bytes of a body's part: Envoy's windows are 64 KiB."""
_OVERWRITE = APPEND_ACTIONS["OVERWRITE_IF_EXISTS_OR_ADD"]


def headers_of(message: Any) -> dict[str, str]:
    """Return headers by name.

    Parameters
    ----------
    message : HttpHeaders
    """
    return {
        header.key: header.raw_value.decode("latin-1") or header.value
        for header in message.headers.headers
    }


def excess(message: Any, most: int | None, most_bytes: int | None) -> str | None:
    """Say what headers there are too many of, or bytes of them as Envoy counts these; else None.

    Parameters
    ----------
    message : HttpHeaders
    most, most_bytes : int or None
        None is no bound.
    """
    headers = message.headers.headers
    if most is not None and len(headers) > most:
        return f"there are {len(headers)} headers, must be at most {most}"
    size = sum(len(each.key) + len(each.raw_value or each.value) for each in headers)
    if most_bytes is not None and size > most_bytes:
        return f"the headers have {size} bytes, must have at most {most_bytes}"
    return None


def set_headers(mutation: Any, headers: Mapping[str, str]) -> None:
    """Have headers set, whatever the client sent under their names.

    Parameters
    ----------
    mutation : HeaderMutation
    headers : mapping of str to str
    """
    for name, value in headers.items():
        option = mutation.set_headers.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.raw_value = value.encode("latin-1")


def routed(
    kind: str,
    destination: Destination,
    headers: Mapping[str, str] | None = None,
    *,
    named: bool,
) -> Any:
    """Return an answer that sends a request to its workers, by header and by metadata.

    Parameters
    ----------
    kind : str
        What is answered: ``"request_headers"`` or ``"request_body"``.
    destination : Destination
    headers : mapping of str to str, optional
        More headers to set.
    named : bool
        Whether our identity of the request goes along, for the access log.

    Returns
    -------
    ProcessingResponse
    """
    answer = ProcessingResponse()
    common = getattr(answer, kind).response
    common.clear_route_cache = True
    wanted = {ENDPOINT: destination.endpoints, **(headers or {})}
    if destination.rank is not None:
        wanted[RANK] = str(destination.rank)
    # Clients may have said so themselves.
    unsaid = [name for name in (RANK, PREFILLER) if name not in wanted]
    common.header_mutation.remove_headers.extend(unsaid)
    metadata = answer.dynamic_metadata.fields[LB].struct_value
    metadata.fields[ENDPOINT].string_value = destination.endpoints
    if named and destination.name is not None:
        # Entries of upstreams have a request's headers, not its metadata.
        metadata.fields[ID].string_value = wanted[ID] = destination.name
    if destination.last:
        wanted[LAST] = "1"
    set_headers(common.header_mutation, wanted)
    return answer


def refused(refusal: Refused) -> Any:
    """Return an answer that goes to the client in place of an engine's, in OpenAI's format."""
    answer = ProcessingResponse()
    immediate = answer.immediate_response
    immediate.status.code = refusal.status
    immediate.body = refusal_body(refusal)
    headers = {"content-type": "application/json"}
    after = retry_after(refusal)
    if after is not None:
        headers["retry-after"] = after
    set_headers(immediate.headers, headers)
    immediate.details = REFUSED
    return answer


def plain(kind: str) -> Any:
    """Return an answer that changes nothing.

    Parameters
    ----------
    kind : str
        What is answered: ``"response_headers"``.
    """
    answer = ProcessingResponse()
    getattr(answer, kind).SetInParent()
    return answer


def streamed(kind: str, body: bytes, *, last: bool) -> Iterator[Any]:
    """Yield a body's parts, where bodies go both ways as streams.

    Parameters
    ----------
    kind : str
        ``"request_body"`` or ``"response_body"``.
    body : bytes
    last : bool
        Whether nothing follows it.
    """
    for begin in range(0, max(len(body), 1), CHUNK):
        answer = ProcessingResponse()
        part = getattr(answer, kind).response.body_mutation.streamed_response
        part.body = body[begin : begin + CHUNK]
        part.end_of_stream = last and begin + CHUNK >= len(body)
        yield answer


def more_time(seconds: float) -> Any:
    """Return an answer that asks for more time, while a request is held."""
    answer = ProcessingResponse()
    answer.override_message_timeout.FromMilliseconds(int(seconds * 1000))
    return answer


def struct_field(message: Any, namespace: str, key: str) -> Any:
    """Return a value of a request's metadata; None if it is not there.

    Parameters
    ----------
    message : ProcessingRequest
    namespace, key : str

    Returns
    -------
    google.protobuf.Value or None
    """
    spaces = message.metadata_context.filter_metadata
    if namespace not in spaces:
        return None
    fields = spaces[namespace].fields
    return fields[key] if key in fields else None  # noqa: SIM401 # message maps make what they lack
