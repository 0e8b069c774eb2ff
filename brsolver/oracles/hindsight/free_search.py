"""Admission and assignment by exact search over the states of a run, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from brsolver.oracles.hindsight.free import IntArray, check_horizon, total_work_bound
from brsolver.oracles.hindsight.result import CurvePoint, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.oracles.hindsight.weights import FreeWeights
    from brsolver.traces.trace import Trace

ONE = 1 << 24
"""An active request is one integer, ``load·ONE + remaining steps``."""

BEAMS = (200, 5_000)
"""Widths of the searches that look for a plan before the exact one.

The wide one mostly finds the optimum; the exact search is then over in a tenth of its time, and
with a slightly worse plan out of reach.
"""

BEAM_SHARE = 0.4
"""Part of the time after which the exact search begins."""

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    cost: int
    left: int
    work: int
    groups: Groups
    parent: _Node | None
    placed: tuple[tuple[int, int], ...]


def hindsight_free_search(
    trace: Trace,
    *,
    workers: int,
    slots: int,
    pool: int,
    horizon: int,
    work_conserving: bool,
    weights: FreeWeights,
    budget_s: float,
    known: int | None = None,
    max_states: int = 1_500_000,
) -> Outcome:
    """Search the states of a run, layer by layer, for a cheapest plan.

    Between two steps all that matters is which requests have not started and, per worker, the
    loads and remaining steps of those that run; workers are interchangeable. Of all ways to the
    same state the cheapest is kept. A state is dropped if its cost so far plus a lower bound of
    the rest is no better than the best plan known:

        ``per_token·max(⌈W_rest/G⌉, Σ_k M_running(k)) + per_step·max(⌈Σo_rest/(GB)⌉, max o_rest)``.

    Narrow searches (beams) look for a plan first. When time or memory runs out, the least bound
    of the last whole layer is certified.

    Parameters
    ----------
    trace, workers, slots, pool, horizon, work_conserving, weights, budget_s
        As in `hindsight_free`.
    known : int, optional
        Cost of a plan that is known already; only better ones are looked for.
    max_states : int
        States to keep.
    """
    check_horizon(trace, horizon)
    began = perf_counter()
    search = _FreeSearch(
        trace, workers, slots, pool, horizon, work_conserving, weights, began + budget_s
    )
    search.best_cost = known
    floor = total_work_bound(trace, workers, slots, weights)
    try:
        search.look_for_plans(work_conserving, max_states)
        if search.best_cost != floor:
            search.run(None, max_states)
    except KeyboardInterrupt:
        search.message = "interrupted"
    ceiling = _NEVER if search.best_cost is None else search.best_cost
    bound = max(floor, min(search.certified, ceiling))
    none = search.best_cost is None and search.certified >= _NEVER
    now = perf_counter() - began
    worker, start = search.plan()
    return Outcome(
        value=search.best_cost,
        bound=None if none else bound,
        worker=worker,
        start=start,
        infeasible=none,
        solve_s=now,
        origin="search over run states" if bound > floor else "total work",
        curve=(CurvePoint(time_s=now, incumbent=search.best_cost, bound=bound, by="states"),),
        message="" if none or bound == search.best_cost else search.message,
    )


_NEVER = 1 << 62


class _OutOfLimitsError(Exception):
    """Time or room ran out within a layer."""


class _FreeSearch:
    def __init__(
        self,
        trace: Trace,
        workers: int,
        slots: int,
        pool: int,
        horizon: int,
        work_conserving: bool,
        weights: FreeWeights,
        deadline: float,
    ) -> None:
        self.prompt, self.output = trace.prompt_tokens.tolist(), trace.output_tokens.tolist()
        self.workers, self.slots, self.pool = workers, slots, pool
        self.horizon, self.conserving, self.weights = horizon, work_conserving, weights
        self.deadline = deadline
        self.best: _Node | None = None
        self.best_cost: int | None = None
        self.certified = 0
        self.message = ""
        self.ticks = 0
        self.layer = 0
        self.reached: dict[tuple[int, Groups], int] = {}

    def tick(self, room: bool) -> None:
        """Leave the layer when time or room is up; one state may have very many successors."""
        self.ticks += 1
        if not room:
            self.message = "state limit"
            raise _OutOfLimitsError
        if self.ticks % 16 == 0 and perf_counter() > self.deadline:
            self.message = "time limit"
            raise _OutOfLimitsError

    def look_for_plans(self, work_conserving: bool, max_states: int) -> None:
        """Search narrowly, over work-conserving plans first: there are fewer of them."""
        deadline, now = self.deadline, perf_counter()
        self.deadline = now + BEAM_SHARE * (deadline - now)
        for conserving in sorted({True, work_conserving}, reverse=True):
            self.conserving = conserving
            for width in BEAMS:
                self.run(width, max_states)
        self.conserving, self.deadline, self.message = work_conserving, deadline, ""

    def run(self, width: int | None, max_states: int) -> None:
        """Search with layers of at most `width` states, all of them if None."""
        n = len(self.prompt)
        work = sum(o * s + o * (o - 1) // 2 for s, o in zip(self.prompt, self.output, strict=True))
        root = _Node(0, (1 << n) - 1, work, ((),) * self.workers, None, ())
        layer = [root]
        for step in range(self.horizon):
            self.layer = step + 1
            found = self._advance(layer, max_states)
            if found is None:
                if width is None:
                    self.certified = min((self._bound(node) for node in layer), default=_NEVER)
                return
            layer = list(found.values())
            if width is None:
                self.reached.update((key, node.cost) for key, node in found.items())
            elif len(layer) > width:
                layer = sorted(layer, key=self._bound)[:width]
            if not layer:
                break
        if width is None:
            self.certified = _NEVER if self.best_cost is None else self.best_cost

    def _advance(
        self, layer: list[_Node], max_states: int
    ) -> dict[tuple[int, Groups], _Node] | None:
        """Return the next layer; None if time or room ran out."""
        found: dict[tuple[int, Groups], _Node] = {}
        try:
            for node in layer:
                for child in self._children(node, max_states):
                    self._keep(child, found)
                    self.tick(len(found) + len(self.reached) <= max_states)
        except _OutOfLimitsError:
            return None
        return found

    def _keep(self, child: _Node, found: dict[tuple[int, Groups], _Node]) -> None:
        if not child.work:
            self._finish(child)
            return
        key = (child.left, tuple(sorted(child.groups)))
        held = found.get(key)
        if held is not None and child.cost >= held.cost:
            return
        # The same state, reached in fewer steps at no more cost, can do all that this one can.
        if child.cost < self.reached.get(key, _NEVER):
            found[key] = child

    def _finish(self, node: _Node) -> None:
        if self.best_cost is None or node.cost < self.best_cost:
            self.best, self.best_cost = node, node.cost

    def _children(self, node: _Node, max_states: int) -> Iterator[_Node]:
        seen: set[tuple[Groups, tuple[int, ...]]] = set()
        for chosen in self._choices(node):
            for groups, placed in self._placements(node.groups, chosen):
                self.tick(len(seen) <= max_states)
                loads = [sum(v // ONE for v in group) for group in groups]
                if self._wastes_too_much(node, loads):
                    continue
                key = (tuple(sorted(groups)), chosen)
                if key in seen:
                    continue
                seen.add(key)
                child = self._step(node, groups, placed, loads)
                if not self._in_time(child):
                    continue
                if self.best_cost is None or self._bound(child) < self.best_cost:
                    yield child

    def _wastes_too_much(self, node: _Node, loads: list[int]) -> bool:
        """Tell whether a step so unbalanced cannot be part of a better plan.

        The same as the bound of the state after it, by total work alone; most states end here,
        before they are built.
        """
        if self.best_cost is None:
            return False
        envelope = max(loads)
        rest = -(-(node.work - sum(loads)) // self.workers)
        cost = node.cost + self.weights.per_step + self.weights.per_token * (envelope + rest)
        return cost >= self.best_cost

    def _choices(self, node: _Node) -> Iterator[tuple[int, ...]]:
        waiting = [i for i in range(len(self.prompt)) if node.left >> i & 1][: self.pool]
        running = sum(map(len, node.groups))
        most = min(self.workers * self.slots - running, len(waiting))
        least = most if self.conserving else int(running == 0)
        for count in range(most, least - 1, -1):
            yield from combinations(waiting, count)

    def _placements(
        self, groups: Groups, chosen: tuple[int, ...]
    ) -> Iterator[tuple[Groups, tuple[tuple[int, int], ...]]]:
        if not chosen:
            yield groups, ()
            return
        i, rest = chosen[0], chosen[1:]
        item = self.prompt[i] * ONE + self.output[i]
        tried: set[tuple[int, ...]] = set()
        for g, group in enumerate(groups):
            if len(group) < self.slots and group not in tried:
                tried.add(group)
                more = (*groups[:g], tuple(sorted((*group, item))), *groups[g + 1 :])
                for made, placed in self._placements(more, rest):
                    yield made, ((i, g), *placed)

    def _step(
        self,
        node: _Node,
        groups: Groups,
        placed: tuple[tuple[int, int], ...],
        loads: list[int],
    ) -> _Node:
        left = node.left
        for i, _ in placed:
            left &= ~(1 << i)
        after = tuple(tuple(v + ONE - 1 for v in group if v & (ONE - 1) > 1) for group in groups)
        cost = node.cost + self.weights.per_step + self.weights.per_token * max(loads)
        return _Node(cost, left, node.work - sum(loads), after, node, placed)

    def _in_time(self, node: _Node) -> bool:
        """Tell whether what is left can still end within the horizon."""
        return self._steps(node) <= self.horizon - self.layer

    def _bound(self, node: _Node) -> int:
        """Return the cost so far and a lower bound of the rest."""
        rest = -(-node.work // self.workers)
        if self.best_cost is None or node.cost + self.weights.per_token * rest < self.best_cost:
            rest = max(rest, self._running(node.groups))
        bound = node.cost + self.weights.per_token * rest
        if self.weights.per_step:
            bound += self.weights.per_step * self._steps(node)
        return bound

    def _running(self, groups: Groups) -> int:
        """Return ``Σ_k M(k)`` of what runs already."""
        longest = max((v & (ONE - 1) for group in groups for v in group), default=0)
        return sum(
            max(sum(v // ONE + j for v in group if v & (ONE - 1) > j) for group in groups)
            for j in range(longest)
        )

    def _steps(self, node: _Node) -> int:
        """Return how many more steps there are at least."""
        left = [v & (ONE - 1) for group in node.groups for v in group]
        left += [o for i, o in enumerate(self.output) if node.left >> i & 1]
        return max(-(-sum(left) // (self.workers * self.slots)), max(left, default=0))

    def plan(self) -> tuple[IntArray | None, IntArray | None]:
        """Return worker and start of every request in the best plan found."""
        if self.best is None:
            return None, None
        path = []
        node: _Node | None = self.best
        while node is not None and node.parent is not None:
            path.append(node.placed)
            node = node.parent
        worker = np.empty(len(self.prompt), np.int64)
        start = np.empty(len(self.prompt), np.int64)
        for step, placed in enumerate(reversed(path)):
            for i, g in placed:
                worker[i], start[i] = g, step
        return worker, start
