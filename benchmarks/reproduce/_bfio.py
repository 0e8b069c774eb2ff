"""What the studies of [BFIO] have in common: its public code's step time, workloads, policies.

The constants are those of ``scripts/main.py`` and ``simlib/request_generator.py`` of
``Echoscd/Load-Balancing-Release``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reproduce._cells import Asked, Row
from benchmarks.reproduce._study import BURSTGPT
from benchmarks.reproduce._tables import Interval, over, pick, ratio
from brsolver import SimulationParams
from brsolver.hardware.step_time import StepTime

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.reproduce._study import Scope
    from brsolver.campaign import Cell

PER_TOKEN_S = 1.5 * 2 * 576 * 61e-6 / 2**20
NORMAL = "bfio-normal"
NAMES = {NORMAL: "normal lengths", BURSTGPT: "BurstGPT lengths"}
GENERATIONS = 8
"""Requests per slot, so that filling and draining are as small a part for every G and B."""

FCFS, JSQ = "FCFS", "JSQ"
BASELINES = {FCFS: ("fcfs", None), JSQ: ("jsq-load", None)}
"""Its JSQ goes by KV tokens."""


def bf_io(horizon: int) -> tuple[str, str | None]:
    """Return BF-IO(H), which is given true lengths where it looks ahead, and what it asks."""
    return f"bf-io:horizon={horizon}", "oracle" if horizon else None


def step_time(slots: int) -> StepTime:
    """Return a step's duration there: ``(0.6 ms·B + 35 ms)/16`` and 0.1005 µs per KV token."""
    return StepTime(model="affine", base=(0.6e-3 * slots + 35e-3) / 16, per_token=PER_TOKEN_S)


def workloads(scope: Scope) -> tuple[str, ...]:
    """Return the lengths that there are: normal ones, and BurstGPT's where their file is given."""
    return (NORMAL, *(name for name in scope.given if name == BURSTGPT))


def cells(
    scope: Scope, workers: int, slots: int, policies: dict[str, tuple[str, str | None]]
) -> Iterator[Cell]:
    """Yield the simulations of one G and B."""
    slots_now = scope.slots(slots)
    for workload in workloads(scope):
        given = scope.given.get(workload)
        fingerprint = None if given is None else given.fingerprint()
        for seed in range(scope.seeds):
            params = SimulationParams(
                workers=workers, slots=slots_now, step_time=step_time(slots), seed=seed
            )
            for label, (policy, predictor) in policies.items():
                asked = Asked(
                    trace=workload,
                    requests=GENERATIONS * workers * slots_now,
                    policy=policy,
                    predictor=predictor,
                    params=params,
                )
                yield asked.cell(
                    workload=workload, lengths=fingerprint, G=workers, B=slots, method=label
                )


def joules(row: Row) -> float:
    """Return the energy of a token, over the steps that averages cover."""
    return float(row["energy_j_post"] / row["window_tokens"])


HEADER = ("imbalance", "idle %", "tok/s over FCFS", "TPOT over FCFS", "energy per token over FCFS")


def columns(rows: Sequence[Row], base: Sequence[Row]) -> list[str]:
    """Return the cells of a table's row: what a method does, beside FCFS in the same draws."""
    return [
        over(rows, "avg_imbalance_sum_post").text(),
        over(rows, "idle_rate_post").text(".1f", 100),
        ratio(rows, base, "throughput_tok_s").gain(),
        ratio(rows, base, "tpot_mean_s").gain(),
        ratio(rows, base, joules).gain(),
    ]


def falls(rows: Sequence[Row], base: Sequence[Row]) -> Interval:
    """Return by how many times the imbalance is less than that of `base`."""
    return ratio(base, rows, "avg_imbalance_sum_post")


def methods(rows: Sequence[Row], **key: object) -> dict[str, list[Row]]:
    """Return the rows of each method, in the order of the cells."""
    labels = dict.fromkeys(row["method"] for row in rows)
    found = {label: pick(rows, method=label, **key) for label in labels}
    return {label: each for label, each in found.items() if each}


def present(rows: Sequence[Row]) -> list[str]:
    """Return the workloads that there are rows of."""
    return list(dict.fromkeys(row["workload"] for row in rows))
