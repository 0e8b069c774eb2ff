"""What can become of a request, and how that is told from its answer."""

from __future__ import annotations

import errno
import re
from enum import StrEnum
from typing import TYPE_CHECKING

from integration.load.answers import LONGEST, reason_of, shortened
from integration.load.http import require_aiohttp

if TYPE_CHECKING:
    from integration.load.answers import Answer

_TOO_LONG = re.compile(
    r"context (length|window)|max(imum)?[ _]model[ _]len|maximum[^.]*tokens|too long|longer than",
    re.IGNORECASE,
)


class Kind(StrEnum):
    """What became of a request; all but the first and the last are failures."""

    COMPLETE = "complete"
    OUT_OF_FILES = "client out of files"
    UNREACHABLE = "not reached"
    INSECURE = "TLS refused"
    TIMEOUT = "timed out"
    BROKEN = "broken off"
    MALFORMED = "malformed"
    NOT_STREAMED = "not streamed"
    UNAUTHORISED = "not authorised"
    NOT_FOUND = "not found"
    TOO_LONG = "too long"
    REFUSED = "refused"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server error"
    INTERRUPTED = "interrupted"

    @property
    def failure(self) -> bool:
        """Whether the server, or for want of connections this client, did not do what was asked."""
        return self not in {Kind.COMPLETE, Kind.INTERRUPTED}


_STATUS = {
    401: Kind.UNAUTHORISED,
    403: Kind.UNAUTHORISED,
    404: Kind.NOT_FOUND,
    408: Kind.TIMEOUT,
    413: Kind.TOO_LONG,
    429: Kind.OVERLOADED,
    503: Kind.OVERLOADED,
    504: Kind.TIMEOUT,
}


def judged(answer: Answer) -> tuple[Kind, str]:
    """Say what an answer is that came to an end of its own, and why if it is not complete."""
    if answer.status != 200:
        return _refused(answer)
    if not answer.streamed:
        told = f"answered with {answer.headers.get('Content-Type', 'no type')} and no stream"
        return Kind.NOT_STREAMED, shortened(f"{told}: {answer.text[:LONGEST]}")
    return _spoilt(answer) or (Kind.COMPLETE, "")


def _spoilt(answer: Answer) -> tuple[Kind, str] | None:
    """Say what is wrong with a stream that came to its end, if something is."""
    if answer.malformed:
        return Kind.MALFORMED, f"no event of a stream: {answer.malformed}"
    if answer.error:
        return Kind.SERVER_ERROR, reason_of(answer.error)
    if not answer.chunks:
        return Kind.BROKEN, "the stream ended without a token"
    return None if answer.ended else (Kind.BROKEN, "the stream ended without [DONE]")


def _refused(answer: Answer) -> tuple[Kind, str]:
    told = reason_of(answer.text) or "nothing said"
    kind = _STATUS.get(answer.status)
    if kind is None:
        kind = Kind.SERVER_ERROR if answer.status >= 500 else Kind.REFUSED
        if kind is Kind.REFUSED and _TOO_LONG.search(told):
            kind = Kind.TOO_LONG
    return kind, f"status {answer.status}: {told}"


def excused(error: Exception) -> tuple[Kind, str]:
    """Say what it means that an exchange raised an error."""
    http = require_aiohttp()
    if isinstance(error, TimeoutError):
        return Kind.TIMEOUT, "no end in time"
    if _errno(error) in (errno.EMFILE, errno.ENFILE):
        return Kind.OUT_OF_FILES, "this client may have no more open files"
    told = shortened(f"{type(error).__name__}: {error}".rstrip(": "))
    if isinstance(error, http.ClientSSLError):
        return Kind.INSECURE, told
    if isinstance(error, http.ClientConnectorError):
        return Kind.UNREACHABLE, told
    if isinstance(error, http.ClientResponseError):
        return Kind.MALFORMED, told
    return Kind.BROKEN, told


def _errno(error: Exception) -> int | None:
    inner = getattr(error, "os_error", error)
    return inner.errno if isinstance(inner, OSError) else None
