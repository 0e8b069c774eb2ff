"""What of a step is bound to its rank and what all ranks share, from tables of operators.

Attention, its projections and whatever else runs on a rank's own tokens are bound to it; experts
and the collectives around them work on everybody's. With p prefill tokens on every rank,

    bound(p) = b₀ + b₁·p + b₂·p(p+1)/2        shared(p) = s₀ + s₁·p

and ``s₁/(b₁ + s₁)`` is the share of a prefill token that all bear: b₂ is attention over what stands
before a token, which fits of whole steps tell by themselves, and b₀ and s₀ are part of every step.
Lines are fitted by relative errors, and over the upper half of chunk sizes: a small product takes
as long as its launch, which hides what its tokens cost. Likewise for n sequences that read L KV
tokens, ``b₀ + b₁·n + b₂·L`` and ``s₀ + s₁·n``: reading KV is bound to the rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.hardware.curves import (
    BOUND,
    PARTS,
    Part,
    attention_operator,
    attention_rows,
    common_span,
    other_curves,
    prefill_attention,
)
from brsolver.hardware.readers.operator_tables import told
from brsolver.hardware.robust import fit_relative

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.hardware.curves import Curve
    from brsolver.hardware.measurements import FloatArray
    from brsolver.hardware.readers.operator_tables import Table
    from brsolver.hardware.shape import Shape

FEWEST = 2
"""Sizes: a slope needs two."""
UPPER = 0.5
"""Of the largest chunk: from there, work and not its launch sets what products take."""
NOTHING = 1e-6
"""Of what a step takes: what rises by less does not rise."""
FLAT = 1.25
"""By what the largest chunk must at least exceed the smallest in what is bound to its rank."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What operators take in a step of one size.

    Attributes
    ----------
    tokens : float
        On every rank.
    attention_s, projections_s, experts_s, collectives_s : float
        In all layers.
    """

    tokens: float
    attention_s: float
    projections_s: float
    experts_s: float
    collectives_s: float

    @property
    def shared(self) -> float:
        """Share of the whole, attention over the chunk and fixed parts included."""
        shared = self.experts_s + self.collectives_s
        return shared / (shared + self.attention_s + self.projections_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slopes:
    """What one more token or sequence on every rank takes.

    Attributes
    ----------
    shared : float
        Share that all ranks bear, ``s₁/(b₁ + s₁)``.
    range : tuple of float
        Least and most tokens or sequences of a rank that it is from.
    spread : tuple of float
        Least and largest share between neighbouring sizes, of all that were measured.
    each_s : float
        ``b₁ + s₁``, seconds.
    read_s : float
        b₂: a prefill token times a token before it, or a KV token, seconds.
    """

    shared: float
    range: Range
    spread: Range
    each_s: float
    read_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """What operator tables tell of a model.

    Attributes
    ----------
    model : str
    ranks : int
    prefill : Slopes
    sequences : Slopes or None
        None without a table of attention that decodes.
    sizes : tuple of Size
        Of prefill.
    notes : tuple of str
        What was read, and what is left out.
    doubts : tuple of str
        Why shares must not be believed.
    """

    model: str
    ranks: int
    prefill: Slopes
    sequences: Slopes | None
    sizes: tuple[Size, ...]
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def operators_of(
    tables: Mapping[str, Table], shape: Shape, *, ranks: int, prefill: Range, sequences: Range
) -> Operators:
    """Find what is bound and what is shared.

    Parameters
    ----------
    tables : mapping of str to Table
        From `brsolver.hardware.readers.operator_tables.read_tables`.
    shape : Shape
    ranks : int
        Of the server: attention data parallel, one GPU each, experts parallel over all.
    prefill, sequences : tuple of float
        Prefill tokens and decoding sequences of a rank, least and most, in the steps that it is
        for.

    Raises
    ------
    ParameterError
        A table or a size of this model is missing, or fewer than two measured sizes lie within
        the range; names what there is.
    """
    if ranks < 2:
        raise ParameterError(
            f"--operators: ranks are {ranks}, must be at least 2: one rank shares with no other"
        )
    others = other_curves(tables, shape, ranks)
    curves = [prefill_attention(tables, shape), *others]
    chunks = _within("prefill tokens", curves[0].tokens, common_span(curves), prefill)
    parts = _parts(curves, chunks)
    decodes = attention_operator(shape, "generation") in tables
    return Operators(
        model=shape.name,
        ranks=ranks,
        prefill=_prefill_slopes(chunks, parts),
        sequences=_decode_slopes(tables, others, shape, sequences) if decodes else None,
        sizes=tuple(
            Size(tokens=float(tokens), **{f"{part}_s": float(parts[part][at]) for part in PARTS})
            for at, tokens in enumerate(chunks)
        ),
        notes=tuple(_read(tables, shape, decodes=decodes)),
        doubts=tuple(_flat(chunks, parts)),
    )


def _within(what: str, measured: FloatArray, span: Range, wanted: Range) -> FloatArray:
    low, high = max(span[0], wanted[0]), min(span[1], wanted[1])
    found = np.unique(measured[(measured >= low) & (measured <= high)])
    if found.size < FEWEST:
        raise ParameterError(
            f"--operators: {what} of a rank are {span[0]:,.0f} to {span[1]:,.0f} where all "
            f"operators were measured, must hold at least {FEWEST} sizes of the steps to fit, "
            f"{wanted[0]:,.0f} to {wanted[1]:,.0f}"
        )
    return found


def _parts(curves: list[Curve], tokens: FloatArray) -> dict[Part, FloatArray]:
    return {
        part: sum((each.at(tokens) for each in curves if each.part == part), np.zeros(tokens.size))
        for part in PARTS
    }


def _read(tables: Mapping[str, Table], shape: Shape, *, decodes: bool) -> Iterator[str]:
    phases = ("context", "generation") if decodes else ("context",)
    names = ("moe", "nccl", "gemm", *(attention_operator(shape, phase) for phase in phases))
    yield f"operators read: {', '.join(told(tables[name] for name in names))}"
    yield (
        "left out, since no table holds them: norms, rotary embedding, activations, sampling; they "
        "are bound to their rank"
    )
    if not decodes:
        yield f"{attention_operator(shape, 'generation')}_perf is missing: sequences stay bound"


def _flat(chunks: FloatArray, parts: Mapping[Part, FloatArray]) -> Iterator[str]:
    """Say so where a rank's own work hardly grows with its tokens."""
    own = sum((parts[part] for part in BOUND), np.zeros(chunks.size))
    if own[-1] < FLAT * own[0]:
        yield (
            f"attention and projections take {own[0] * 1e3:.0f} ms with {chunks[0]:,.0f} tokens "
            f"and {own[-1] * 1e3:.0f} ms with {chunks[-1]:,.0f}: their launch was measured, not "
            "their work, and the share that all ranks bear is too high"
        )


def _prefill_slopes(chunks: FloatArray, parts: Mapping[Part, FloatArray]) -> Slopes:
    attention, projections = (parts[part] for part in BOUND)
    shared = parts["experts"] + parts["collectives"]
    before = chunks * (chunks + 1) / 2
    # Two sizes tell a line, not attention's bend.
    bends = [before] if chunks.size > FEWEST else []
    mine, *reads = _slopes([chunks, *bends], attention)
    read = float(sum(reads))
    upper = chunks >= min(UPPER * chunks[-1], chunks[-FEWEST])
    (others,) = _slopes([chunks[upper]], projections[upper])
    own = attention - read * before + projections
    found = _told(chunks[upper], shared[upper], float(mine + others), read)
    return _with_spread(found, own, shared)


def _decode_slopes(
    tables: Mapping[str, Table], others: list[Curve], shape: Shape, wanted: Range
) -> Slopes:
    rows = attention_rows(tables, shape, "generation")
    count = rows.columns["batch_size"]
    kv = count * (rows.columns["isl"] + rows.columns["step"])
    sizes = _within("sequences", count, common_span(others), wanted)
    kept = np.isin(count, sizes)
    count, kv = count[kept], kv[kept]
    bound = shape.layers * rows.seconds[kept] + _parts(others, count)["projections"]
    mine, read = _slopes([count, kv], bound)
    parts = _parts(others, sizes)
    shared = parts["experts"] + parts["collectives"]
    own = np.array([np.median((bound - read * kv)[count == each]) for each in sizes])
    return _with_spread(_told(sizes, shared, float(mine), float(read)), own, shared)


def _slopes(loads: list[FloatArray], seconds: FloatArray) -> FloatArray:
    """Return what each load costs, beside a constant."""
    design = np.stack([np.ones_like(seconds), *loads], axis=1)
    return fit_relative(design, seconds, np.zeros_like(seconds))[1:]


def _told(sizes: FloatArray, shared: FloatArray, mine: float, read: float) -> Slopes:
    (all_ranks,) = _slopes([sizes], shared)
    total = mine + float(all_ranks)
    if total * sizes[-1] <= NOTHING * shared[-1]:
        raise ParameterError(
            f"--operators: no operator takes longer from {sizes[0]:,.0f} to {sizes[-1]:,.0f} "
            "tokens of a rank, must for a share of what a token costs"
        )
    share = float(all_ranks) / total
    return Slopes(
        shared=share,
        range=(float(sizes[0]), float(sizes[-1])),
        spread=(share, share),
        each_s=total,
        read_s=read,
    )


def _with_spread(found: Slopes, own: FloatArray, shared: FloatArray) -> Slopes:
    """Add the least and largest share between neighbouring sizes."""
    grows = [(s, b) for s, b in zip(np.diff(shared), np.diff(own), strict=True) if s + b > 0]
    between = [float(np.clip(s / (s + b), 0, 1)) for s, b in grows]
    spread = (min([found.shared, *between]), max([found.shared, *between]))
    return replace(found, spread=spread)
