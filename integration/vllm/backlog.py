"""Prompt tokens that the ranks have yet to compute, as far as an API server can know.

A request owes its prompt from when it is sent until its engine reports its first token. What is
found in a cache its engine tells no earlier than that; until then it owes what is not expected
there (`integration.vllm.prefixes`). In between, a step computes no more than
its budget of tokens, running prompts first come first served; from that follows what is left of
long prompts. vLLM's iteration details (``--enable-logging-iteration-details``) say it of every
step. With several API servers, neither tells whose prompts these were, and all is owed until the
first token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brsolver.cluster._state_kernels import NONE

if TYPE_CHECKING:
    from brsolver.cluster.state import ClusterState
    from integration.vllm.deployment import Scheduling
    from integration.vllm.requests import Request


class Backlog:
    """Keeps what every rank owes, and tells the state.

    Parameters
    ----------
    state : ClusterState
    scheduling : Scheduling
    """

    def __init__(self, state: ClusterState, scheduling: Scheduling) -> None:
        ranks = state.workers.shape[1]
        self.scheduling = scheduling
        self._state = state
        self._tokens = [0] * ranks
        self._reports = [0] * ranks
        # With the reports that there had been when it was sent; first come first.
        self._owing: list[dict[Request, int]] = [{} for _ in range(ranks)]
        self._begun = self._done = 0

    def opened(self) -> None:
        """Take in a further rank."""
        self._tokens.append(0)
        self._reports.append(0)
        self._owing.append({})

    def closed(self, rank: int) -> None:
        """Take in that a rank has gone, and all that it owed."""
        self._owing[rank].clear()
        self._add(rank, -self._tokens[rank])

    def entered(self, request: Request) -> None:
        """Enter what a request at a rank owes."""
        if request.owed and self.scheduling.computes:
            rank = request.rank
            self._owing[rank][request] = self._reports[rank]
            self._add(rank, request.owed)

    def extended(self, request: Request, tokens: int) -> None:
        """Enter further tokens of its prompt."""
        self.left(request)
        request.owed += tokens
        self.entered(request)

    def computed(self, request: Request, stats: Any) -> None:
        """Enter that its rank has computed all of it, in the step that is being entered.

        Parameters
        ----------
        request : Request
        stats : PrefillStats or None
            What its engine tells of that.
        """
        cached = getattr(stats, "num_cached_tokens", 0) or 0
        self._begun += 1
        self._done += max(request.owed + request.expected_tokens - cached, 0)
        self.left(request)
        request.owed = 0

    def left(self, request: Request) -> None:
        """Take what it owes off its rank."""
        if self._owing[request.rank].pop(request, None) is not None:
            self._add(request.rank, -request.owed)

    def stepped(self, rank: int, outputs: int, stats: Any) -> None:
        """Enter what else a rank's step has computed.

        Parameters
        ----------
        rank : int
        outputs : int
            Requests that it was about: all but those that have begun decode.
        stats : SchedulerStats or None
            Of the step, if its engine tells.
        """
        self._reports[rank] += 1
        decoding, done = outputs - self._begun, self._done
        self._begun = self._done = 0
        if not self._owing[rank]:
            return
        told = _told(stats) if self.scheduling.alone else None
        if told is not None:
            self._take(rank, told - done, self._reports[rank])
        elif self.scheduling.budget:
            ripe = self._reports[rank] - self.scheduling.lag
            self._take(rank, self.scheduling.budget - decoding - done, ripe)

    def _take(self, rank: int, room: int, ripe: int) -> None:
        """Discharge up to `room` tokens of those sent before so many reports, oldest first."""
        taken, chunk = 0, self.scheduling.chunk or room
        for request, since in self._owing[rank].items():
            if room <= 0 or since >= ripe or request.handle == NONE:
                break
            # Whose first token has not come owes something.
            part = min(room, chunk, request.owed - 1)
            request.owed -= part
            taken += part
            room -= part
        self._add(rank, -taken)

    def _add(self, rank: int, tokens: int) -> None:
        self._tokens[rank] += tokens
        self._state.set_backlog(rank, self._tokens[rank])


def _told(stats: Any) -> int | None:
    details = getattr(stats, "iteration_details", None)
    if details is None:
        return None
    # A dummy step keeps other ranks company: it computes nobody's prompt, whatever size it has.
    return 0 if getattr(details, "is_dummy", False) else int(details.num_ctx_tokens)
