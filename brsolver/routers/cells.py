"""Cells of workers, each with a router of its own, and d choices between cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from brsolver.cluster.decision import NO_REQUEST, NO_WORKER, as_pairs, refusal
from brsolver.cluster.view import ROOM, ActiveRequests, ClusterView, Waiting
from brsolver.policy import BasePolicy, as_policy
from brsolver.routers._between import NOWHERE, able, choose, draw, standing
from brsolver.routers.cell_params import CellsParams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from brsolver.cluster.view import Cached, IntArray

_NOBODY: IntArray = np.zeros((0, 2), np.int64)


class Cells(BasePolicy):
    """Cells of workers, each with a router of its own; an arrival goes to one of `d` drawn cells.

    Workers are split into cells of `size`, in their order. Every arrival goes to the least loaded
    of `d` cells that are drawn for it, and stays in that cell's pool. Each cell's router decides
    among what waits there, and sees its own workers and nothing else: it is what would run in as
    many processes. Only forecasts are everybody's, since one predictor learns from all that ends.

    Workers that join fill the last cell, then new ones. What waits in a cell whose workers are all
    gone, or of which none can hold it any more, goes to another. One cell of all workers decides
    as its router does.

    Parameters
    ----------
    params : CellsParams, optional
    rng : numpy.random.Generator, optional
        Source of the draws and, by spawning, of what cells' routers draw from; by default one
        seeded with 0.
    """

    __slots__ = (
        "_between",
        "_cell_of",
        "_moved",
        "_requests",
        "_rng",
        "_routers",
        "_spec",
        "holds_s",
        "horizon",
        "params",
    )

    Params: ClassVar[type] = CellsParams
    source = "this project, docs/beyond-one-router.md; Mitzenmacher, IEEE TPDS 12 (2001)"

    def __init__(
        self, params: CellsParams | None = None, *, rng: np.random.Generator | None = None
    ) -> None:
        self.params: CellsParams = params or CellsParams()
        # The first cell's router has the stream itself: alone, it draws what it would by itself.
        self._rng = np.random.default_rng(0) if rng is None else rng
        self._between = self._rng.spawn(1)[0]
        self._spec = self.params.spec
        self._routers: list[BasePolicy] = []
        first = self._router(0)
        self.horizon, self.holds_s = first.horizon, first.holds_s
        self._requests: IntArray = np.zeros(0, np.int64)
        self._cell_of: IntArray = np.zeros(0, np.int64)
        self._moved = 0

    def route(self, cluster: ClusterView, waiting: Waiting) -> IntArray:
        """Let every cell decide about what waits there; see `brsolver.Policy`."""
        if not cluster.table[ROOM].any():
            return _NOBODY
        starts = np.arange(0, cluster.workers, self.params.size)
        if starts.size == 1:
            return as_pairs(self._router(0).route(cluster, waiting), self._router(0))
        at = self._cells(cluster, waiting, starts)
        parts = _Parts(cluster, self.params.size)
        found = [self._decided(parts, cell, waiting, at) for cell in np.unique(at).tolist()]
        pairs = np.concatenate(found)
        self._remember(waiting, at, pairs, immediate=cluster.immediate)
        return pairs

    def notes(self) -> Sequence[str]:
        """Say how many cells there were, and what the first one's router has to say."""
        told = [
            f"cells: {len(self._routers)} router(s) of up to {self.params.size} workers each, "
            f"{self._moved:,} waiting requests went to another cell"
        ]
        told += [f"cell 0: {line}" for line in self._routers[0].notes()]
        return tuple(told)

    def tally(self) -> Mapping[str, float]:
        """Return the sums of what cells' routers count, and who went to another cell."""
        sums: dict[str, float] = {"moved_between_cells": float(self._moved)}
        for router in self._routers:
            for name, count in router.tally().items():
                sums[name] = sums.get(name, 0.0) + count
        return sums

    def _router(self, cell: int) -> BasePolicy:
        while len(self._routers) <= cell:
            rng = self._rng.spawn(1)[0] if self._routers else self._rng
            self._routers.append(as_policy(self._spec.make(rng=rng)))
        return self._routers[cell]

    def _cells(self, cluster: ClusterView, waiting: Waiting, starts: IntArray) -> IntArray:
        """Return the cell of every request: the one it waits in, or one chosen now."""
        at, cells = self._recalled(waiting), standing(cluster, starts)
        fits = able(cells, waiting.prompt_tokens)
        known = at != NOWHERE
        stays = known.copy()
        stays[known] = fits[known, at[known]]
        self._moved += int((known & ~stays).sum())
        if not stays.all():
            brings = cluster.load_of(waiting.prompt_tokens)
            cells = cells.with_pools(at[stays], brings[stays])._replace(mean=float(brings.mean()))
            drawn = draw(fits[~stays], self.params.d, self._between)
            at[~stays] = choose(drawn, cells, brings[~stays], self.params.by)
        return at

    def _recalled(self, waiting: Waiting) -> IntArray:
        """Return the cell in whose pool each request is, `NOWHERE` for those that are new."""
        known, request = self._requests, waiting.request
        if not known.size:
            return np.full(request.shape, NOWHERE, np.int64)
        found = np.minimum(np.searchsorted(known, request), known.size - 1)
        return np.where(known[found] == request, self._cell_of[found], NOWHERE)

    def _remember(
        self, waiting: Waiting, at: IntArray, pairs: IntArray, *, immediate: bool
    ) -> None:
        """Keep who waits where; who is placed and comes back is a new arrival."""
        if immediate:
            return
        left = np.ones(len(waiting), np.bool_)
        left[pairs[:, 0]] = False
        requests, cells = waiting.request[left], at[left]
        order = np.argsort(requests, kind="stable")
        self._requests, self._cell_of = requests[order], cells[order]

    def _decided(self, parts: _Parts, cell: int, waiting: Waiting, at: IntArray) -> IntArray:
        """Ask a cell's router; return its pairs as those of the whole cluster."""
        view, router = parts.view(cell), self._router(cell)
        if not view.table[ROOM].any():
            return _NOBODY
        rows = np.flatnonzero(at == cell)
        own = Waiting(waiting.prompt_tokens[rows], waiting.request[rows], waiting.since[rows])
        pairs = as_pairs(router.route(view, own), router)
        _check(router, view, pairs, rows.size)
        return np.stack((rows[pairs[:, 0]], pairs[:, 1] + cell * self.params.size), axis=1)


def _check(router: BasePolicy, view: ClusterView, pairs: IntArray, requests: int) -> None:
    """Raise `PolicyError` if a router names what is none of its cell's."""
    outside = (pairs < 0) | (pairs >= np.array([requests, view.workers]))
    if outside.any():
        row = int(np.flatnonzero(outside.any(axis=1))[0])
        found = NO_REQUEST if outside[row, 0] else NO_WORKER
        raise refusal(router, view.step, found, row, pairs=pairs, waiting=requests)


class _Parts:
    """The cells' views of a cluster; what costs a pass over all of it is asked for once."""

    def __init__(self, cluster: ClusterView, size: int) -> None:
        self._cluster = cluster
        self._size = size
        self._projected: dict[tuple[int, bool, bool], IntArray] = {}
        self._running: ActiveRequests | None = None

    def view(self, cell: int) -> ClusterView:
        """Return what a cell's router sees: its own workers, from 0 on."""
        whole, low = self._cluster, cell * self._size
        own = slice(low, low + self._size)
        return ClusterView(
            whole.table[:, own].copy(),
            projection=lambda *how: self._projection(own, how),
            active=lambda: self._active(own),
            immediate=whole.immediate,
            step=whole.step,
            clock_s=whole.clock_s,
            clients=whole.clients,
            trust=whole.trust,
            request_tokens=whole.request_tokens,
            costs=whole.costs,
            objectives=whole.objectives,
            cached=self._cached(own),
        )

    def _projection(self, own: slice, how: tuple[int, bool, bool]) -> IntArray:
        if how not in self._projected:
            horizon, growth, survival = how
            self._projected[how] = self._cluster.projection(
                horizon, growth=growth, survival=survival
            )
        return self._projected[how][own].copy()

    def _active(self, own: slice) -> ActiveRequests:
        if self._running is None:
            self._running = self._cluster.active()
        every = self._running
        mine = (every.worker >= own.start) & (every.worker < own.stop)
        return ActiveRequests(
            worker=every.worker[mine] - own.start,
            kv_tokens=every.kv_tokens[mine],
            age=every.age[mine],
            request_tokens=every.request_tokens,
        )

    def _cached(self, own: slice) -> Cached | None:
        cached: Callable[[Waiting], IntArray] | None = self._cluster.cached
        if cached is None:
            return None
        return lambda waiting: np.ascontiguousarray(cached(waiting)[:, own])
