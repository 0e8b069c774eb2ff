"""Steps that last what a given model says, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from brsolver.hardware.measurements import Measurements, Origin

COSTS = {
    "base": 0.0255,
    "per_sequence": 63e-6,
    "per_kv_token": 41.6e-9,
    "per_prefill_token": 60e-6,
    "per_prefill_context": 3e-9,
}


def lasting(
    loads: Any,
    shared: float = 0.5,
    *,
    dp: int = 4,
    experts: float = 0.0,
    sequence_shared: float = 0.0,
    **costs: float,
) -> Measurements:
    """Return steps with loads of shape (4, K, G) and the durations that costs give them."""
    c = COSTS | costs
    sequences, kv, prefill, context = np.asarray(loads, dtype=np.float64)
    own = (
        (1 - sequence_shared) * c["per_sequence"] * sequences
        + c["per_kv_token"] * kv
        + (1 - shared) * c["per_prefill_token"] * prefill
        + c["per_prefill_context"] * context
    )
    mean = shared * c["per_prefill_token"] * prefill.mean(axis=1)
    mean += sequence_shared * c["per_sequence"] * sequences.mean(axis=1)
    everybody = (sequences + prefill).sum(axis=1) * (dp if sequences.shape[1] == 1 else 1)
    read = c.get("all_experts", 0.0) * (1 - (1 - experts) ** everybody)
    return Measurements(
        sequences=sequences,
        kv_tokens=kv,
        prefill_tokens=prefill,
        prefill_context=context,
        seconds=c["base"] + read + own.max(axis=1) + mean,
        origin=Origin(file="made.parquet", dp=dp),
    )


def grid() -> Any:
    """Return loads of one rank, shape (4, K, 1): decode steps, then prefill steps."""
    decode = [(n, n * s, 0, 0) for n in (64, 96, 128, 256, 384, 512) for s in (16, 128, 512, 1024)]
    prefill = [
        (0, 0, p, p * (k + (p + 1) / 2)) for p in (512, 1024, 2048, 8192) for k in (0, 4096, 32768)
    ]
    return np.array(decode + prefill, dtype=np.float64).T[:, :, None]


def uneven(steps: int, ranks: int, seed: int) -> Any:
    """Return loads of ranks that differ, shape (4, K, G); every third step has prefill."""
    rng = np.random.default_rng(seed)
    shape = (steps, ranks)
    sequences = rng.integers(1, 256, shape)
    kv = sequences * rng.integers(10, 3000, shape)
    some = (np.arange(steps) % 3 == 0)[:, None]
    prefill = rng.integers(0, 2049, shape) * some * (rng.random(shape) < 0.5)
    return np.stack([sequences, kv, prefill, prefill * rng.integers(1, 5000, shape)])
