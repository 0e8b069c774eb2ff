"""In this process, one after the other."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from brsolver.errors import StateError
from brsolver.executors._base import NOTHING_UNDER_WAY, attempted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.executors._base import Function


class InlineExecutor:
    """Carries out calls when their result is asked for."""

    name = "inline"

    @contextmanager
    def open(
        self, function: Function, shared: Mapping[str, object] | None = None
    ) -> Iterator[InlineLane]:
        """Get ready; see `Executor.open`."""
        yield InlineLane(function, shared or {})


class InlineLane:
    """Tasks in the order in which they were handed in; see `Lane`."""

    slots = 1

    def __init__(self, function: Function, shared: Mapping[str, object]) -> None:
        self._function = function
        self._shared = shared
        self._tasks: deque[tuple[int, object]] = deque()
        self._count = 0

    def submit(self, task: object) -> int:
        """Hand in a task; see `Lane.submit`."""
        number, self._count = self._count, self._count + 1
        self._tasks.append((number, task))
        return number

    def next(self) -> tuple[int, Any]:
        """Carry out the oldest task; see `Lane.next`."""
        if not self._tasks:
            raise StateError(NOTHING_UNDER_WAY)
        number, task = self._tasks.popleft()
        return number, attempted(self._function, task, self._shared)
