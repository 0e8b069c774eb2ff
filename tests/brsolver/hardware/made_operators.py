"""Operator tables of a small model whose costs are straight lines, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brsolver.hardware.operators import Operators, Slopes
from brsolver.hardware.readers.operator_tables import OPTIONAL, TEXTS, Table
from brsolver.hardware.shape import Shape

RANKS = 4
CHUNKS = (256, 512, 1024, 2048, 4096)
BATCHES = (32, 64, 128, 256)
SHAPE = Shape(
    name="org/Mini-1",
    layers=3,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_size=16,
    experts=8,
    experts_per_token=2,
    expert_size=32,
    gemm_dtype="fp8",
    moe_dtype="fp8",
    kv_dtype="fp8",
    distribution="balanced",
)
SHAPE_TOML = """[model]
name = "org/Mini-1"
layers = 3
hidden = 64
heads = 4
kv_heads = 2
head_size = 16
experts = 8
experts_per_token = 2
expert_size = 32
gemm_dtype = "fp8"
moe_dtype = "fp8"
kv_dtype = "fp8"
distribution = "balanced"
"""
PRODUCT, EXPERTS, MESSAGE = 2e-9, 3e-5, 4e-8
"""Milliseconds a layer: of m·n·k, of a token of everybody, of a number in a message."""
PREFILL, BEFORE = 1e-4, 2e-7
"""Of a token of a chunk, and times a token before it."""
DECODE, READ = 3e-4, 5e-7
"""Of a sequence, and of a KV token."""
ABOUT = {"framework": "VLLM", "version": "0.24.0", "device": "a GPU", "kernel_source": "some"}

Rows = dict[str, list[dict[str, Any]]]


def made_rows(experts: float = EXPERTS, product: float = PRODUCT) -> Rows:
    """Return rows by operator, with rows of other models, formats and ranks among them."""
    return {
        "gemm": [
            {"gemm_dtype": dtype, "m": m, "n": n, "k": k}
            | {"latency": 0.001 + product * m * n * k * factor}
            for dtype, factor in (("bfloat16", 1), ("fp8", 1), ("int4", 9))
            for m in (1, 256, 4096, 8192)
            for n in (4, 64, 256, 512)
            for k in (32, 64, 128)
        ],
        "moe": [
            {"moe_dtype": "fp8", "num_tokens": tokens, "hidden_size": hidden, "inter_size": 32}
            | {"topk": 2, "num_experts": 8, "moe_tp_size": 1, "moe_ep_size": ranks}
            | {"distribution": "balanced", "latency": 0.2 + experts * tokens * hidden / 64}
            for tokens in (1, 1024, 16384)
            for hidden in (32, 64)
            for ranks in (2, 4)
        ],
        "nccl": [
            {"nccl_dtype": "half", "num_gpus": ranks, "message_size": size, "op_name": name}
            | {"latency": 0.005 + MESSAGE * size}
            for name in ("all_gather", "all_reduce", "reduce_scatter")
            for ranks in (2, 4)
            for size in (256, 1 << 21)
        ],
        "context_attention": [
            attention(batch, chunk, 0)
            | {"latency": 0.01 + batch * (PREFILL * chunk + BEFORE * chunk * (chunk + 1) / 2)}
            for batch in (1, 2)
            for chunk in CHUNKS
        ],
        "generation_attention": [
            attention(batch, 1, step) | {"latency": 0.02 + batch * (DECODE + READ * (1 + step))}
            for batch in BATCHES
            for step in (7, 255, 4095)
        ],
    }


def attention(batch: int, isl: int, step: int) -> dict[str, Any]:
    sizes = {"batch_size": batch, "isl": isl, "step": step, "num_heads": 4, "head_dim": 16}
    formats = {"attn_dtype": "bfloat16", "kv_cache_dtype": "fp8"}
    return {**sizes, "num_key_value_heads": 2, **formats}


def module_rows(operator: str, *, prefill: bool) -> list[dict[str, Any]]:
    """Return rows of a module: attention with its projections, with its variants' among them."""
    decodes = [(n, 1, s) for n in BATCHES for s in (7, 99)]
    same = {"num_heads": 4, "mla_dtype": "bfloat16", "kv_cache_dtype": "fp8", "gemm_type": "fp8"}
    return [
        same
        | {"batch_size": batch, "isl": isl, "step": step, "op_name": name, "architecture": arch}
        | {"latency": 0.1 + cost * (1e-3 * isl * batch + 1e-6 * batch * step)}
        for batch, isl, step in ([(1, c, 0) for c in CHUNKS] if prefill else decodes)
        for name, arch, cost in (
            (f"{operator}_skip_indexer", "MiniDsa", 0.5),
            (operator, "OtherDsa", 7),
            (operator, "MiniDsa", 1),
        )
    ]


def table(operator: str, rows: list[dict[str, Any]]) -> Table:
    """Return rows as they are once read."""
    columns = {
        name: np.array([row[name] for row in rows], dtype=object if name in TEXTS else np.float64)
        for name in rows[0]
        if name != "latency"
    }
    for name, value in OPTIONAL.items():
        columns.setdefault(name, np.full(len(rows), value))
    return Table(
        operator=operator,
        path=Path(f"{operator}_perf.parquet"),
        engine="VLLM",
        version="0.24.0",
        columns=columns,
        seconds=np.array([row["latency"] for row in rows]) * 1e-3,
    )


def write(folder: Path, rows: Rows, suffix: str = ".parquet", **about: str) -> Path:
    """Write tables into a folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for operator, mine in rows.items():
        whole = [{**ABOUT, **about, "op_name": operator, **row} for row in mine]
        path = folder / f"{operator}_perf{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(whole), path)
        else:
            lines = [",".join(whole[0]), *(",".join(map(str, row.values())) for row in whole)]
            path.write_text("\n".join(lines) + "\n")
    return folder


def told(shared: float, sequences: float | None = None) -> Operators:
    """Return what operators would tell of these shares."""
    mine = Slopes(shared=shared, range=(2, 4), spread=(shared, shared), each_s=1e-5, read_s=1e-9)
    decode = None
    if sequences is not None:
        decode = Slopes(
            shared=sequences, range=(2, 4), spread=(sequences, sequences), each_s=1e-4, read_s=1e-9
        )
    return Operators(model="org/Mini-1", ranks=4, prefill=mine, sequences=decode, sizes=())
