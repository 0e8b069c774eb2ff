"""What tasks share, as the processes that carry them out see it."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KEPT_BYTES = 512 * 2**20
"""Packed size of what a process keeps unpacked at most; a grid of many traces does not fit."""


class SharedValues(Mapping[str, Any]):
    """Values by name, each fetched and unpacked when a task first asks for it.

    Those asked for least recently are given up where too much is kept, and fetched again.

    Parameters
    ----------
    names : iterable of str
    fetch : callable
        Takes a name, returns the pickled value.
    most : int
        Packed bytes to keep at most; the one last asked for is kept whatever it takes.
    """

    def __init__(
        self, names: Iterable[str], fetch: Callable[[str], Any], *, most: int = KEPT_BYTES
    ) -> None:
        self._names = tuple(names)
        self._fetch = fetch
        self._most = most
        self._kept: OrderedDict[str, tuple[object, int]] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._kept:
            packed = self._fetch(name)
            # Bytes of our own driver.
            self._kept[name] = pickle.loads(packed), len(packed)  # noqa: S301
            self._bytes += len(packed)
            self._give_up()
        self._kept.move_to_end(name)
        return self._kept[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _give_up(self) -> None:
        while self._bytes > self._most and len(self._kept) > 1:
            _, (_, size) = self._kept.popitem(last=False)
            self._bytes -= size
