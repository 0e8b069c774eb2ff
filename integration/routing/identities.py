"""Small numbers that requests go by in a cluster session, and what forecasts know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from brsolver.cluster._state_kernels import NONE
from brsolver.cluster.forecasting import RequestColumns
from brsolver.cluster.view import NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from brsolver.cluster.session import ClusterSession

FIRST_IDENTITIES = 1024


class Identified(Protocol):
    """A request as forecasts know it.

    Attributes
    ----------
    identity : int
        Row of the columns that forecasts look at; `NONE` while it has none.
    prompt_tokens, generated, max_tokens : int
    arrival_s : float
    """

    identity: int
    prompt_tokens: int
    generated: int
    max_tokens: int
    arrival_s: float


R = TypeVar("R", bound=Identified)


class Finished(NamedTuple, Generic[R]):
    """Requests that have ended since they were last asked for."""

    requests: Sequence[R]
    cancelled: list[bool]


class Identities:
    """Small numbers that requests go by, and what forecasts know of them by number.

    Parameters
    ----------
    keyed : bool
        Whether forecasts may go by the keys of requests: prompt hash, session and model, which
        requests then have as attributes.
    blocks : bool
        Whether policies may ask for what of a prompt is cached: requests then have `blocks`.

    Attributes
    ----------
    columns : RequestColumns
        By identity.
    """

    def __init__(self, *, keyed: bool, blocks: bool = False) -> None:
        self._blocks: dict[int, Sequence[int]] | None = {} if blocks else None
        self._free = list(range(FIRST_IDENTITIES - 1, -1, -1))
        self._limits = np.full(FIRST_IDENTITIES, NO_LIMIT, np.int64)
        self._arrivals = np.zeros(FIRST_IDENTITIES)
        self._keys = _key_columns(FIRST_IDENTITIES) if keyed else {}
        self.columns = RequestColumns(
            max_tokens=self._limits, arrival_s=self._arrivals, keys=self._keys
        )

    def give(self, request: Identified) -> None:
        """Give a request an identity."""
        if not self._free:
            self._double()
        identity = request.identity = self._free.pop()
        self._limits[identity] = request.max_tokens
        self._arrivals[identity] = request.arrival_s
        for name, column in self._keys.items():
            column[identity] = getattr(request, name)
        if self._blocks is not None:
            self._blocks[identity] = request.blocks  # type: ignore[attr-defined] # see `blocks`

    def take_back(self, request: Identified) -> None:
        """Take its identity back, if it has one."""
        if request.identity != NONE:
            if self._blocks is not None:
                self._blocks.pop(request.identity, None)
            self._free.append(request.identity)
            request.identity = NONE

    def blocks_of(self, identity: int) -> Sequence[int]:
        """Return the hashes of a request's blocks; none where nobody asks."""
        return () if self._blocks is None else self._blocks.get(identity, ())

    def _double(self) -> None:
        count = self._limits.shape[0]
        self._limits = np.concatenate((self._limits, np.full(count, NO_LIMIT, np.int64)))
        self._arrivals = np.concatenate((self._arrivals, np.zeros(count)))
        for name, more in (_key_columns(count) if self._keys else {}).items():
            self._keys[name] = np.concatenate((self._keys[name], more))
        # The forecaster holds the columns, not the arrays in them.
        self.columns.max_tokens, self.columns.arrival_s = self._limits, self._arrivals
        self._free = list(range(2 * count - 1, count - 1, -1))


def _key_columns(count: int) -> dict[str, NDArray[Any]]:
    return {
        "prompt_hash": np.zeros(count, np.int64),
        "session": np.full(count, "", object),
        "model": np.full(count, "", object),
    }


def hand_over(session: ClusterSession, done: Finished[R], forget: Callable[[R], None]) -> None:
    """Hand requests that have ended to who learns from them, and then forget them.

    Parameters
    ----------
    session : ClusterSession
    done : Finished
    forget : callable
        Told every request, also where learning fails.
    """
    if not done.requests:
        return
    rows = [(r.prompt_tokens, r.generated, r.identity) for r in done.requests]
    prompts, lengths, identities = np.array(rows, np.int64).T
    cancelled = np.array(done.cancelled, np.bool_)
    try:
        session.observe(prompts, lengths, request=identities, cancelled=cancelled)
    finally:
        for request in done.requests:
            forget(request)
