"""Envoy's own answers, in the format of OpenAI's errors."""

from __future__ import annotations

from integration.envoy._parts import Part, extension
from integration.messages import names

JSON = "application/json"
_BODY = "%LOCAL_REPLY_BODY%"
_TYPES = (
    (401, "authentication_error"),
    (429, "rate_limit_error"),
    (503, "overloaded_error"),
    (500, "server_error"),
)
"""From the first that fits, the last for all from 500 on."""


def local_replies() -> Part:
    """Return how Envoy words what it answers itself.

    What the picker refused is an error in that format already and goes out as it is. Of the rest
    Envoy's text becomes the message; it escapes what JSON needs escaped.
    """
    mappers = [_no_room(), _as_it_is(_authz_refused()), _as_it_is(_processor_refused()), _well()]
    mappers += [*_silent(), *(_typed(status, kind) for status, kind in _TYPES)]
    return {"mappers": mappers, "body_format": _error("invalid_request_error")}


def _silent() -> list[Part]:
    """Put words to statuses of which Envoy's text says nothing: which rule was broken."""
    return [
        {"filter": _status(status), "body_format_override": _error("invalid_request_error", text)}
        for status, text in _WORDS
    ]


_WORDS = (
    (400, "Bad request: %RESPONSE_CODE_DETAILS%"),
    (403, "Neither upgrades nor tunnels are offered here."),
)


def _error(kind: str, message: str = _BODY) -> Part:
    error = {"message": message, "type": kind, "param": None, "code": "%RESPONSE_CODE%"}
    return {"json_format": {"error": error}, "content_type": JSON}


def _as_it_is(condition: Part) -> Part:
    text = {"text_format_source": {"inline_string": _BODY}, "content_type": JSON}
    return {"filter": condition, "body_format_override": text}


def _no_room() -> Part:
    """Put words to what Envoy has none for: the picker's headers do not fit beside a client's."""
    return {
        "filter": {"and_filter": {"filters": [_authz_refused(), _status(500)]}},
        "status_code": 431,
        "body_format_override": _error("invalid_request_error", "Request Header Fields Too Large"),
    }


def _well() -> Part:
    """Answers health checks."""
    well = {"json_format": {"status": "ok"}, "content_type": JSON}
    return {"filter": _status(200), "body_format_override": well}


def _authz_refused() -> Part:
    return {"response_flag_filter": {"flags": ["UAEX"]}}


def _processor_refused() -> Part:
    return {
        "extension_filter": extension(
            "access_loggers.extension_filters.cel",
            "access_loggers.filters.cel.v3.ExpressionFilter",
            expression=f"response.code_details.contains('{names.REFUSED}')",
        )
    }


def _typed(status: int, kind: str) -> Part:
    op = "GE" if (status, kind) == _TYPES[-1] else "EQ"
    mapper: Part = {"filter": _status(status, op), "body_format_override": _error(kind)}
    if status in _HEADERS:
        mapper["headers_to_add"] = [_header(*_HEADERS[status])]
    return mapper


def _status(status: int, op: str = "EQ") -> Part:
    # A key of run-time settings must be named; nobody sets it.
    value = {"default_value": status, "runtime_key": f"brsolver.reply_{status}"}
    return {"status_code_filter": {"comparison": {"op": op, "value": value}}}


_HEADERS = {401: ("www-authenticate", "Bearer"), 503: (names.RETRY_AFTER, "1")}


def _header(name: str, value: str) -> Part:
    return {"header": {"key": name, "value": value}, "append_action": "ADD_IF_ABSENT"}
