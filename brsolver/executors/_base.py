"""The seam: what every executor does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from brsolver.errors import BrsolverError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

Function = Callable[[Any, Mapping[str, Any]], object]
"""Of a module's top level; takes a task and what all tasks share, by name. Must change neither."""

MOST_ATTEMPTS = 3
"""Times that a task is begun whose process, or node, is killed every time."""
NOTHING_UNDER_WAY = "no task is under way, must be handed in first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What comes back of a task that returned nothing.

    Attributes
    ----------
    reason : str
        One line.
    """

    reason: str

    @classmethod
    def raised(cls, error: BaseException) -> Lost:
        """Say what a function raised: an error of ours by its message alone."""
        if isinstance(error, BrsolverError):
            return cls(reason=" ".join(str(error).split()))
        first = str(error).strip().partition("\n")[0]
        kind = type(error).__name__
        return cls(reason=f"{kind}: {first}" if first else kind)


@dataclass(slots=True, kw_only=True)
class Begun:
    """A task, and how often it was begun.

    Attributes
    ----------
    number : int
    task : object
    attempts : int
    """

    number: int
    task: Any
    attempts: int = 0


def attempted(function: Function, task: object, shared: Mapping[str, Any]) -> Any:
    """Carry out one task; what it raises comes back as `Lost`: its mistake is not another's."""
    try:
        return function(task, shared)
    except (Exception, SystemExit) as error:  # noqa: BLE001 # a policy may raise anything
        return Lost.raised(error)


def tell_begun_again(begun: Begun, cause: str) -> None:
    """Say on standard error, unless the caller has other plans, what a lost process costs."""
    logging.getLogger("brsolver").warning(
        "task %d was lost (%s) and is begun again, %d of %d times",
        begun.number + 1,
        cause,
        begun.attempts + 1,
        MOST_ATTEMPTS,
    )


class Lane(Protocol):
    """Carries out one function, for tasks that are handed in one by one."""

    @property
    def slots(self) -> int:
        """Tasks that run at once, as far as is known now."""

    def submit(self, task: object) -> int:
        """Hand in a task; returns its number, counted from 0."""

    def next(self) -> tuple[int, Any]:
        """Wait for a task that ends; returns its number, and what it returned or `Lost`.

        Raises
        ------
        StateError
            No task is under way.
        BrsolverError
            Nothing can be carried out any more: the cluster has gone.
        """


class Executor(Protocol):
    """Carries out independent calls.

    Attributes
    ----------
    name : str
    """

    name: str

    def open(
        self, function: Function, shared: Mapping[str, object] | None = None
    ) -> AbstractContextManager[Lane]:
        """Get ready to carry out `function`.

        Parameters
        ----------
        function : callable
            See `Function`.
        shared : mapping of str to object, optional
            Sent once to wherever tasks run, not with each of them.

        Returns
        -------
        context manager of Lane
            Leaving it ends what still runs.
        """


def carry_out(
    executor: Executor,
    function: Function,
    tasks: Sequence[object],
    shared: Mapping[str, object] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Carry out `function` for all tasks; yields each one's index and result as it ends.

    Parameters
    ----------
    executor : Executor
    function : callable
        See `Function`.
    tasks : sequence of object
    shared : mapping of str to object, optional

    Yields
    ------
    index : int
    result : object or Lost
    """
    with executor.open(function, shared) as lane:
        index = {lane.submit(task): at for at, task in enumerate(tasks)}
        for _ in tasks:
            number, result = lane.next()
            yield index[number], result
