"""Writes what the door served as a trace in brsolver's own schema."""

from __future__ import annotations

import hashlib
import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.errors import OutputError
from integration.picker.events import Ended, Refusal, Requested
from integration.picker.resuming import BEFORE
from integration.recording import TraceRecorder

if TYPE_CHECKING:
    from pathlib import Path

    from integration.picker.asks import Ask
    from integration.picker.events import Event

logger = logging.getLogger("brsolver.recorder")
UNLIMITED = 2**31 - 1
"""Tokens: no model comes to that, and readers take it for a number."""


@dataclass(slots=True, kw_only=True, eq=False)
class Seen:
    """A request that has come, and what is known of it by now.

    Attributes
    ----------
    ask : Ask
    at_s : float
        When it came, on the core's clock.
    prompt_tokens, output_tokens : int
        Once it has ended: as its engine told them, or else as the picker has them.
    """

    ask: Ask
    at_s: float
    prompt_tokens: int = 0
    output_tokens: int = 0

    def end(self, event: Ended) -> None:
        """Take in that it has ended."""
        told = None if event.usage is None else event.usage.prompt_tokens
        self.prompt_tokens = self.ask.prompt_tokens if told is None else told
        self.output_tokens = event.tokens


class EventRecorder:
    """Listens to a core and records every request that generated something.

    No text is written: only lengths, times, limits, hashes of the prompt's blocks, and a client's
    pseudonym, which another recording has differently. It is empty where no client is named.

    Parameters
    ----------
    path : path
        A ``.jsonl`` file.
    rotate_bytes : int or None, optional
        See `integration.recording.TraceRecorder`, what becomes of one that is there too.

    Raises
    ------
    OutputError
        The file cannot be written.
    """

    def __init__(self, path: Path, *, rotate_bytes: int | None = None) -> None:
        self._salt = secrets.token_bytes(16)
        self._open: dict[str, Seen] = {}
        try:
            self._trace: TraceRecorder[Seen] = TraceRecorder(
                path,
                logger=logger,
                row_of=self._row,
                name_of=lambda seen: seen.ask.name,
                rotate_bytes=rotate_bytes,
            )
        except OSError as error:
            raise OutputError(
                f"record is {path}, must be a file that can be written: {error.strerror or error}"
            ) from error

    def event(self, event: Event) -> None:
        """Take in what happened."""
        if isinstance(event, Requested):
            if event.name.startswith(BEFORE):
                return  # it came before anybody looked
            seen = self._open[event.name] = Seen(ask=event.ask, at_s=event.at_s)
            self._trace.arrived(seen)
        elif isinstance(event, Ended | Refusal):
            self._done(event)

    def close(self) -> None:
        """Write what has ended, and close the file."""
        self._trace.close()

    def _done(self, event: Ended | Refusal) -> None:
        gone = self._open.pop(event.name, None)
        if gone is not None:
            if isinstance(event, Ended):
                gone.end(event)
            self._trace.ended(gone)

    def _row(self, seen: Seen) -> dict[str, object] | None:
        if seen.output_tokens < 1 or seen.prompt_tokens < 1:
            return None
        # A column is there for all or for none.
        return {
            "prompt_tokens": seen.prompt_tokens,
            "output_tokens": seen.output_tokens,
            "arrival_s": float(seen.at_s),
            "max_tokens": seen.ask.max_tokens or UNLIMITED,
            "tenant": "" if seen.ask.key is None else self._pseudonym(seen.ask.key),
            "hash_ids": list(seen.ask.blocks),
        }

    def _pseudonym(self, key: str) -> str:
        name = key.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(name, digest_size=8, key=self._salt).hexdigest()
