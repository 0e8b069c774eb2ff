"""Whether the books are in order: what was reserved, what lives, what has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brsolver.cluster._state_kernels import NONE, W_ACTIVE, W_BACKLOG, W_LOAD, W_QUEUED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.cluster.state import ClusterState
    from integration.picker.asks import End
    from integration.picker.books import Books
    from integration.picker.workers import Worker, Workers
    from integration.routing.prefixes import PrefixHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAudit:
    """A worker, by the books.

    Attributes
    ----------
    name, address : str
    rank : int or None
    state : str
        ``up``, ``down``, ``draining`` or ``gone``.
    slots : int
    capacity : int or None
        KV tokens.
    reserved, started : int
        Requests that it was given, and those of them that it has taken: live streams.
    sequences : int
        Slots that they take.
    running, queued : int
        Sequences that run there by the model, and those that do not yet.
    foreign : int
        Requests that its engine has beyond these.
    kv_tokens, backlog : int
        KV tokens that are held there, and prompt tokens to be computed.
    cached_blocks : int
        Blocks of prompts that it is taken to have in its prefix cache.
    at_envoy : int or None
        Requests that Envoy had at its address when it was last looked, those of all ranks there,
        and those that take no slot; None where nobody looks.
    """

    name: str
    address: str
    rank: int | None
    state: str
    slots: int
    capacity: int | None
    reserved: int
    started: int
    sequences: int
    running: int
    queued: int
    foreign: int
    kv_tokens: int
    backlog: int
    cached_blocks: int
    at_envoy: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The books at one moment.

    Attributes
    ----------
    workers : tuple of WorkerAudit
        By index.
    held : int
        Requests that have no worker yet.
    reserved, started : int
        Requests that have one, and those of them that have been taken: live streams.
    begun : int
        Requests that have come so far.
    ended : mapping of End to int
        Those that have ended, by how.
    scale : float
        How much longer steps last than the hardware says.
    steps : int
        Steps of the model so far.
    wrong : tuple of str
        What does not add up, a line each.
    """

    workers: tuple[WorkerAudit, ...]
    held: int
    reserved: int
    started: int
    begun: int
    ended: Mapping[End, int]
    scale: float
    steps: int
    wrong: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        """Whether all adds up."""
        return not self.wrong


def audit(
    books: Books,
    workers: Workers,
    state: ClusterState,
    *,
    history: PrefixHistory,
    held: int,
    scale: float,
    steps: int,
) -> Audit:
    """Count anew who is where, and hold the books against it.

    Parameters
    ----------
    books : Books
    workers : Workers
    state : ClusterState
    history : PrefixHistory
    held : int
        Requests in the pool.
    scale, steps : float, int
        Of the step clock.
    """
    rows = tuple(_of(worker, books, state, history) for worker in workers)
    here = list(books.known.values())
    waiting = sum(each.worker == NONE for each in here)
    ended = sum(books.ended.values())
    wrong = [
        f"{row.name}: {counted} sequences counted, {row.sequences} reserved, "
        f"{row.running + row.queued} in the model"
        for worker, row in zip(workers, rows, strict=True)
        if (counted := sum(each.slots for each in books.at(worker.index))) != row.sequences
        or counted != row.running + row.queued
    ]
    if waiting != held:
        wrong.append(f"{held} requests are in the pool, {waiting} have no worker")
    if books.begun != len(here) + ended:
        wrong.append(f"{books.begun} requests came, {len(here)} are here, {ended} have ended")
    return Audit(
        workers=rows,
        held=held,
        reserved=len(here) - waiting,
        started=sum(each.started for each in here),
        begun=books.begun,
        ended=dict(books.ended),
        scale=scale,
        steps=steps,
        wrong=tuple(wrong),
    )


def _of(worker: Worker, books: Books, state: ClusterState, history: PrefixHistory) -> WorkerAudit:
    row = state.workers[:, worker.index]
    here = books.at(worker.index)
    return WorkerAudit(
        name=worker.spec.name,
        address=worker.spec.address,
        rank=worker.spec.rank,
        state=worker.state,
        slots=worker.slots,
        capacity=worker.capacity,
        reserved=len(here),
        started=sum(each.started for each in here),
        sequences=worker.reserved,
        running=int(row[W_ACTIVE]),
        queued=int(row[W_QUEUED]),
        foreign=worker.foreign,
        kv_tokens=int(row[W_LOAD]),
        backlog=int(row[W_BACKLOG]),
        cached_blocks=history.held(worker.index),
    )
