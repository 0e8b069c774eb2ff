"""Linear models of one routing decision, formed as arrays.

Variables ``x_{j,k}``: how many requests of length ``s_k`` open worker j is given. Rows common to
both objectives: at most ``room_j`` per worker, at most ``c_k`` of each length, `admit` in all,
and KV tokens where they are limited.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brsolver.cluster.view import NO_LIMIT
from brsolver.oracles.linear_model import INFINITE, Kind, LinearModel, ModelBuilder, Sense
from brsolver.oracles.verify import settle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brsolver.oracles.step.instance import StepInstance

IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """The pairs of open worker and length that a model has columns for.

    Attributes
    ----------
    worker, kind : ndarray of int64, shape (P,)
        Index of the open worker, ascending, and of the length.
    column : ndarray of int64, shape (P,)
    start : ndarray of int64, shape (J + 1,)
        Worker j has the pairs ``start[j]:start[j + 1]``.
    """

    worker: IntArray
    kind: IntArray
    column: IntArray
    start: IntArray

    def of(self, j: int) -> slice:
        """Return the pairs of worker j."""
        return slice(int(self.start[j]), int(self.start[j + 1]))


def score_model(instance: StepInstance, keep: NDArray[np.bool_] | None = None) -> LinearModel:
    """Form ``max Σ_g F_g(Q_g)``.

    F is concave and piecewise linear in ``S = Σ s_k x_k`` (and, under growth, in the number n of
    requests), so a worker needs one column φ below the planes
    ``φ ≤ Σ_h d_h·α·S_h - β·Σ_{h∈A} d_h·(S_h - m_h)``, one for each set A of overflowing steps
    that its reachable sums produce. A worker with at most one request needs no φ: its x have
    the coefficients ``F_g({k})``.

    Parameters
    ----------
    instance : StepInstance
    keep : ndarray of bool, shape (J, K), optional
        Pairs to form columns for; None is all.
    """
    builder = ModelBuilder(Sense.MAX, objective_unit=float(instance.alpha * instance.weight_sum))
    single = instance.most == 1
    cost = np.where(single[:, None], single_scores(instance), 0)
    pairs = _assignment(builder, instance, cost, keep)
    shared = np.flatnonzero(~single)
    if shared.size:
        _add_hypographs(builder, instance, pairs, shared)
    return builder.build()


def imbalance_model(instance: StepInstance, keep: NDArray[np.bool_] | None = None) -> LinearModel:
    """Form ``min Σ_h d_h·(G·M'_h - Σ_g L'_{g,h})`` in envelope increases ``E_h = M'_h - M_h``.

    The objective is a constant, less ``D·s_k + R`` per request admitted, plus
    ``G·Σ_h d_h·E_h`` with ``E_h ≥ S_{g,h} - m_{g,h}``. Steps with the same margins share one E;
    rows that the largest reachable sum cannot make bind are left out; a worker with at most one
    request has the stronger row ``E_h ≥ Σ_k (s_k + h - m_{g,h})_+ x_k``. Arguments as in
    `score_model`.
    """
    builder = ModelBuilder(
        Sense.MIN,
        objective_unit=float(instance.weight_sum),
        offset=standing_imbalance(instance),
    )
    worth = instance.sizes * instance.weight_sum + instance.ramp_sum
    cost = np.broadcast_to(-worth, (instance.open_workers.size, instance.sizes.size))
    pairs = _assignment(builder, instance, cost, keep)
    margins, weights, steps = merged_steps(instance)
    _add_envelope(builder, instance, pairs, margins, weights, steps)
    return builder.build()


def counts_of(
    instance: StepInstance, model: LinearModel, solution: NDArray[np.generic], keep: Mask = None
) -> NDArray[np.generic]:
    """Return ``x_{j,k}``, shape (J, K), of a model's solution."""
    worker, kind = np.nonzero(possible(instance, keep))
    out = np.zeros((instance.open_workers.size, instance.sizes.size), solution.dtype)
    out[worker, kind] = solution[model.column("x")]
    return out


def columns_of(
    instance: StepInstance, model: LinearModel, counts: IntArray, keep: Mask = None
) -> IntArray:
    """Return a model's solution with the given ``x_{j,k}``, shape (J, K)."""
    worker, kind = np.nonzero(possible(instance, keep))
    out = np.zeros(model.num_columns, np.int64)
    out[model.column("x")] = counts[worker, kind]
    return settle(model, out)


def possible(instance: StepInstance, keep: Mask = None) -> NDArray[np.bool_]:
    """Return which pairs of open worker and length have columns, shape (J, K)."""
    fits = instance.kv_sizes[None, :] <= instance.token_limit[:, None]
    return fits if keep is None else fits & keep


# Building, sifting and pricing ask for both of the same decision; one is kept, by identity.
@lru_cache(maxsize=1)
def single_scores(instance: StepInstance) -> IntArray:
    """Return ``F_j({k})`` of every open worker and length, shape (J, K)."""
    sizes = instance.sizes
    out = np.empty((instance.open_workers.size, sizes.size), np.int64)
    total = instance.alpha * (instance.weight_sum * sizes + instance.ramp_sum)
    if instance.growth:
        load = sizes[:, None] + np.arange(instance.weights.size)
        for j, margins in enumerate(instance.margins):
            out[j] = total - instance.beta * (np.maximum(load - margins, 0) @ instance.weights)
        return out
    for j, margins in enumerate(instance.margins):
        order = np.argsort(margins)
        below = np.searchsorted(margins[order], sizes, side="left")
        weight = np.concatenate(([0], np.cumsum(instance.weights[order])))
        moment = np.concatenate(([0], np.cumsum((instance.weights * margins)[order])))
        out[j] = total - instance.beta * (weight[below] * sizes - moment[below])
    return out


def planes(instance: StepInstance, j: int) -> IntArray:
    """Return the planes over ``F_j``, rows ``(a, b, c)`` of ``a·S + b·n + c``, shape (R, 3).

    For each number n of requests that growth tells apart, the sets A of steps with
    ``m_h - h·n < S`` change at the distinct breakpoints in the range that S can reach.
    """
    low, high = (int(end[j]) for end in instance.reach)
    steps = np.arange(instance.weights.size) * instance.growth
    levels = range(int(instance.least[j]), int(instance.most[j]) + 1) if instance.growth else (0,)
    found = [_planes_at(instance, j, n, steps, low, high) for n in levels]
    return np.unique(np.concatenate(found), axis=0)


def _planes_at(
    instance: StepInstance, j: int, n: int, steps: IntArray, low: int, high: int
) -> IntArray:
    margins, weights = instance.margins[j], instance.weights
    bend = margins - steps * n
    order = np.argsort(bend, kind="stable")
    ends = bend[order]
    # A plane ends where the next step starts to overflow; only the last of equals counts.
    taken = np.append(0, np.flatnonzero(np.append(ends[1:] != ends[:-1], True)) + 1)
    starts = np.append(-INFINITE, ends[taken[1:] - 1])
    stops = np.append(starts[1:], INFINITE)
    useful = taken[(starts < high) & (stops > low)]
    if not useful.size:
        useful = taken[:1] if high <= starts[-1] else taken[-1:]
    sums = [
        np.concatenate(([0], np.cumsum(values[order])))[useful]
        for values in (weights, weights * steps, weights * margins)
    ]
    return np.stack(
        (
            instance.alpha * instance.weight_sum - instance.beta * sums[0],
            instance.alpha * instance.ramp_sum - instance.beta * sums[1],
            instance.beta * sums[2],
        ),
        axis=1,
    )


@lru_cache(maxsize=1)
def merged_steps(instance: StepInstance) -> tuple[IntArray, IntArray, IntArray]:
    """Return margins (J, P), weights (P,) and h (P,) with steps of equal margins as one.

    Under growth a new request's load differs from step to step, so none are merged.
    """
    steps = np.arange(instance.weights.size)
    if instance.growth or not instance.margins.size:
        return instance.margins, instance.weights, steps
    margins, inverse = np.unique(instance.margins, axis=1, return_inverse=True)
    weights = np.zeros(margins.shape[1], np.int64)
    np.add.at(weights, inverse.ravel(), instance.weights)
    return margins, weights, np.zeros(margins.shape[1], np.int64)


def standing_imbalance(instance: StepInstance) -> int:
    """Return ``Σ_h d_h·(G·M_h - Σ_g L_{g,h})`` before anything is admitted."""
    idle = instance.workers * instance.envelope - instance.projected.sum(axis=0)
    return int(idle @ instance.weights)


def _assignment(builder: ModelBuilder, instance: StepInstance, cost: IntArray, keep: Mask) -> Pairs:
    """Add x and the rows of slots, lengths, admission and KV tokens."""
    most, counts, admit = instance.most, instance.counts, instance.admit
    worker, kind = np.nonzero(possible(instance, keep))
    upper = np.minimum(most[worker], counts[kind])
    x = builder.add_columns(
        "x", worker.shape, upper=upper, cost=cost[worker, kind], kind=Kind.INTEGER
    )
    start = np.searchsorted(worker, np.arange(most.size + 1))
    pairs = Pairs(worker=worker, kind=kind, column=x, start=start)
    slots = builder.add_rows("slots", most.shape, lower=instance.least, upper=most)
    builder.add_entries(slots[worker], x, 1)
    every = admit == instance.prompts.size
    lengths = builder.add_rows("lengths", counts.shape, lower=counts if every else 0, upper=counts)
    builder.add_entries(lengths[kind], x, 1)
    if admit is not None and not every and admit < most.sum():
        total = builder.add_rows("admit", (1,), lower=admit, upper=admit)
        builder.add_entries(total[0], x, 1)
    _limit_tokens(builder, instance, pairs)
    return pairs


def _limit_tokens(builder: ModelBuilder, instance: StepInstance, pairs: Pairs) -> None:
    limits = instance.token_limit
    bounded = np.flatnonzero((limits < NO_LIMIT) & (instance.most > 1))
    rows = builder.add_rows("tokens", bounded.shape, upper=np.maximum(limits[bounded], 0))
    for row, j in zip(rows, bounded, strict=True):
        own = pairs.of(int(j))
        builder.add_entries(row, pairs.column[own], instance.kv_sizes[pairs.kind[own]])


def _add_hypographs(
    builder: ModelBuilder, instance: StepInstance, pairs: Pairs, shared: IntArray
) -> None:
    unit = float(instance.alpha * instance.weight_sum)
    faces = [planes(instance, int(j)) for j in shared]
    low, high = _phi_bounds(instance, shared)
    phi = builder.add_columns(
        "phi", shared.shape, lower=low, upper=high, cost=1, kind=Kind.IMPLIED, unit=unit
    )
    stacked = np.concatenate(faces)
    rows = builder.add_rows("hypograph", (stacked.shape[0],), upper=stacked[:, 2], unit=unit)
    at = 0
    for column, j, face in zip(phi, shared, faces, strict=True):
        span = rows[at : at + face.shape[0]]
        at += face.shape[0]
        builder.add_entries(span, column, 1)
        own = pairs.of(int(j))
        slope = -(face[:, :1] * instance.sizes[pairs.kind[own]] + face[:, 1:2])
        builder.add_entries(span[:, None], pairs.column[own], slope)


def _phi_bounds(instance: StepInstance, shared: IntArray) -> tuple[IntArray, IntArray]:
    reach = np.maximum(instance.reach[1][shared], 0)
    high = reach * instance.weight_sum + instance.most[shared] * instance.ramp_sum
    return -instance.beta * high, instance.alpha * high


def _add_envelope(
    builder: ModelBuilder,
    instance: StepInstance,
    pairs: Pairs,
    margins: IntArray,
    weights: IntArray,
    steps: IntArray,
) -> None:
    growth = steps * instance.growth
    excess = _excess(instance, margins, steps)
    used = np.flatnonzero((excess > 0).any(axis=0) & (weights > 0))
    rise = builder.add_columns(
        "E",
        used.shape,
        upper=excess[:, used].max(axis=0, initial=0),
        cost=instance.workers * weights[used],
        kind=Kind.IMPLIED,
    )
    for j, h in envelope_steps(instance):
        at = np.searchsorted(used, h)
        own = pairs.of(j)
        load = instance.sizes[pairs.kind[own]] + growth[h][:, None]
        lifted = instance.most[j] == 1
        rows = builder.add_rows(f"E{j}", h.shape, lower=0 if lifted else -margins[j, h])
        builder.add_entries(rows, rise[at], 1)
        over = np.maximum(load - margins[j, h][:, None], 0) if lifted else load
        builder.add_entries(rows[:, None], pairs.column[own], -over)


def envelope_steps(instance: StepInstance) -> Iterator[tuple[int, IntArray]]:
    """Yield each open worker and the merged steps whose envelope it can lift."""
    margins, weights, steps = merged_steps(instance)
    excess = _excess(instance, margins, steps)
    for j in range(margins.shape[0]):
        yield j, np.flatnonzero((excess[j] > 0) & (weights > 0))


def _excess(instance: StepInstance, margins: IntArray, steps: IntArray) -> IntArray:
    """Return by how much each worker's largest reachable sum exceeds its margins, (J, P)."""
    grown = instance.most[:, None] * (steps * instance.growth)[None, :]
    return np.maximum(instance.reach[1][:, None] + grown - margins, 0)
