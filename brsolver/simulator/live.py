"""Ranks that step in lockstep, a step per call: the simulator's ranks for whoever serves.

What a step does and what it lasts is what `simulate` makes of ranks that compute their prompts
(`brsolver.simulator.reference_colocated`); requests come and go from outside, between steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster._state_kernels import (
    NONE,
    R_ID,
    W_CAPACITY,
    W_LOAD,
    W_QUEUED_TOKENS,
    W_TAIL,
)
from brsolver.errors import StateError
from brsolver.hardware._step_kernels import LOAD_ROWS, StepParts, envelope_parts, step_parts
from brsolver.hardware.step_arrays import step_time_arrays
from brsolver.simulator._live_checks import check_lengths, check_ranks
from brsolver.simulator._live_rank import LiveRank, LiveRequest, Place
from brsolver.simulator._prefill_kernels import decode_loads

if TYPE_CHECKING:
    from brsolver.cluster.state import ClusterState
    from brsolver.hardware.step_time import StepTime
    from brsolver.simulator.prefill import Prefill

__all__ = ["LiveRanks", "LiveStep"]

IntArray = NDArray[np.int64]


class LiveStep(NamedTuple):
    """What a step of all ranks did.

    Attributes
    ----------
    duration_s : float
        What it lasts by the step time, barrier included, in seconds; 0 if nothing ran.
    lost_s : tuple of float
        What of it was lost at the barrier, in seconds: to prefill, sequences, KV tokens, padding.
    first : list of int
        Requests whose first token it computed.
    ended : list of int
        Requests that had all their output tokens with it, and have left.
    loads : ndarray of int64, shape (LOAD_ROWS, G)
        What each rank did: rows of `brsolver.hardware._step_kernels`.
    """

    duration_s: float
    lost_s: tuple[float, float, float, float]
    first: list[int]
    ended: list[int]
    loads: IntArray


class LiveRanks:
    """Ranks that compute prompts and decode in lockstep, a step per call.

    Each rank has vLLM V1's order: running requests take precedence, then prompts under way,
    then what waits, first come first, until budget, slots or KV tokens run out. A step that
    leaves a rank over its KV capacity preempts its newest requests. A request that never fits
    runs alone. Where prompts are not computed on the ranks (any `prefill` but ``colocated``)
    they come computed, and run as soon as there is room.

    A step costs ``O(events + G)``: decoding is a kernel over workers, and only prompts under way
    are looped over.

    Parameters
    ----------
    state : ClusterState
        The books, which nobody else writes requests into. Workers may be added, removed and
        restored there; what was at a removed one is to be dropped before.
    step_time : StepTime
        What a step lasts; may be set between two steps.
    prefill : Prefill
        Whether and how the ranks compute prompts.

    Attributes
    ----------
    steps : int
        Steps so far, those in which nothing ran left out.

    Raises
    ------
    ParameterError
        The ranks' scheduler is not ``v1``, or they delay prefill, keep a prefix cache of their
        own, or have more slots than budget.
    """

    def __init__(self, state: ClusterState, step_time: StepTime, *, prefill: Prefill) -> None:
        check_ranks(prefill, state)
        self.state = state
        self.prefill = prefill
        self.steps = 0
        self._requests: dict[int, LiveRequest] = {}
        self._ranks: list[LiveRank] = []
        # Those where anything waits or is computed, and perhaps some more.
        self._pending: set[int] = set()
        self._ends: dict[int, dict[int, LiveRequest]] = {}
        self._first: list[int] = []
        self.step_time = step_time

    @property
    def step_time(self) -> StepTime:
        """What a step lasts."""
        return self._step_time

    @step_time.setter
    def step_time(self, step_time: StepTime) -> None:
        self._step_time = step_time
        self._record, self._figures = step_time_arrays(step_time)

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._requests)

    def __contains__(self, request: object) -> bool:
        return request in self._requests

    def __len__(self) -> int:
        return len(self._requests)

    def send(
        self,
        request: int,
        worker: int,
        prompt_tokens: int,
        *,
        output_tokens: int | None = None,
        cached_tokens: int = 0,
        generated: int = 0,
    ) -> None:
        """Send a request to a worker, where it waits for a slot.

        Parameters
        ----------
        request : int
            Its identity, for the caller.
        worker : int
            Index of the worker.
        prompt_tokens : int
            Prompt length, at least 1 token.
        output_tokens : int, optional
            With how many tokens it ends, more than `generated`; None: it runs until it leaves.
        cached_tokens : int, optional
            Tokens of the prompt that need not be computed. The last one is computed always.
        generated : int, optional
            Tokens that it had generated before; they are computed again with the prompt.

        Raises
        ------
        StateError
            The worker is not there, or the request is there already.
        ParameterError
            A length is out of range.
        """
        check_lengths(request, prompt_tokens, output_tokens, cached_tokens, generated)
        if request in self._requests:
            raise StateError(f"request {request} is at worker {self.where(request)} already")
        one = LiveRequest(
            request=request,
            worker=worker,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            cached=self._cached(prompt_tokens, cached_tokens, generated),
            generated=generated,
        )
        # The books refuse a worker that is gone.
        self._push(one)
        self._requests[request] = one

    def leave(self, request: int) -> None:
        """Take a request off wherever it is: ended, or aborted.

        Raises
        ------
        StateError
            The request is not there.
        """
        one = self._known(request)
        if one.place is Place.RUNNING:
            self._stop(one)
        else:
            self._rank(one.worker).remove(one)
        del self._requests[request]

    def first_now(self, request: int) -> None:
        """Take in from outside that a request has its first token, whatever the steps say.

        One that waits or is computed runs from now on, with a slot or without. One that the
        steps have run ahead with goes back to its first token, unless it had some before.

        Raises
        ------
        StateError
            The request is not there.
        """
        one = self._known(request)
        if one.place is Place.RUNNING:
            if one.generated > 0 or self.generated(request) == 1:
                return
            self._stop(one)
            one.generated = 1
        else:
            self._rank(one.worker).remove(one)
            one.generated = max(one.generated, 1)
        self._run(one)

    def drop(self, worker: int) -> list[int]:
        """Forget all that is at a worker; return the identities of it, what runs first.

        The worker itself stays in the state, until that is told to remove it.

        Raises
        ------
        StateError
            There never was such a worker.
        """
        rank = self._rank(worker)
        lost = [one for one in self._requests.values() if one.worker == worker]
        lost.sort(key=lambda one: one.place is not Place.RUNNING)
        for one in lost:
            self.leave(one.request)
        rank.bound = False
        return [one.request for one in lost]

    def where(self, request: int) -> int:
        """Return the worker that a request is at."""
        return self._known(request).worker

    def generated(self, request: int) -> int:
        """Return how many tokens a request has, by the steps."""
        one = self._known(request)
        running = one.place is Place.RUNNING
        return one.generated + (self.steps - one.since if running else 0)

    def handle(self, request: int) -> int:
        """Return what the state names a running request by; NONE for one that does not run."""
        return self._known(request).handle

    def waiting(self, worker: int) -> int:
        """Return how many requests of a worker have no slot yet."""
        rank = self._rank(worker)
        return len(rank.queue) + len(rank.returned)

    def running(self, worker: int) -> int:
        """Return how many requests of a worker have a slot, those under prefill included."""
        rank = self._rank(worker)
        return rank.active + len(rank.prompts)

    def held_tokens(self, worker: int) -> int:
        """Return the KV tokens that a worker's requests with a slot hold."""
        return self._rank(worker).held_tokens

    def step(self) -> LiveStep:
        """Do one step of all ranks.

        Returns
        -------
        LiveStep
        """
        loads = np.zeros((LOAD_ROWS, self.state.workers.shape[1]), np.int64)
        if self.prefill.colocated:
            decode_loads(self.state.workers, loads)
            self._compute(loads)
        else:
            self._admit_computed()
            decode_loads(self.state.workers, loads)
        if not self._requests:
            return LiveStep(0.0, (0.0, 0.0, 0.0, 0.0), [], [], loads)
        parts = self._cost(loads)
        first, self._first = self._first, []
        self.state.advance()
        self.steps += 1
        ended = self._depart()
        self._preempt()
        lost = parts.lost_prefill, parts.lost_sequences, parts.lost_kv, parts.lost_padding
        return LiveStep(parts.seconds, lost, first, ended, loads)

    def _compute(self, loads: IntArray) -> None:
        aligned = self.steps % self.prefill.interval == 0
        for rank in self._with_pending():
            for one in rank.compute(self.prefill, loads, aligned=aligned):
                rank.remove(one)
                self._start(one)

    def _admit_computed(self) -> None:
        for rank in self._with_pending():
            while (one := rank.admissible()) is not None:
                rank.remove(one)
                self._start(one)

    def _with_pending(self) -> list[LiveRank]:
        """Return the ranks where anything waits or is computed, in order."""
        found = [self._ranks[worker] for worker in sorted(self._pending) if self._ranks[worker]]
        self._pending = {rank.worker for rank in found}
        return found

    def _start(self, one: LiveRequest) -> None:
        if one.generated == 0:
            self._first.append(one.request)
        self._run(one)

    def _run(self, one: LiveRequest) -> None:
        one.place, one.since = Place.RUNNING, self.steps
        one.handle = self.state.admit(
            one.request, one.worker, one.prompt_tokens, generated=one.generated
        )
        if one.output_tokens is not None:
            self._ends.setdefault(self._end_of(one), {})[one.request] = one

    def _end_of(self, one: LiveRequest) -> int:
        # One that has all its tokens by the word from outside still takes a step to leave.
        return one.since + max((one.output_tokens or 0) - one.generated, 1)

    def _stop(self, one: LiveRequest) -> None:
        if one.output_tokens is not None:
            ending = self._ends[self._end_of(one)]
            del ending[one.request]
            if not ending:
                del self._ends[self._end_of(one)]
        self.state.finish(one.handle)
        one.handle = NONE

    def _depart(self) -> list[int]:
        ended = list(self._ends.get(self.steps, ()))
        for request in ended:
            self.leave(request)
        return ended

    def _preempt(self) -> None:
        # What waits holds nothing: most ranks are told at once to have room.
        workers = self.state.workers
        held = workers[W_LOAD] + workers[W_QUEUED_TOKENS]
        for worker in np.flatnonzero(held > workers[W_CAPACITY]).tolist():
            rank = self._rank(worker)
            while rank.over_capacity():
                self._preempt_newest(rank)

    def _preempt_newest(self, rank: LiveRank) -> None:
        one = rank.newest_prompt()
        if one is not None:
            rank.remove(one)
        else:
            handle = self.state.workers.item(W_TAIL, rank.worker)
            one = self._requests[int(self.state.requests.item(R_ID, handle))]
            generated = self.generated(one.request)
            self._stop(one)
            one.generated = generated
            one.cached = self._cached(one.prompt_tokens, one.cached, generated)
        self._push(one, front=True)

    def _push(self, one: LiveRequest, *, front: bool = False) -> None:
        self._rank(one.worker).push(one, front=front)
        self._pending.add(one.worker)

    def _cost(self, loads: IntArray) -> StepParts:
        if not self.prefill.colocated and self._record["envelope_only"][0]:
            live = self.state.load[self.state.alive]
            parts: StepParts = envelope_parts(self._record, int(live.max()), float(live.mean()))
        else:
            parts = step_parts(self._record, self._figures, loads)
        return parts

    def _cached(self, prompt_tokens: int, cached_tokens: int, generated: int) -> int:
        if not self.prefill.colocated:
            return prompt_tokens + generated
        return min(cached_tokens, prompt_tokens - 1)

    def _rank(self, worker: int) -> LiveRank:
        count = self.state.workers.shape[1]
        if not 0 <= worker < count:
            raise StateError(f"no worker {worker}: there are {count}, numbered from 0")
        while len(self._ranks) < count:
            self._ranks.append(LiveRank(self.state, len(self._ranks)))
        return self._ranks[worker]

    def _known(self, request: int) -> LiveRequest:
        one = self._requests.get(request)
        if one is None:
            raise StateError(f"no request {request} is at any worker")
        return one
