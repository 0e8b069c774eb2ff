"""What a step costs, from measured steps: coefficients, errors, and what cannot be told.

The model is that of `brsolver.hardware.StepTime` with ``model="loads"``,
``Δ = C + max_g Σ_r c_r·x_{r,g} + Σ_r c̄_r·mean_g x_{r,g}``. Steps that only decode give C, c of
sequences and c of KV tokens; steps that compute prefill then give, on top of these, c of prefill
tokens and of prefill × context. Both are fitted by relative errors (`brsolver.hardware.robust`).
Where ranks differ, which rank is the slowest depends on the coefficients: the two are found in
turn, until it no longer changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from brsolver.errors import ParameterError
from brsolver.hardware.identify import (
    context_varies,
    require_experts_vary,
    require_identified,
    shares_told_apart,
)
from brsolver.hardware.robust import fit_relative

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brsolver.hardware.measurements import FloatArray, Measurements
    from brsolver.hardware.operators import Operators

SHARED = 0.5
"""Share of a prefill token that all ranks bear, where nothing tells: half of it is experts."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
CHUNK = 2048
"""Chunk that sensitivities are told of: what vLLM computes in a step by default."""
PREFILL_FROM = 256
"""Prefill tokens below which what experts weigh, not how many tokens they get, sets the time."""
TURNS = 25

Range = tuple[float, float]
Source = Literal["option", "operators", "steps", "one rank", "default"]
"""Where a share is from: given, tables of operators, steps of ranks that differ, or assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Which steps are fitted, and what is taken as given.

    Attributes
    ----------
    sequences : tuple of float or None
        Least and most sequences of the fullest rank of a step that decodes; None is any.
    prefill_tokens : tuple of float or None
        Least and most prefill tokens of the fullest rank of a step that computes prefill; None
        is from `PREFILL_FROM`, or from an eighth of the most that was measured if that is less.
    shared : float or None
        Share of the cost of a prefill token that all ranks bear; None finds the one that fits
        best where ranks differ, and is `SHARED` where they do not; a server of one rank has no
        others.
    experts : float
        Share q of the experts that one token asks for, e.g. 8/256; 0 fits no cost of experts.
    operators : Operators or None
        What tables of single operators tell, in place of `shared`; then sequences have a share
        too.
    """

    sequences: Range | None = None
    prefill_tokens: Range | None = None
    shared: float | None = None
    experts: float = 0.0
    operators: Operators | None = None

    def __post_init__(self) -> None:
        for name in ("sequences", "prefill_tokens"):
            found = getattr(self, name)
            if found is not None and not 0 <= found[0] <= found[1]:
                raise ParameterError(
                    f"{name} is {found[0]:g}:{found[1]:g}, must be LOW:HIGH, LOW at most HIGH"
                )
        if self.shared is not None and not 0 <= self.shared <= 1:
            raise ParameterError(f"shared is {self.shared:g}, must be from 0 to 1")
        if not 0 <= self.experts < 1:
            raise ParameterError(f"experts is {self.experts:g}, must be from 0 to below 1")
        if self.shared is not None and self.operators is not None:
            raise ParameterError(f"shared is {self.shared:g} and operators are given, must be one")

    @property
    def sequence_shared(self) -> float:
        """Share of the cost of a sequence that decodes that all ranks bear; 0 if not told."""
        told = self.operators and self.operators.sequences
        return told.shared if told else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What another share of prefill would mean.

    Attributes
    ----------
    shared : float
        Share of a prefill token's cost that all ranks bear.
    per_prefill_token : float
        What a prefill token costs, in seconds, both parts together.
    median_error : float
        Of the steps with prefill.
    chunk_s : float
        Seconds that a chunk of `CHUNK` tokens on one of the ranks adds to everybody's step.
    """

    shared: float
    per_prefill_token: float
    median_error: float
    chunk_s: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Fit:
    """Coefficients and how well they explain what was measured.

    Attributes
    ----------
    base, per_sequence, per_kv_token : float
        C and c, in seconds.
    per_prefill_token, per_prefill_context : float or None
        What a prefill token costs, with what all ranks bear of it, and a prefill token times a
        token before it; None if that was not measured.
    shared : float
        Share of `per_prefill_token` that all ranks bear.
    shared_known : bool
        Whether the measurements tell `shared`.
    shared_source : Source
        Where `shared` is from.
    decode, prefill : Measurements
        The steps that were fitted.
    decode_errors, prefill_errors : ndarray of float64
        Relative errors of their durations, positive where the fit is too long.
    sensitivity : tuple of Sensitivity
    all_experts, expert_share : float
        E, what reading the weights of all experts takes, and q, the share of them that one token
        asks for: ``E·(1 - (1 - q)^N)`` more with N tokens on all ranks.
    sequence_shared : float
        Share of `per_sequence` that all ranks bear.
    operators : Operators or None
        What both shares are from, if tables of operators.
    """

    base: float
    per_sequence: float
    per_kv_token: float
    per_prefill_token: float | None
    per_prefill_context: float | None
    shared: float
    shared_known: bool
    decode: Measurements
    prefill: Measurements
    decode_errors: FloatArray
    prefill_errors: FloatArray
    sensitivity: tuple[Sensitivity, ...] = ()
    all_experts: float = 0.0
    expert_share: float = 0.0
    shared_source: Source = "default"
    sequence_shared: float = 0.0
    operators: Operators | None = None

    @property
    def bound(self) -> FloatArray:
        """Costs c that are bound to the rank, by load, shape (4,)."""
        prefill = (1 - self.shared) * (self.per_prefill_token or 0.0)
        context = self.per_prefill_context or 0.0
        sequence = (1 - self.sequence_shared) * self.per_sequence
        return np.array([sequence, self.per_kv_token, prefill, context])

    @property
    def request_tokens(self) -> int:
        """KV tokens that a sequence weighs as much as on its rank; 0 if either costs nothing."""
        return round(self.bound[0] / self.per_kv_token) if self.per_kv_token else 0

    def seconds(self, steps: Measurements) -> FloatArray:
        """Return what steps would last, shape (K,)."""
        loads = steps.loads
        mean = loads[2].mean(axis=1) * self.shared * (self.per_prefill_token or 0.0)
        mean += loads[0].mean(axis=1) * self.sequence_shared * self.per_sequence
        total = np.tensordot(self.bound, loads, axes=1).max(axis=1)
        return np.asarray(self.always(steps) + total + mean, dtype=np.float64)

    def always(self, steps: Measurements) -> FloatArray:
        """Return what steps take before any rank's own loads count, shape (K,)."""
        return self.base + self.all_experts * read_experts(steps, self.expert_share)


def read_experts(steps: Measurements, share: float) -> FloatArray:
    """Return the share of experts that any token asks for, ``1 - (1 - q)^N``, shape (K,)."""
    return np.asarray(1 - (1 - share) ** steps.everybody, dtype=np.float64)


def fit_steps(measured: Measurements, limits: Limits | None = None) -> Fit:
    """Fit a step time to measured steps.

    Parameters
    ----------
    measured : Measurements
    limits : Limits, optional

    Returns
    -------
    Fit

    Raises
    ------
    ParameterError
        A load does not vary, or not by itself, so that its cost cannot be told.
    """
    limits = limits or Limits()
    decode = measured.where(_decoding(measured, limits))
    require_identified(measured, decode, limits.sequences)
    require_experts_vary(decode, limits.experts)
    base, per_sequence, per_kv_token, all_experts = _fit_decode(decode, limits).tolist()
    shared, source = _shared(measured, limits)
    fit = Fit(
        base=base,
        per_sequence=per_sequence,
        per_kv_token=per_kv_token,
        per_prefill_token=None,
        per_prefill_context=None,
        shared=shared,
        shared_known=False,
        shared_source=source,
        sequence_shared=limits.sequence_shared,
        operators=limits.operators,
        decode=decode,
        prefill=measured.where(_prefilling(measured, limits)),
        decode_errors=np.empty(0),
        prefill_errors=np.empty(0),
        all_experts=all_experts,
        expert_share=limits.experts,
    )
    fit = replace(fit, decode_errors=fit.seconds(decode) / decode.seconds - 1)
    return _with_prefill(fit) if len(fit.prefill) else fit


def _shared(measured: Measurements, limits: Limits) -> tuple[float, Source]:
    if limits.shared is not None:
        return limits.shared, "option"
    if limits.operators is not None:
        return limits.operators.prefill.shared, "operators"
    return (0.0, "one rank") if measured.origin.dp == 1 else (SHARED, "default")


def ranges_to_fit(measured: Measurements, limits: Limits) -> dict[str, Range]:
    """Return least and most prefill tokens and sequences of a rank that are fitted, by load."""
    found = {"prefill": (PREFILL_FROM, np.inf), "sequences": limits.sequences or (1, np.inf)}
    held = {
        "prefill": measured.where(_prefilling(measured, limits)).prefill_tokens.max(axis=1),
        "sequences": measured.where(_decoding(measured, limits)).sequences.max(axis=1),
    }
    return {
        name: (float(each.min()), float(each.max())) if each.size else found[name]
        for name, each in held.items()
    }


def _decoding(measured: Measurements, limits: Limits) -> NDArray[np.bool_]:
    fullest = measured.sequences.max(axis=1)
    low, high = limits.sequences or (1, np.inf)
    idle = measured.prefill_tokens.sum(axis=1) == 0
    return np.asarray(idle & (fullest >= max(low, 1)) & (fullest <= high))


def _prefilling(measured: Measurements, limits: Limits) -> NDArray[np.bool_]:
    fullest = measured.prefill_tokens.max(axis=1)
    low, high = limits.prefill_tokens or (min(PREFILL_FROM, fullest.max(initial=0) / 8), np.inf)
    return np.asarray((fullest >= max(low, 1)) & (fullest <= high))


def _fit_decode(steps: Measurements, limits: Limits) -> FloatArray:
    """Return C, c of sequences and of KV tokens, and E."""
    loads, share, shared = steps.loads, limits.experts, limits.sequence_shared
    mean = shared * loads[0].mean(axis=1)
    costs = 1 / np.maximum(loads.mean(axis=(1, 2)), 1e-300)
    costs[2:] = 0.0
    rank = np.full(len(steps), -1)
    always = [np.ones(len(steps)), *([read_experts(steps, share)] if share else [])]
    found = np.zeros(4)
    for _ in range(TURNS):
        before, rank = rank, _slowest(loads, costs)
        if np.array_equal(before, rank):
            break
        sequences, kv_tokens, _, _ = _of(loads, rank)
        base, *experts = always
        own = (1 - shared) * sequences + mean
        design = np.stack([base, own, kv_tokens, *experts], axis=1)
        found[: design.shape[1]] = fit_relative(design, steps.seconds, np.zeros(len(steps)))
        costs[:2] = (1 - shared) * found[1], found[2]
    return found


def _slowest(loads: FloatArray, costs: FloatArray) -> NDArray[np.int64]:
    """Return the slowest rank of each step, shape (K,)."""
    return np.asarray(np.tensordot(costs, loads, axes=1).argmax(axis=1), dtype=np.int64)


def _of(loads: FloatArray, rank: NDArray[np.int64]) -> FloatArray:
    """Return the loads of one rank per step, shape (4, K)."""
    return np.asarray(loads[:, np.arange(rank.size), rank])


def _with_prefill(fit: Fit) -> Fit:
    known = shares_told_apart(fit.prefill)
    shares = sorted({*SHARES, *([fit.shared] if fit.operators else [])})
    tried = [_fit_prefill(replace(fit, shared=share)) for share in shares]
    finds = known and fit.shared_source not in ("option", "operators")
    best = min(tried, key=_median_error) if finds else _fit_prefill(fit)
    best = replace(best, shared_source="steps") if finds else best
    alone = fit.prefill.origin.dp == 1
    sensitivity = () if alone else tuple(_sensitivity(each) for each in tried)
    return replace(best, shared_known=known, sensitivity=sensitivity)


def _median_error(fit: Fit) -> float:
    return float(np.median(np.abs(fit.prefill_errors)))


def _fit_prefill(fit: Fit) -> Fit:
    """Find what prefill costs, the share that all ranks bear being given."""
    steps = fit.prefill
    loads = steps.loads
    mean = loads[2].mean(axis=1)
    context = context_varies(steps)
    rank = np.full(len(steps), -1)
    # Until prefill has a cost, the rank with the most of it is the slowest.
    costs = np.array([0.0, 0.0, 1.0, 0.0])
    for _ in range(TURNS):
        before, rank = rank, _slowest(loads, costs)
        if np.array_equal(before, rank):
            break
        mine = _of(loads, rank)
        own = (1 - fit.shared) * mine[2] + fit.shared * mean
        design = np.stack([own, mine[3]] if context else [own], axis=1)
        given = fit.always(steps) + fit.bound[0] * mine[0] + fit.per_kv_token * mine[1]
        given += fit.sequence_shared * fit.per_sequence * loads[0].mean(axis=1)
        found = fit_relative(design, steps.seconds, given)
        fit = replace(
            fit,
            per_prefill_token=float(found[0]),
            per_prefill_context=float(found[1]) if context else None,
        )
        costs = fit.bound
    return replace(fit, prefill_errors=fit.seconds(steps) / steps.seconds - 1)


def _sensitivity(fit: Fit) -> Sensitivity:
    ranks = max(fit.prefill.origin.dp, fit.prefill.ranks)
    cost = fit.per_prefill_token or 0.0
    return Sensitivity(
        shared=fit.shared,
        per_prefill_token=cost,
        median_error=_median_error(fit),
        chunk_s=CHUNK * cost * (1 - fit.shared + fit.shared / ranks)
        + CHUNK * (CHUNK + 1) / 2 * (fit.per_prefill_context or 0.0),
    )
