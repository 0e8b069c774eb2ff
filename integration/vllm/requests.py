"""Requests as the books and the forecasts know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from brsolver.cluster._state_kernels import NONE
from brsolver.cluster.forecasting import RequestColumns
from brsolver.cluster.view import NO_LIMIT

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST_IDENTITIES = 1024


class Request:
    """One request that an engine has, or that is held for one.

    Attributes
    ----------
    name : str
        vLLM's own, internal id.
    identity : int
        Row of the columns that forecasts look at.
    prompt_tokens, generated, max_tokens : int
    cached_tokens : int
        Prompt tokens whose KV another request had left behind.
    arrival_s : float
        On vLLM's clock.
    rank, handle : int
        Where it runs, and the state's handle; `NONE` while it is held, or queued at its rank.
    ended : bool
        Whether its engine said that it came to its own end.
    has_stop_texts : bool
        Whether the front end looks for texts that end it, and cancels it at the engine then.
    sent : bool
        Whether vLLM has sent it; a further message is a chunk of streamed input.
    prompt_hash : int
        The same for equal prompts, if anybody asks for it.
    model, session : str
        Names of the adapter and of the conversation; empty for none.
    unseen : int
        Its prompt tokens, while it is charged and its engine's own figures may lack it.
    owed : int
        Tokens of its prompt that its rank has yet to compute.
    spent_s : float
        Time that routing it has taken so far.
    """

    __slots__ = (
        "arrival_s",
        "cached_tokens",
        "ended",
        "generated",
        "handle",
        "has_stop_texts",
        "identity",
        "max_tokens",
        "model",
        "name",
        "owed",
        "prompt_hash",
        "prompt_tokens",
        "rank",
        "sent",
        "session",
        "spent_s",
        "unseen",
    )

    def __init__(self, name: str, prompt_tokens: int, max_tokens: int, arrival_s: float) -> None:
        self.name = name
        self.prompt_tokens = max(1, prompt_tokens)
        self.max_tokens = max_tokens
        self.arrival_s = arrival_s
        self.generated = 0
        self.cached_tokens = 0
        self.identity = NONE
        self.rank = NONE
        self.handle = NONE
        self.ended = False
        self.has_stop_texts = False
        self.sent = False
        self.prompt_hash = 0
        self.model = ""
        self.session = ""
        self.unseen = 0
        self.owed = 0
        self.spent_s = 0.0

    def place(self, rank: int = NONE) -> None:
        """Forget where it ran: it is at no rank, or queued at this one."""
        self.rank, self.handle, self.unseen = rank, NONE, 0


class Finished(NamedTuple):
    """Requests that have ended since they were last asked for."""

    requests: list[Request]
    cancelled: list[bool]


class Identities:
    """Small numbers that requests go by, and what forecasts know of them by number.

    Parameters
    ----------
    keyed : bool
        Whether forecasts may go by the keys of requests: prompt hash, session and model.

    Attributes
    ----------
    columns : RequestColumns
        By identity.
    """

    def __init__(self, *, keyed: bool) -> None:
        self._free = list(range(FIRST_IDENTITIES - 1, -1, -1))
        self._limits = np.full(FIRST_IDENTITIES, NO_LIMIT, np.int64)
        self._arrivals = np.zeros(FIRST_IDENTITIES)
        self._keys = _key_columns(FIRST_IDENTITIES) if keyed else {}
        self.columns = RequestColumns(
            max_tokens=self._limits, arrival_s=self._arrivals, keys=self._keys
        )

    def give(self, request: Request) -> None:
        """Give a request an identity."""
        if not self._free:
            self._double()
        identity = request.identity = self._free.pop()
        self._limits[identity] = request.max_tokens
        self._arrivals[identity] = request.arrival_s
        for name, column in self._keys.items():
            column[identity] = getattr(request, name)

    def take_back(self, request: Request) -> None:
        """Take its identity back, if it has one."""
        if request.identity != NONE:
            self._free.append(request.identity)
            request.identity = NONE

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
