"""Requests that must share a worker, and the model of who goes where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles import _schedule_kernels as sk
from brsolver.oracles.linear_model import Kind, LinearModel, ModelBuilder, Sense

if TYPE_CHECKING:
    from brsolver.oracles.schedule import Schedule

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Chains:
    """Requests merged where a single departure meets a single admission.

    An admission that finds one free position goes to the worker that has it, so the request
    shares its worker with the one that held the position before.

    Attributes
    ----------
    of : ndarray of int64, shape (n,)
        Chain of every request.
    start, end : ndarray of int64, shape (m,)
        Steps over which each chain holds its slot without a break.
    """

    of: IntArray
    start: IntArray
    end: IntArray

    def __len__(self) -> int:
        return int(self.start.size)


def find_chains(schedule: Schedule) -> Chains:
    """Merge what admission forces onto the same worker."""
    positions = schedule.workers * schedule.slots
    of = sk.chain_of(schedule.start, schedule.end, schedule.position, positions)
    count = int(of.max()) + 1
    start = np.full(count, np.iinfo(np.int64).max)
    end = np.zeros(count, np.int64)
    np.minimum.at(start, of, schedule.start)
    np.maximum.at(end, of, schedule.end)
    return Chains(of=of, start=start, end=end)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AssignmentModel:
    """The interval model of some chains, the others staying where they are.

    Attributes
    ----------
    model : LinearModel
        Columns ``x`` (movable chains, workers among which they move) and ``z`` (intervals).
    movable : ndarray of int64
        The chains that may move.
    among : ndarray of int64
        The workers they may move to, ascending.
    edges : ndarray of int64, shape (intervals + 1,)
    """

    model: LinearModel
    movable: IntArray
    among: IntArray
    edges: IntArray

    def hint(self, worker_of_chain: IntArray, schedule: Schedule, chains: Chains) -> IntArray:
        """Return the values of all columns under an assignment."""
        values = np.zeros(self.model.num_columns, np.int64)
        x, z = self.model.column("x"), self.model.column("z")
        at = np.searchsorted(self.among, worker_of_chain[self.movable])
        values[x[np.arange(self.movable.size), at]] = 1
        worker = worker_of_chain[chains.of]
        heaviest = interval_maxima(schedule, worker, self.edges)
        values[z] = np.maximum(heaviest, self.model.lower[z])
        return values

    def assignment(self, solution: IntArray, worker_of_chain: IntArray) -> IntArray:
        """Return the worker of every chain under a solution."""
        moved = worker_of_chain.copy()
        moved[self.movable] = self.among[solution[self.model.column("x")].argmax(axis=1)]
        return moved


def interval_maxima(schedule: Schedule, worker: IntArray, edges: IntArray) -> IntArray:
    """Return ``max_g Σ_{k∈I} L_g(k)`` of every interval, which is at most ``Σ_k M(k)``."""
    sums = np.cumsum(schedule.loads(worker), axis=1)
    padded = np.concatenate((np.zeros((schedule.workers, 1), np.int64), sums), axis=1)
    heaviest: IntArray = (padded[:, edges[1:]] - padded[:, edges[:-1]]).max(axis=0)
    return heaviest


def build_assignment(
    schedule: Schedule,
    chains: Chains,
    movable: IntArray,
    fixed_worker: IntArray,
    edges: IntArray,
    among: IntArray | None = None,
    floor: IntArray | None = None,
) -> AssignmentModel:
    """Build ``min Σ_I z_I`` over the workers of the movable chains.

        ``Σ_g x_cg = 1``,
        ``z_I >= Σ_c (Σ_{k∈I} load_c(k))·x_cg``                  for all I, g,
        ``Σ_{c active} x_cg <= B``                               where a chain starts,

    chains that are not movable adding constants. By Jensen's inequality ``Σ_I z_I`` is a lower
    bound of ``Σ_k M(k)``, exact where one worker leads throughout each interval.

    Parameters
    ----------
    schedule, chains
        The instance.
    movable : ndarray of int64
        Chains to decide on.
    fixed_worker : ndarray of int64, shape (m,)
        Worker of every other chain, -1 for chains to leave out.
    edges : ndarray of int64
        Where intervals begin and end; at least all changes of the active set in between.
    among : ndarray of int64, optional
        Workers to choose from, ascending; all by default. The others only put a floor under
        every ``z_I``, which makes the model of two workers a small one.
    floor : ndarray of int64, shape (K,), optional
        Lower bounds of ``M(k)`` that are known already.
    """
    every = np.arange(schedule.workers)
    among = every if among is None else among
    column = np.full(len(chains), -1, np.int64)
    column[movable] = np.arange(movable.size)
    cells = sk.interval_work(schedule.prompt, schedule.start, schedule.end, chains.of, edges)
    given = _given_loads(cells, column, fixed_worker, (edges.size - 1, schedule.workers))
    low = schedule.interval_bounds(edges)
    if floor is not None:
        low = np.maximum(low, np.add.reduceat(np.append(floor, 0), edges)[:-1])
    others = np.setdiff1d(every, among)
    if others.size:
        low = np.maximum(low, given[:, others].max(axis=1))
    builder = ModelBuilder(Sense.MIN)
    x = builder.add_columns("x", (movable.size, among.size), upper=1, kind=Kind.INTEGER)
    z = builder.add_columns("z", low.shape, lower=low, upper=1 << 48, cost=1, kind=Kind.IMPLIED)
    one = builder.add_rows("one", (movable.size,), lower=1, upper=1)
    builder.add_entries(one[:, None], x, 1)
    _add_loads(builder, cells, column, given[:, among], x, z)
    _add_slots(builder, schedule, chains, column, fixed_worker, x, edges, among)
    return AssignmentModel(model=builder.build(), movable=movable, among=among, edges=edges)


def _given_loads(
    cells: IntArray, column: IntArray, fixed_worker: IntArray, shape: tuple[int, int]
) -> IntArray:
    """Return what the chains that stay bring to every interval and worker."""
    interval, chain, work = cells
    given = np.zeros(shape, np.int64)
    fixed = (column[chain] < 0) & (fixed_worker[chain] >= 0)
    np.add.at(given, (interval[fixed], fixed_worker[chain[fixed]]), work[fixed])
    return given


def _add_loads(
    builder: ModelBuilder,
    cells: IntArray,
    column: IntArray,
    given: IntArray,
    x: IntArray,
    z: IntArray,
) -> None:
    interval, chain, work = cells
    rows = builder.add_rows("load", given.shape, upper=-given)
    builder.add_entries(rows, z[:, None], -1)
    free = column[chain] >= 0
    builder.add_entries(rows[interval[free]], x[column[chain[free]]], work[free][:, None])


def _add_slots(
    builder: ModelBuilder,
    schedule: Schedule,
    chains: Chains,
    column: IntArray,
    fixed_worker: IntArray,
    x: IntArray,
    edges: IntArray,
    among: IntArray,
) -> None:
    inside = (chains.start >= edges[0]) & (chains.start < edges[-1])
    steps = np.unique(np.append(chains.start[inside], edges[0]))
    for number, step in enumerate(steps.tolist()):
        active = np.flatnonzero((chains.start <= step) & (chains.end > step))
        mine = active[column[active] >= 0]
        if not mine.size or active.size <= schedule.slots:
            continue
        others = fixed_worker[active[(column[active] < 0) & (fixed_worker[active] >= 0)]]
        room = schedule.slots - np.bincount(others, minlength=schedule.workers)[among]
        rows = builder.add_rows(f"slots{number}", (among.size,), upper=room)
        builder.add_entries(rows, x[column[mine]], 1)


def crossings(schedule: Schedule, worker: IntArray, edges: IntArray) -> IntArray:
    """Return `edges` with more where the leading worker changes within an interval."""
    loads = schedule.loads(worker)[:, : edges[-1]]
    exact = np.concatenate(([0], np.cumsum(loads.max(axis=0))))
    slack = exact[edges[1:]] - exact[edges[:-1]] - interval_maxima(schedule, worker, edges)
    more = [edges]
    for at in np.flatnonzero(slack > 0).tolist():
        first, last = int(edges[at]), int(edges[at + 1])
        leader = loads[:, first:last].argmax(axis=0)
        more.append(first + 1 + np.flatnonzero(np.diff(leader)))
    return np.unique(np.concatenate(more))
