"""How many KV tokens a rank can still take, by what its engine says of its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brsolver.cluster._state_kernels import W_ACTIVE, W_LOAD, W_QUEUED

if TYPE_CHECKING:
    from brsolver.cluster.state import ClusterState
    from integration.vllm.requests import Request


class Headroom:
    """Keeps the capacity of every rank at what is charged plus what its engine has free.

    Requests that share a prefix are charged in full, since every step reads all of it, while the
    cache holds it once; blocks are taken whole, though their last may be filled in part; a
    preempted request is charged and holds nothing. What the engine says of its blocks, with every
    step while it logs statistics, has all of that in it. Where it says nothing, the capacity
    stays what the cache would hold of requests that share nothing.

    Parameters
    ----------
    state : ClusterState
        Of the cluster whose ranks they are.
    capacity : int or None
        KV tokens of an empty rank; None if vLLM does not say.
    """

    def __init__(self, state: ClusterState, capacity: int | None) -> None:
        self.capacity = capacity
        self._state = state
        ranks = state.workers.shape[1]
        self._unseen = [0] * ranks
        self._unseen_tokens = [0] * ranks

    def opened(self) -> None:
        """Take in a further rank."""
        self._unseen.append(0)
        self._unseen_tokens.append(0)

    def admitted(self, request: Request) -> None:
        """Note a request that the engine's figures may not know yet."""
        if not request.generated:
            request.unseen = request.prompt_tokens
            self._unseen[request.rank] += 1
            self._unseen_tokens[request.rank] += request.unseen

    def seen(self, request: Request) -> None:
        """Note that the engine has computed its prompt, or has let go of it."""
        self._unseen[request.rank] -= 1
        self._unseen_tokens[request.rank] -= request.unseen
        request.unseen = 0

    def unseen(self, rank: int) -> tuple[int, int]:
        """Return how many requests of a rank have no token yet, and their prompts' tokens."""
        return self._unseen[rank], self._unseen_tokens[rank]

    def told(self, rank: int, stats: Any) -> None:
        """Take in the engine's own figures, `SchedulerStats`; whatever it lacks is passed over."""
        usage = getattr(stats, "kv_cache_usage", None)
        if self.capacity is None or usage is None:
            return
        used = round(usage * self.capacity)
        waiting = int(getattr(stats, "num_waiting_reqs", 0) or 0)
        workers = self._state.workers
        if waiting > self._unseen[rank] + workers[W_QUEUED, rank]:
            # Requests that had run before wait for blocks: these come first.
            used = self.capacity
        unseen = self._unseen_tokens[rank]
        charged = int(workers[W_LOAD, rank]) - unseen
        # Prompts that are being computed have some of their blocks already.
        begun = min(unseen, max(0, used - charged))
        self._state.set_capacity(rank, charged + begun + self.capacity - used)
        self.emptied(rank)

    def emptied(self, rank: int) -> None:
        """Go back to an empty rank's capacity, if nothing runs there: no engine tells of that."""
        if self.capacity is not None and not self._state.workers[W_ACTIVE, rank]:
            self._state.set_capacity(rank, self.capacity)
