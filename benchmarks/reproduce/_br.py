"""What the studies of [BR] have in common: surrogate workloads, the cluster, its methods.

[BR] says: G = 8 decode workers of DeepSeek-V3 671B, H = 80, R_max = 4, steps of about 60 ms, and
the means of both traces. It does not say the slots per worker, how many requests wait, the α, β, γ
of its table, nor how prompts and outputs spread. B = 72 is what its figures imply where tok/s are
a worker's: 847 tok/s at 83.2 ms per token are 70 requests that run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.reproduce._cells import Asked
from brsolver import SimulationParams
from brsolver.hardware.step_time import StepTime

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.reproduce._study import Scope
    from brsolver.campaign import Cell

SLOTS = 72
STEP_TIME = StepTime(model="affine", base=0.05, per_token=1e-7)
"""The slope is [BFIO]'s; with 50 ms at zero load Round-Robin's TPOT is near the published one."""
PROPRIETARY, AZURE = "proprietary", "Azure-2024"
WIDE = "proprietary, wide prompts"
PUBLISHED = (PROPRIETARY, AZURE)
WIDE_TRACE = "proprietary-like:prompt_std=9000"
WORKLOADS = {
    PROPRIETARY: ("recurring-prompts", 8000),
    AZURE: ("azure2024-long-like", 10_000),
    WIDE: (WIDE_TRACE, 8000),
}
"""Presets in their place, and requests; `br_causes` says why there is a third."""
AS_PUBLISHED = "br-h:projection=expected,gamma=0.86,r_max=4,guard=false"
BASELINES: dict[str, tuple[str, str | None]] = {
    "Random": ("random", None),
    "Round-Robin": ("round-robin", None),
    "P2C": ("p2c", None),
    "JSQ": ("jsq", None),
}
BR0: dict[str, tuple[str, str | None]] = {"BR-0": ("br-0:r_max=4,guard=false", None)}
ORACLE: dict[str, tuple[str, str | None]] = {"BR-H, oracle": (AS_PUBLISHED, "oracle")}
FORECAST: dict[str, tuple[str, str | None]] = {
    "BR-H, Survival": (AS_PUBLISHED, "survival"),
    "BR-H, ExactMatch": (AS_PUBLISHED, "exact"),
}
OURS: dict[str, tuple[str, str | None]] = {
    "`br-0`, our defaults": ("br-0", None),
    "`br-h`, our defaults": ("br-h", None),
}


def cells(
    scope: Scope,
    workload: str,
    methods: Mapping[str, tuple[str, str | None]],
    *,
    workers: int = 8,
    seeds: int | None = None,
    more: Mapping[str, Any] | None = None,
    **key: Any,
) -> Iterator[Cell]:
    """Yield the simulations of one workload; `more` are parameters, `key` columns besides."""
    preset, requests = WORKLOADS[workload]
    given = {"slots": scope.slots(SLOTS), "step_time": STEP_TIME, **(more or {})}
    for seed in range(min(seeds or scope.seeds, scope.seeds)):
        params = SimulationParams(workers=workers, seed=seed, **given)
        for label, (policy, predictor) in methods.items():
            yield Asked(
                trace=preset,
                requests=scope.requests(requests),
                policy=policy,
                predictor=predictor,
                params=params,
            ).cell(workload=workload, G=workers, method=label, **key)
