"""From barrier time to seconds: what each argument proves; proofs in ``docs/bounds.md`` §5."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brsolver.oracles.bounds.as_loads import RankLimits, Totals, as_loads
from brsolver.traces.trace import MAX_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brsolver.hardware.step_time import StepTime
    from brsolver.oracles.bounds.result import Window

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Proofs = dict[str, float]


class Barrier(NamedTuple):
    """What is known of ``M(k)``: in all, of the first steps, and of windows beyond these.

    Attributes
    ----------
    total : int
        ``Σ_k M(k)`` is no less.
    per_step, active : ndarray of int64
        ``LB_k <= M(k)``, and how many requests run.
    windows : sequence of Window
    """

    total: int
    per_step: IntArray
    active: IntArray
    windows: Sequence[Window] = ()


if TYPE_CHECKING:
    BarrierAt = Callable[[int], Barrier]
    """Bounds of the same runs where every prompt is longer by so many tokens."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A trace on a cluster, and how long its steps last.

    Attributes
    ----------
    model : StepTime
    prompt, decodes : ndarray of int64, shape (n,)
        ``s_i`` and decode steps of each request.
    born : int
        Tokens that a request has beyond its prompt at its first decode step.
    totals : Totals
    workers, slots : int
    steps : int
        K, or a lower bound of it.
    chunk : int
        Prefill tokens of a rank's step at most, 0 where prefill is done elsewhere.
    drawn_s : float or None
        Seconds to read experts over the whole run, where the tokens of every step are known.
    """

    model: StepTime
    prompt: IntArray
    decodes: IntArray
    born: int
    totals: Totals
    workers: int
    slots: int
    steps: int
    chunk: int = 0
    drawn_s: float | None = None

    @cached_property
    def loads(self) -> StepTime:
        """Coefficients by which no step lasts longer."""
        heaviest = np.sort(self.prompt + self.born + self.decodes)[-self.slots :]
        limits = RankLimits(
            sequences=self.slots, kv_tokens=int(heaviest.sum()), prefill_tokens=self.chunk
        )
        return as_loads(self.model, self.totals, limits, workers=self.workers, steps=self.steps)

    @cached_property
    def base_s(self) -> float:
        """``C·K``."""
        return self.loads.base * self.steps

    @cached_property
    def parts_s(self) -> tuple[float, float, float]:
        """Seconds of sequences, KV tokens and prefill with every rank at the mean."""
        m, t = self.loads, self.totals
        prefill = (m.per_prefill_token + m.per_mean_prefill_token) * t.prefill_tokens
        context = (m.per_prefill_context + m.per_mean_prefill_context) * t.prefill_context
        sequences = (m.per_sequence + m.per_mean_sequence) * t.sequences
        kv = (m.per_token + m.per_mean_token) * t.kv_tokens
        return sequences / self.workers, kv / self.workers, (prefill + context) / self.workers

    @property
    def total_work_s(self) -> float:
        """``C·K``, all loads spread evenly, and experts."""
        return self.base_s + sum(self.parts_s) + self.experts_s

    @cached_property
    def experts(self) -> tuple[float, float]:
        """Seconds per step and per decoding sequence that reading experts takes at least."""
        return self._chord(self.workers * self.slots)

    def _chord(self, most: int) -> tuple[float, float]:
        """Return seconds per step and per token below those of steps of 1 to `most` tokens.

        ``E·(1 - (1 - q)^N)`` is concave in N, so above its chord.
        """
        first, last = experts_seconds(self.loads, np.array([1, most]))
        slope = (last - first) / max(most - 1, 1)
        return max(float(first - slope), 0.0), float(slope)

    @cached_property
    def experts_s(self) -> float:
        """Seconds to read experts: as they are where that is known, else no more than that.

        Prefill left out, a step reads no more; counted, it may have many more tokens.
        """
        if self.drawn_s is not None:
            return self.drawn_s
        decoded = self.totals.sequences
        each, slope = self.experts
        all_each, all_slope = self._chord(self.workers * max(self.slots, self.chunk))
        return max(
            each * self.steps + slope * decoded,
            all_each * self.steps + all_slope * (decoded + self.totals.prefill_tokens),
        )

    @property
    def always_s(self) -> float:
        """What no routing changes: steps, shared loads and experts."""
        return self.base_s + self.shared_s + self.experts_s

    @cached_property
    def shared_s(self) -> float:
        """What all ranks pay for the mean loads, whoever routes."""
        m, t = self.loads, self.totals
        return (
            m.per_mean_sequence * t.sequences
            + m.per_mean_token * t.kv_tokens
            + m.per_mean_prefill_token * t.prefill_tokens
            + m.per_mean_prefill_context * t.prefill_context
        ) / self.workers

    @cached_property
    def weight(self) -> tuple[int, float]:
        """κ, KV tokens that a sequence weighs: as a whole number, and what is left of it."""
        m = self.loads
        if not (m.per_token and m.per_sequence):
            return 0, 0.0
        exact = Fraction(m.per_sequence) / Fraction(m.per_token)
        whole = min(int(exact), MAX_LENGTH - int(self.prompt.max()))
        return whole, float(exact - whole) * (1 - 1e-15)

    @property
    def pads(self) -> bool:
        """Whether sequences are padded in the steps that only decode, and all do."""
        m = self.loads
        return bool(m.graph_sizes) and not self.chunk and m.per_sequence + m.per_mean_sequence > 0

    @cached_property
    def padded(self) -> FloatArray:
        """Seconds that 0..B sequences of the largest rank cost where they are padded."""
        m = self.loads
        counts = np.arange(self.slots + 1)
        sizes = np.array(m.graph_sizes, np.int64)
        at = np.searchsorted(sizes, counts)
        paid = np.where(at < sizes.size, sizes[np.minimum(at, sizes.size - 1)], counts)
        return (m.per_sequence + m.per_mean_sequence) * paid


def fixed_proofs(case: Case, at: BarrierAt) -> Proofs:
    """Bound runs of which it is known what is active at every step."""
    m, (whole, part) = case.loads, case.weight
    known = at(whole)
    case = replace(case, drawn_s=float(experts_seconds(m, known.active).sum()))
    ranks = -(-known.active // case.workers)
    by_load = m.per_token * (known.per_step + part * (known.active > 0))
    steps = np.maximum(by_load, m.per_sequence * ranks)
    lifts = _lifts(m.per_token, known.windows, steps - by_load)
    proofs = {
        "total work": case.total_work_s,
        "step by step": case.always_s + float(steps.sum()) + lifts,
    }
    light = known if whole == 0 or not (case.pads or _by_tokens(case.model)) else at(0)
    if case.pads:
        padded = float(case.padded[ranks].sum()) + m.per_token * light.total
        proofs["padding"] = case.base_s + padded + _shared_kv_s(case) + case.experts_s
    if _by_tokens(case.model):
        proofs["measured steps"] = float(least_duration(case.model, light.per_step).sum())
    return proofs


def _lifts(per_token: float, windows: Sequence[Window], raised: FloatArray) -> float:
    """Return what windows prove beyond steps that are raised already."""
    gains = (per_token * w.gain - float(raised[w.first : w.end].sum()) for w in windows)
    return sum(max(0.0, gain) for gain in gains)


def _shared_kv_s(case: Case) -> float:
    return case.loads.per_mean_token * case.totals.kv_tokens / case.workers


def _by_tokens(model: StepTime) -> bool:
    return model.model == "table"


def free_proofs(case: Case, at: BarrierAt) -> Proofs:
    """Bound runs that choose whom to admit, and whose number of steps is at least K."""
    m, (whole, part) = case.loads, case.weight
    known = at(whole)
    always = case.always_s
    proofs = {
        "total work": case.total_work_s,
        "barrier": always + m.per_token * (known.total + part * case.steps),
        "largest items": always + largest_items_s(case),
    }
    light = known if whole == 0 or not (case.pads or _by_tokens(case.model)) else at(0)
    if case.pads:
        proofs["padding"] = padded_steps_s(case) + m.per_token * light.total + _shared_kv_s(case)
    if _by_tokens(case.model):
        proofs["measured steps"] = _measured_s(case.model, light.per_step, case.steps)
    return proofs


def _measured_s(model: StepTime, per_step: IntArray, steps: int) -> float:
    known = least_duration(model, per_step).sum()
    unknown = least_duration(model, np.zeros(1, np.int64))[0]
    return float(known + max(0, steps - per_step.size) * unknown)


def rank_prefill_proofs(case: Case, own_s: FloatArray) -> Proofs:
    """Bound every run that computes prompts on its ranks.

    `own_s` is what each request's rank pays for it alone, shape (n,).
    """
    always = case.always_s
    return {
        "total work": case.total_work_s,
        "one request": always + float(own_s.max()),
        "largest items": always + largest_items_s(case),
    }


def own_seconds(case: Case, tokens: IntArray | None, context: IntArray | None) -> FloatArray:
    """Return the seconds that a rank pays for each request, without what all share."""
    m, o, s = case.loads, case.decodes, case.prompt + case.born
    own = m.per_sequence * o + m.per_token * (o * s + o * (o - 1) // 2)
    if tokens is not None and context is not None:
        own = own + m.per_prefill_token * tokens + m.per_prefill_context * context
    return own.astype(np.float64)


def largest_items_s(case: Case) -> float:
    """Return what the largest sequence of every step costs its rank.

    A step holds at most ``P = G·B`` of all decode steps of requests; sorted by load, the j-th
    largest of the steps' largest is at least the ``((j-1)·P + 1)``-th of all.
    """
    m, places = case.loads, case.workers * case.slots
    first = case.prompt + case.born
    size = int((first + case.decodes).max()) + 1
    change = np.bincount(first, minlength=size) - np.bincount(first + case.decodes, minlength=size)
    at_least = np.cumsum(np.cumsum(change)[::-1])[::-1][1:]
    tokens = int((-(-at_least // places)).sum())
    return m.per_token * tokens + m.per_sequence * -(-case.totals.sequences // places)


def padded_steps_s(case: Case) -> float:
    """Return the least ``Σ_k C + (a + ā)·pad(m_k)`` with ``Σ m_k >= O/G`` over at least K steps.

    With experts, at what they take at least. Over K steps it is at least K times the convex hull
    at the mean; that is convex in K, and linear between the K at which the mean is a corner of
    the hull.
    """
    counts = np.arange(1, case.slots + 1)
    each, slope = case.experts
    cost = case.loads.base + each + case.padded[1:]
    corners = _lower_hull(counts, cost)
    needed = case.totals.sequences / case.workers
    least = max(float(case.steps), needed / case.slots)
    tried = [least, *(needed / counts[corners])]
    costs = (
        steps * float(np.interp(max(needed / steps, 1.0), counts[corners], cost[corners]))
        for steps in tried
        if steps >= least
    )
    return float(min(costs)) + slope * case.totals.sequences


def _lower_hull(x: IntArray, y: FloatArray) -> list[int]:
    """Return the corners of the convex hull from below, of points with increasing x."""
    hull: list[int] = []
    for i in range(x.size):
        while len(hull) > 1 and _above(x, y, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def _above(x: IntArray, y: FloatArray, a: int, b: int, c: int) -> bool:
    """Return whether the point b lies on or above the line from a to c."""
    return bool((y[b] - y[a]) * (x[c] - x[a]) >= (y[c] - y[a]) * (x[b] - x[a]))


def experts_seconds(model: StepTime, tokens: IntArray) -> FloatArray:
    """Return ``E·(1 - (1 - q)^N)``: how long a step of N tokens reads experts."""
    asked = 1.0 - np.power(1.0 - model.expert_share, tokens.astype(np.float64))
    return np.asarray(model.all_experts * asked, np.float64)


def least_duration(model: StepTime, loads: IntArray) -> FloatArray:
    """Return the shortest step that a table gives any load of at least `loads`.

    A table of several loads is taken at the shortest duration for each number of KV tokens: what
    lies between is a mean of what is no shorter. It is piecewise linear and never below its end
    beyond it, so it is least at the load itself or at a measured one beyond; beyond the end of a
    table of KV tokens alone it continues as measured.
    """
    measured = np.array(model.seconds).reshape(
        max(len(model.sequences), 1), max(len(model.loads), 1), max(len(model.prefill_tokens), 1)
    )
    seconds = measured.min(axis=(0, 2))
    if not model.loads:
        return np.full(loads.shape, seconds[0])
    at = np.array(model.loads)
    here = np.interp(loads, at, seconds)
    if not (model.sequences or model.prefill_tokens):
        slope = (seconds[-1] - seconds[-2]) / (at[-1] - at[-2])
        here += max(slope, 0.0) * np.maximum(loads - at[-1], 0)
    later = np.append(np.minimum.accumulate(seconds[::-1])[::-1], np.inf)
    least: FloatArray = np.minimum(here, later[np.searchsorted(at, loads)])
    return least
