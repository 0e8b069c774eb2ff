"""Streams looked at while they run: which of them, and how many bytes a token of theirs has."""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from integration.picker.events import Ended, Refusal, Requested

if TYPE_CHECKING:
    from collections.abc import Hashable

    from integration.picker.bodies import Body
    from integration.picker.events import Event

_KEPT = 32
"""Streams of a kind that are remembered, the latest."""
_KINDS = 64
_ENOUGH = 3
_LEAST_TOKENS = 8
_PATIENCE = 1000
"""Names given after which one that was never asked for gives its place away."""
_APART = 16
"""Tokens by which two streams must differ for what they differ in to be theirs."""


class Watched:
    """Chooses streams to look at: so many at a time, and another for each that ends.

    The names of those bear a mark, by which Envoy knows them; so what it tells a second is
    bounded, however many streams there are. A listener of the core.

    Parameters
    ----------
    most : int
        Streams at a time; 0 looks at none.
    mark : str
        What the names of those end with, and of no others.
    """

    def __init__(self, most: int, mark: str) -> None:
        self._most = most
        self._mark = mark
        self._names: set[str] = set()
        self._read: dict[str, int] = {}
        self._given = 0

    def __len__(self) -> int:
        return len(self._names) + len(self._read)

    def named(self, name: str, body: Body) -> str:
        """Return the name of a request, marked if its stream is to be looked at."""
        self._given += 1
        self._let_go()
        if not body.stream or body.sequences != 1 or len(self) >= self._most:
            return name
        marked = name + self._mark
        self._read[marked] = self._given
        return marked

    def event(self, event: Event) -> None:
        """Take in who comes and goes."""
        if isinstance(event, Requested):
            if self._read.pop(event.name, None) is not None:
                self._names.add(event.name)
        elif isinstance(event, Ended | Refusal):
            self._names.discard(event.name)

    def _let_go(self) -> None:
        """Give the places away of who was read, and then asked for of nobody."""
        for name, given in list(self._read.items()):
            if self._given - given <= _PATIENCE:
                return
            del self._read[name]


class TokenBytes:
    """How many bytes a further token adds to a stream, by its kind, learned from those that ended.

    The median of the slopes between any two of the latest (Theil and Sen): what every stream has
    once does not count, and a quarter of them may be of another make (with log-probabilities, with
    tools) without moving it.
    """

    def __init__(self) -> None:
        self._pairs: OrderedDict[Hashable, deque[tuple[int, int]]] = OrderedDict()
        self._found: dict[Hashable, _Line | None] = {}

    def learn(self, kind: Hashable, tokens: int, sent: int) -> None:
        """Take in a stream that has ended.

        Parameters
        ----------
        kind : hashable
            Streams of one kind are alike.
        tokens, sent : int
            Tokens that its engine counted, and bytes of its body.
        """
        if tokens < _LEAST_TOKENS or sent < tokens:
            return
        self._pairs.setdefault(kind, deque(maxlen=_KEPT)).append((tokens, sent))
        self._pairs.move_to_end(kind)
        self._found.pop(kind, None)
        if len(self._pairs) > _KINDS:
            gone, _ = self._pairs.popitem(last=False)
            self._found.pop(gone, None)

    def of(self, kind: Hashable) -> float | None:
        """Return the bytes of a token; None while too few streams have told."""
        line = self._line(kind)
        return None if line is None else line.each

    def tokens(self, kind: Hashable, sent: int) -> int | None:
        """Return how many tokens a stream of so many bytes had that did not tell; None as `of`."""
        line = self._line(kind)
        if line is None:
            return None
        # Those that told had an event more, which said so, and is about as long as a token's.
        return max(round((sent - line.once) / line.each) + 1, 1)

    def _line(self, kind: Hashable) -> _Line | None:
        pairs = self._pairs.get(kind, ())
        if len(pairs) < _ENOUGH:
            return None
        if kind not in self._found:
            self._found[kind] = _through(list(pairs))
        return self._found[kind]


class _Line(NamedTuple):
    """Bytes that streams have with each token, and once."""

    each: float
    once: float


def _through(pairs: list[tuple[int, int]]) -> _Line | None:
    slopes = [
        (other_sent - sent) / (other - tokens)
        for (tokens, sent), (other, other_sent) in combinations(pairs, 2)
        if abs(other - tokens) >= _APART
    ]
    # Where all are about as long, what each has once is spread over its tokens.
    if len(slopes) < len(pairs):
        slopes = [sent / tokens for tokens, sent in pairs]
    each = median(slopes)
    return _Line(each, median(sent - each * tokens for tokens, sent in pairs)) if each > 0 else None
