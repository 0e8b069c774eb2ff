"""Writes what the door served as a trace in brsolver's own schema."""

from __future__ import annotations

import hashlib
import logging
import secrets
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat
from typing import TYPE_CHECKING

from brsolver.errors import OutputError
from integration.picker.events import Ended, Refusal, Requested
from integration.picker.resuming import BEFORE
from integration.recording import TraceRecorder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from integration.picker.asks import Ask
    from integration.picker.events import Event

logger = logging.getLogger("brsolver.recorder")
UNLIMITED = 2**31 - 1
"""Tokens: no model comes to that, and readers take it for a number."""
MOST_NUMBERS = 2**19
"""In the rows of one request: to write more would hold everybody up."""
_NUMBERS_EACH = 32
"""As many hashes as take the time of all the rest of a row."""


@dataclass(slots=True, kw_only=True, eq=False)
class Seen:
    """A request that has come, and what is known of it by now.

    Attributes
    ----------
    ask : Ask
    at_s : float
        When it came, on the core's clock.
    prompt_tokens, output_tokens : int
        Once it has ended: as its engine told them, or else as the picker has them; of all its
        prompts, and of all its sequences, together.
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

    A request of several sequences is a row for each, as each took a slot: its own prompt and an
    even share of the tokens that all had, which is all that engines tell. Rows of one prompt have
    the same hashes: where caches are simulated, one computes it, and the others find it.

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
        self._has_cut = False
        try:
            self._trace: TraceRecorder[Seen] = TraceRecorder(
                path,
                logger=logger,
                rows_of=self._rows,
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

    def _rows(self, seen: Seen) -> Iterator[dict[str, object]]:
        if seen.output_tokens < 1 or seen.prompt_tokens < 1:
            return
        ask = seen.ask
        # A column is there for all or for none.
        common = {
            "arrival_s": float(seen.at_s),
            "max_tokens": ask.max_tokens or UNLIMITED,
            "tenant": "" if ask.key is None else self._pseudonym(ask.key),
            "hash_ids": list(ask.blocks),
        }
        most = max(MOST_NUMBERS // (_NUMBERS_EACH + len(ask.blocks)), 1)
        for at, (prompt_tokens, output_tokens) in enumerate(_sequences(seen)):
            if at == most:
                self._cut(ask)
                return
            yield {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens, **common}

    def _cut(self, ask: Ask) -> None:
        if not self._has_cut:
            self._has_cut = True
            logger.warning(
                "brsolver: of the %d sequences of %s the trace has only some: they would hold up "
                "what is served. Those of further ones are left out without a word.",
                ask.sequences,
                ask.name,
            )

    def _pseudonym(self, key: str) -> str:
        name = key.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(name, digest_size=8, key=self._salt).hexdigest()


def _sequences(seen: Seen) -> Iterator[tuple[int, int]]:
    """Return prompt and output tokens of each sequence that had any."""
    ask = seen.ask
    parts = ask.parts or (1,)
    prompts = _shared_out(seen.prompt_tokens, parts, sum(parts))
    choices = max(ask.sequences // len(parts), 1)
    # One without a token has no place in a trace.
    among = min(ask.sequences, seen.output_tokens)
    outputs = _shared_out(seen.output_tokens, repeat(1, among), among)
    # The choices of a prompt one after another, as engines number them.
    return zip((each for each in prompts for _ in range(choices)), outputs, strict=False)


def _shared_out(total: int, weights: Iterable[int], whole: int) -> Iterator[int]:
    """Return whole parts of a total, each at least 1, in proportion to weights that sum up so."""
    ends = (total * upto // whole for upto in accumulate(weights, initial=0))
    return (max(end - begin, 1) for begin, end in pairwise(ends))
