"""Curves of a model's operators over the tokens of a rank, from their tables.

All ranks do the same: with p tokens on each of G ranks, attention and its projections run on p
tokens, experts and the collectives before and after them on G·p.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Literal

import numpy as np

from brsolver.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from brsolver.hardware.measurements import FloatArray
    from brsolver.hardware.readers.operator_tables import Table
    from brsolver.hardware.shape import Shape

Part = Literal["attention", "projections", "experts", "collectives"]
PARTS: tuple[Part, ...] = ("attention", "projections", "experts", "collectives")
BOUND: tuple[Part, ...] = ("attention", "projections")
"""Parts of a rank's own tokens; the others are of everybody's."""
COLLECTIVES = ("all_gather", "reduce_scatter")
"""Before the experts, so that each rank has everybody's tokens, and after them."""
COLLECTIVE_DTYPE = "half"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curve:
    """What an operator takes in all layers of a step.

    Attributes
    ----------
    part : Part
    tokens : ndarray of float64, shape (K,)
        Of a rank, increasing.
    seconds : ndarray of float64, shape (K,)
    table : str
        Where it is from, for messages.
    """

    part: Part
    tokens: FloatArray
    seconds: FloatArray
    table: str

    @property
    def span(self) -> tuple[float, float]:
        """Least and most tokens that it was measured at."""
        return float(self.tokens[0]), float(self.tokens[-1])

    def at(self, tokens: FloatArray) -> FloatArray:
        """Return seconds between measured points, shape as `tokens`."""
        return np.interp(tokens, self.tokens, self.seconds)


def common_span(curves: list[Curve]) -> tuple[float, float]:
    """Return least and most tokens of a rank at which all operators were measured."""
    return max(each.span[0] for each in curves), min(each.span[1] for each in curves)


def needed(tables: Mapping[str, Table], operator: str) -> Table:
    """Return a table, or refuse that it is missing."""
    if operator not in tables:
        raise ParameterError(
            f"--operators: {operator}_perf is missing, must be beside {', '.join(tables)}"
        )
    return tables[operator]


def attention_operator(shape: Shape, phase: str) -> str:
    """Return the operator that is the model's attention in a phase, context or generation."""
    gqa = shape.attention == "gqa"
    return f"{phase}_attention" if gqa else f"{shape.attention}_{phase}_module"


def attention_rows(tables: Mapping[str, Table], shape: Shape, phase: str) -> Table:
    """Return the rows of the model's attention, ``phase`` being context or generation."""
    found = needed(tables, attention_operator(shape, phase))
    if shape.attention == "gqa":
        return found.where(
            head_dim=float(shape.head_size),
            num_key_value_heads=float(shape.kv_heads),
            num_heads=float(shape.heads),
            window_size=0.0,
            attn_dtype=shape.attention_dtype,
            kv_cache_dtype=shape.kv_dtype,
        )
    return found.where(
        architecture=shape.architecture,
        num_heads=float(shape.heads),
        mla_dtype=shape.attention_dtype,
        kv_cache_dtype=shape.kv_dtype,
        gemm_type=shape.gemm_dtype,
    )


def prefill_attention(tables: Mapping[str, Table], shape: Shape) -> Curve:
    """Return the curve of attention over one chunk with nothing before it."""
    rows = attention_rows(tables, shape, "context").where(batch_size=1.0, step=0.0)
    return _curve("attention", rows, rows.columns["isl"], shape.layers)


def other_curves(tables: Mapping[str, Table], shape: Shape, ranks: int) -> list[Curve]:
    """Return the curves of all but attention, of steps that compute tokens in any phase.

    Parameters
    ----------
    tables : mapping of str to Table
    shape : Shape
    ranks : int
        G: attention is data parallel over so many GPUs, experts parallel.

    Raises
    ------
    ParameterError
        A table is missing, or holds no rows of this model or of so many ranks.
    """
    return [
        *_projections(tables, shape),
        _experts(needed(tables, "moe"), shape, ranks),
        *(_collective(needed(tables, "nccl"), shape, ranks, name) for name in COLLECTIVES),
    ]


def _projections(tables: Mapping[str, Table], shape: Shape) -> Iterator[Curve]:
    """Return matrix products of a rank's own tokens: outputs n, inputs k, in how many layers."""
    gemm = needed(tables, "gemm")
    wanted = [(shape.experts, shape.hidden, shape.moe_layers, shape.router_dtype)]
    if shape.attention == "gqa":
        inner = shape.heads * shape.head_size
        outputs = inner + 2 * shape.kv_heads * shape.head_size
        wanted.append((outputs, shape.hidden, shape.layers, shape.gemm_dtype))
        wanted.append((shape.hidden, inner, shape.layers, shape.gemm_dtype))
    for size, layers in (
        (shape.dense_size, shape.dense_layers),
        (shape.shared_experts * shape.expert_size, shape.moe_layers),
    ):
        if size and layers:
            # Gate and up are one product.
            wanted.append((2 * size, shape.hidden, layers, shape.gemm_dtype))
            wanted.append((shape.hidden, size, layers, shape.gemm_dtype))
    for n, k, layers, dtype in wanted:
        yield _product(gemm.where(gemm_dtype=dtype), n, k, layers)


def _product(rows: Table, n: int, k: int, layers: int) -> Curve:
    """Return a matrix product, between the sizes that were measured around it."""
    corners = [
        (_curve("projections", rows.where(n=at_n, k=at_k), None, layers), mine * other)
        for at_k, mine in _around(rows, "k", k)
        for at_n, other in _around(rows, "n", n)
    ]
    tokens = reduce(np.intersect1d, (curve.tokens for curve, _ in corners))
    if not tokens.size:
        raise ParameterError(f"{rows.path}: products around n {n}, k {k} have no m in common")
    seconds = sum((weight * curve.at(tokens) for curve, weight in corners), np.zeros(tokens.size))
    return Curve(part="projections", tokens=tokens, seconds=seconds, table=rows.path.name)


def _around(rows: Table, name: str, size: int) -> list[tuple[float, float]]:
    """Return the measured sizes around one, and their weights."""
    held = np.unique(rows.columns[name])
    if not held[0] <= size <= held[-1]:
        raise ParameterError(
            f"{rows.path}: {name} is {size:,} in this model, must be from {held[0]:g} to "
            f"{held[-1]:g} as measured"
        )
    above = int(np.searchsorted(held, size))
    if held[above] == size:
        return [(float(size), 1.0)]
    low, high = held[above - 1], held[above]
    part = (size - low) / (high - low)
    return [(float(low), 1 - part), (float(high), part)]


def _experts(moe: Table, shape: Shape, ranks: int) -> Curve:
    rows = moe.where(
        hidden_size=float(shape.hidden),
        inter_size=float(shape.expert_size),
        num_experts=float(shape.experts),
        topk=float(shape.experts_per_token),
        moe_dtype=shape.moe_dtype,
        distribution=shape.distribution,
        moe_tp_size=1.0,
        moe_ep_size=float(ranks),
    )
    # The table counts everybody's tokens.
    return _curve("experts", rows, rows.columns["num_tokens"] / ranks, shape.moe_layers)


def _collective(nccl: Table, shape: Shape, ranks: int, name: str) -> Curve:
    rows = nccl.where(op_name=name, nccl_dtype=COLLECTIVE_DTYPE, num_gpus=float(ranks))
    # Messages are counted in numbers, of all ranks together.
    tokens = rows.columns["message_size"] / (ranks * shape.hidden)
    return _curve("collectives", rows, tokens, shape.moe_layers)


def _curve(part: Part, rows: Table, tokens: FloatArray | None, layers: int) -> Curve:
    # Of several rows at one point the first counts, as in the distribution's own loaders.
    points, first = np.unique(rows.columns["m"] if tokens is None else tokens, return_index=True)
    return Curve(
        part=part,
        tokens=points,
        seconds=layers * rows.seconds[first],
        table=rows.path.name,
    )
