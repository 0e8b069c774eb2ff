"""Attention tables of LLMServingSim: one layer's kernel, by prefill chunk, batch and KV.

Three layouts are known, of its releases in turn: Vidur's columns with times in ms
(``batch_size, prefill_chunk_size, kv_cache_size, time_stats.attn_prefill.median, …``);
``prefill_chunk, kv_prefill, n_decode, kv_decode, time_us``; and the same with ``layer``,
``prefill_key`` (how far a chunk's tokens look back on average, their own chunk counted in) and
``decode_q_len``. KV lengths are per sequence, times of one layer: what they give is attention's
part of a step, bound to the rank, times the number of layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brsolver.errors import ParameterError
from brsolver.hardware.measurements import Measurements, Origin
from brsolver.hardware.readers.columns import (
    csv_columns,
    duration_column,
    numbers,
    require_columns,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from brsolver.hardware.measurements import FloatArray
    from brsolver.hardware.readers.selection import Selection

VIDUR = ("batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill")
VIDUR_TIMES = {True: "time_stats.attn_prefill.median", False: "time_stats.attn_decode.median"}
"""By whether it is prefill, in ms."""
GRID = ("prefill_chunk", "n_decode", "kv_decode")
LOOKS_BACK = ("kv_prefill", "prefill_key")
"""What says how far a chunk looks back: without its own tokens, or with them."""


def recognises(names: Collection[str]) -> bool:
    """Return whether columns are those of an attention table."""
    return "prefill_chunk" in names or "kv_cache_size" in names


def read(path: Path, selection: Selection) -> Measurements:
    """Read an attention table; see `brsolver.hardware.readers.read_measurements`."""
    if selection.layers < 1:
        raise ParameterError(
            f"{path}: an attention table holds one layer, --layers must say how many the model has"
        )
    texts, rows = csv_columns(path)
    read_layout = _vidur if "kv_cache_size" in texts else _grid
    loads, seconds, notes = read_layout(path, texts, rows)
    told = f"attention only, times {selection.layers} layers: no experts, no other work of a step"
    sequences, kv_tokens, prefill, context = (each[:, None] for each in loads)
    return Measurements(
        sequences=sequences,
        kv_tokens=kv_tokens,
        prefill_tokens=prefill,
        prefill_context=context,
        seconds=seconds * selection.layers,
        origin=Origin(file=str(path), notes=(told, *notes)),
    )


_Read = tuple["tuple[FloatArray, ...]", "FloatArray", "tuple[str, ...]"]


def _grid(path: Path, texts: Mapping[str, Sequence[str]], rows: Sequence[int]) -> _Read:
    require_columns(path, texts, GRID)
    back = [name for name in LOOKS_BACK if name in texts]
    if len(back) != 1:
        raise ParameterError(f"{path}: must have one of the columns {' and '.join(LOOKS_BACK)}")
    time, unit = duration_column(path, texts, "time")
    lens = texts.get("decode_q_len", ["1"] * len(rows))
    # More than one query per sequence is speculative decoding, which is another step.
    single = [at for at, length in enumerate(lens) if length.strip() == "1"]
    kept = [rows[at] for at in single]
    chunk, decodes, kv, looks, seconds = (
        numbers(path, name, [texts[name][at] for at in single], kept, positive=name == time)
        for name in (*GRID, *back, time)
    )
    own = (chunk + 1) / 2 if back == ["kv_prefill"] else 0.5
    loads = (decodes, decodes * kv, chunk, np.where(chunk > 0, chunk * (looks + own), 0.0))
    summed, total = _over_layers(
        loads, seconds * unit, [texts.get("layer", [""] * len(rows))[at] for at in single]
    )
    left = len(rows) - len(single)
    return summed, total, (f"left out {left:,} rows with decode_q_len above 1",) if left else ()


def _over_layers(
    loads: tuple[FloatArray, ...], seconds: FloatArray, layers: Sequence[str]
) -> tuple[tuple[FloatArray, ...], FloatArray]:
    """Add up what several kernels take for the same loads: all of them run on every layer."""
    if len(set(layers)) < 2:
        return loads, seconds
    points, at = np.unique(np.stack(loads, axis=1), axis=0, return_inverse=True)
    kernels = np.bincount(at.ravel())
    whole = kernels == len(set(layers))
    total = np.bincount(at.ravel(), weights=seconds)
    return tuple(points[whole].T), total[whole]


def _vidur(path: Path, texts: Mapping[str, Sequence[str]], rows: Sequence[int]) -> _Read:
    require_columns(path, texts, (*VIDUR, *VIDUR_TIMES.values()))
    flags = [text.strip().lower() for text in texts["is_prefill"]]
    for at, flag in zip(rows, flags, strict=True):
        if flag not in {"true", "false"}:
            raise ParameterError(f"{path}: row {at}: is_prefill is {flag}, must be True or False")
    prefill = np.array([flag == "true" for flag in flags])
    batch, chunk, kv = (numbers(path, name, texts[name], rows) for name in VIDUR[:3])
    times = [texts[VIDUR_TIMES[is_prefill]][at] for at, is_prefill in enumerate(prefill.tolist())]
    seconds = numbers(path, "time_stats", times, rows, positive=True) * 1e-3
    tokens = np.where(prefill, batch * chunk, 0.0)
    loads = (
        np.where(prefill, 0.0, batch),
        np.where(prefill, 0.0, batch * kv),
        tokens,
        tokens * (kv + (chunk + 1) / 2),
    )
    return loads, seconds, ()
