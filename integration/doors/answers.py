"""Refusals as OpenAI's API words them, so that clients handle them as they handle its own."""

from __future__ import annotations

import json
from math import ceil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from integration.picker import Refused

TYPES: Final = {
    400: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
REASONS: Final = {
    308: "Permanent Redirect",
    400: "Bad Request",
    413: "Content Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


def error_body(status: int, message: str) -> bytes:
    """Return an OpenAI-format error.

    Parameters
    ----------
    status : int
        HTTP status that it goes with.
    message : str
        One sentence for the client.

    Returns
    -------
    bytes
        JSON.
    """
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": None, "code": status}
    return json.dumps({"error": error}).encode()


def refusal_body(refused: Refused) -> bytes:
    """Return what a refused request's client is told: an engine's own words, or ours."""
    return error_body(refused.status, refused.message) if refused.body is None else refused.body


def retry_after(refused: Refused) -> str | None:
    """Return the value of ``Retry-After``, whole seconds from 1; None where there is none."""
    if refused.retry_after_s is None:
        return None
    return str(max(1, ceil(refused.retry_after_s)))
