"""The stream of one answer, taken in as bytes.

Thousands of chunks come per second, and this process may share its machine with the server that
it measures: a chunk is decoded only if it may be the first with a token, tells of usage, or of an
error. Of all others nothing but the time is kept.
"""

from __future__ import annotations

import json
from array import array
from typing import TYPE_CHECKING, Any

from brsolver.traces.trace import MAX_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 400
"""Characters of what a server says that are kept."""
MAX_LINE = 4 * 2**20
"""Bytes without a line break that are taken for a stream of events."""
_DATA = b"data:"
_DONE = b"[DONE]"
# Quotes within a token's text are escaped, so that no text can look like these.
_USAGE = b'"usage":{'
_USAGE_SPACED = b'"usage": {'
_ERROR = b'"error"'
_FIELDS = (b":", b"event:", b"id:", b"retry:")
"""Beginnings of lines that streams of events may have besides data; the first are comments."""


class Answer:
    """What has come of one answer so far; times are of the monotonic clock, in seconds.

    Parameters
    ----------
    chat : bool
        Whether its first chunk may hold a role and nothing else, which is no token.
    heed : callable, optional
        Called with the answer whenever a chunk with tokens has come. What it raises ends the
        request.

    Attributes
    ----------
    status : int
        Of HTTP; 0 if no answer came.
    headers : mapping of str to str
    text : str
        Body of an answer that is no stream of events, as far as it is kept.
    streamed : bool
        Whether it is one.
    first_s, last_s : float
        When the first chunk with tokens came and when the last; 0 if none came.
    chunk_s : array of float64
        When each chunk with tokens came.
    usage : dict
        What the stream tells of tokens, empty if it does not.
    error, malformed : str
        The chunk by which the stream told of an error, and what of it was none of a stream's;
        empty if nothing.
    done : int
        How often ``[DONE]`` came.
    """

    __slots__ = (
        "_heed",
        "_opened_s",
        "_summed",
        "_tail",
        "chat",
        "chunk_s",
        "done",
        "error",
        "first_s",
        "headers",
        "last_s",
        "malformed",
        "status",
        "streamed",
        "text",
        "usage",
    )

    def __init__(self, *, chat: bool = False, heed: Callable[[Answer], None] | None = None) -> None:
        self.chat, self._heed = chat, heed
        self.status, self.streamed = 0, False
        self.headers: Any = {}
        self.text = self.error = self.malformed = ""
        self.first_s = self.last_s = self._opened_s = 0.0
        self.chunk_s = array("d")
        self.usage: dict[str, Any] = {}
        self.done = 0
        self._summed = False
        self._tail = b""

    @property
    def chunks(self) -> int:
        """Chunks with tokens that came."""
        return len(self.chunk_s)

    @property
    def ended(self) -> bool:
        """Whether the stream said that it was whole: by its mark, or by usage after all tokens."""
        return bool(self.done) or self._summed

    def count(self, name: str) -> int | None:
        """Return a count of the usage; None if the stream does not tell it, or none that can be."""
        found = self.usage.get(name)
        if not isinstance(found, int) or isinstance(found, bool):
            return None
        return found if 0 <= found <= MAX_LENGTH else None

    def feed(self, data: bytes, now: float) -> None:
        """Take in what came of the stream.

        Parameters
        ----------
        data : bytes
        now : float
            When it came.
        """
        lines = (self._tail + data if self._tail else data).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            if line.startswith(_DATA):
                self._event(line, now)
            elif line and line != b"\r" and not line.startswith(_FIELDS):
                self._spoil(line)
        if len(self._tail) > MAX_LINE:
            self._spoil(self._tail)
            self._tail = b""

    def close(self, now: float) -> None:
        """Take in that the stream is over."""
        rest, self._tail = self._tail.strip(), b""
        if rest:
            self.feed(rest + b"\n", now)
        if not self.first_s and self._opened_s:
            # Of a chat that never said a word.
            self.first_s = self.last_s = self._opened_s
            self.chunk_s.append(self._opened_s)

    def _event(self, line: bytes, now: float) -> None:
        payload = line[5:].strip()
        plain = self.first_s and not (
            _USAGE in payload or _ERROR in payload or _USAGE_SPACED in payload
        )
        if payload == _DONE:
            self.done += 1
        elif plain and payload.startswith(b"{") and payload.endswith(b"}"):
            self._token(now)
        else:
            self._look(payload, now)

    def _token(self, now: float) -> None:
        self.last_s = now
        if not self.first_s:
            self.first_s = now
        self.chunk_s.append(now)
        if self._heed is not None:
            self._heed(self)

    def _look(self, payload: bytes, now: float) -> None:
        """Decode a chunk."""
        try:
            chunk = json.loads(payload)
        except (ValueError, RecursionError):
            self._spoil(payload)
            return
        if not isinstance(chunk, dict):
            self._spoil(payload)
            return
        if chunk.get("error") or chunk.get("object") == "error":
            self.error = self.error or payload.decode(errors="replace")
        if isinstance(chunk.get("usage"), dict):
            self.usage, self._summed = chunk["usage"], not chunk.get("choices")
        if chunk.get("choices"):
            self._opened_s = self._opened_s or now
            if self.first_s or not self.chat or _says_something(chunk["choices"]):
                self._token(now)

    def _spoil(self, line: bytes) -> None:
        self.malformed = self.malformed or shortened(line[:LONGEST].decode(errors="replace"))


def _says_something(choices: Any) -> bool:
    """Tell whether a chat's chunk has more than a role: words, thoughts or calls of tools."""
    try:
        return any(
            value and name != "role" for each in choices for name, value in each["delta"].items()
        )
    except (LookupError, TypeError, AttributeError):
        return True


def message_of(told: Any) -> str:
    """Return what an error says, from a body or a chunk in OpenAI's format or one like it."""
    error = told.get("error", told) if isinstance(told, dict) else told
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return shortened(str(error))


def reason_of(text: str) -> str:
    """Return what an error's body says in a line, whether or not it is JSON."""
    try:
        return message_of(json.loads(text))
    except (ValueError, RecursionError):
        return shortened(text)


def shortened(text: str) -> str:
    """Return a text as one line of no more than `LONGEST` characters and a mark.

    What cannot be printed, such as what moves a terminal's cursor, becomes a mark, too.
    """
    words = text[: 8 * LONGEST].split()
    line = "".join(each if each.isprintable() else "\ufffd" for each in " ".join(words))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
