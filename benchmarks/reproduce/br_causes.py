"""[BR], what its proprietary column is made of: conditions added to ours one by one, G = 8.

The published column differs from `br_table`'s in three ways that it does not explain by itself:
imbalances are several times as large, throughput grows by more than TPOT falls (BR-0: +11 % and
-5 %), and so more requests run at once. Each step below adds one condition that a server has and
`br_table` has not, on a surrogate without its recurring prompts:

- *wide*: prompts with a standard deviation of 9,000 tokens instead of 2,600, the same mean;
- *sent on*: 700 clients in a closed loop; Random, Round-Robin, P2C and JSQ send each request on at
  once, BR-0 and BR-H choose among those that no worker has room for;
- *memory*: 350,000 KV tokens per worker instead of 72 slots, preemption where they run out.

A second table asks why an oracle brings so little over BR-0 here: by the discount γ, and by what is
looked at, four waiting requests or all of them (``s_greedy=0``: always the first stage).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.reproduce import _br as br
from benchmarks.reproduce._cells import Asked
from benchmarks.reproduce._pictures import Beside, beside
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import Interval, markdown, over, pick, ratio
from benchmarks.reproduce.br_table import PUBLISHED, best_baseline, gain_published
from brsolver import SimulationParams
from brsolver.simulator import Arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell

REQUESTS, WORKERS, CLIENTS = 8000, 8, 700
ROUTERS = {**br.BR0, **br.ORACLE}
METHODS = {**br.BASELINES, **ROUTERS}
_ORACLE = "br-h:projection=expected,r_max=4,guard=false,gamma="
LOOKS: dict[str, tuple[str, str, str | None]] = {
    "BR-0": ("first four", "br-0:r_max=4,guard=false", None),
    "BR-H, oracle, γ = 0.86": ("first four", f"{_ORACLE}0.86", "oracle"),
    "BR-H, oracle, γ = 0.99": ("first four", f"{_ORACLE}0.99", "oracle"),
    "BR-0 ": ("all", "br-0:r_max=4,guard=false,s_greedy=0", None),
    "BR-H, oracle, γ = 0.86 ": ("all", f"{_ORACLE}0.86,s_greedy=0", "oracle"),
    "BR-H, oracle, γ = 0.99 ": ("all", f"{_ORACLE}0.99,s_greedy=0", "oracle"),
}
"""Which of the waiting requests are looked at, what looks, and what it is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a step of the study has: a workload, slots, clients, memory."""

    name: str
    trace: str = br.WIDE_TRACE
    slots: int = br.SLOTS
    clients: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def params(self, scope: Scope, seed: int, *, chooses: bool) -> SimulationParams:
        """Return the parameters of a run; who `chooses` sees the queue."""
        clients = self.clients and max(WORKERS * 6, round(self.clients * scope.share))
        return SimulationParams(
            workers=WORKERS,
            slots=scope.slots(self.slots),
            step_time=br.STEP_TIME,
            arrivals=Arrivals(mode="closed", concurrency=clients) if clients else Arrivals(),
            routing="pooled" if chooses or not clients else "immediate",
            seed=seed,
            **self.more,
        )


LOOKING = "by what is looked at"
CONDITIONS = (
    Condition(name="no recurring prompts", trace="proprietary-like"),
    Condition(name="wide"),
    Condition(name="wide, sent on", clients=CLIENTS),
    Condition(name="wide, sent on, memory", clients=CLIENTS, slots=256, more={"capacity": 350_000}),
)


def cells(scope: Scope) -> list[Cell]:
    """Return all conditions."""
    looks = {name: what[1:] for name, what in LOOKS.items()}
    return [*_cells(scope), *br.cells(scope, br.PROPRIETARY, looks, condition=LOOKING)]


def _cells(scope: Scope) -> Iterator[Cell]:
    for condition in CONDITIONS:
        for seed in range(scope.seeds):
            for method, (policy, predictor) in METHODS.items():
                params = condition.params(scope, seed, chooses=method in ROUTERS)
                yield Asked(
                    trace=condition.trace,
                    requests=scope.requests(REQUESTS),
                    policy=policy,
                    predictor=predictor,
                    params=params,
                ).cell(condition=condition.name, method=method)


def running(row: Row) -> float:
    """Return the requests that run, of a worker and in the mean over steps."""
    return float(row["window_tokens"] / row["window_steps"] / WORKERS)


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return one table: published, and step by step."""
    del scope
    lines = [_published(method) for method in ROUTERS]
    for condition in CONDITIONS:
        base = best_baseline(rows, condition=condition.name)
        for method in ROUTERS:
            each = pick(rows, condition=condition.name, method=method)
            lines.append(
                [
                    condition.name,
                    method,
                    over(base, "avg_imbalance_range").text(),
                    over(each, "avg_imbalance_range").text(),
                    ratio(each, base, "throughput_tok_s").gain(),
                    ratio(each, base, "tpot_p95_s").gain(),
                    ratio(each, base, running).gain(),
                ]
            )
    header = (
        "condition", "method", "imbalance of the best baseline", "of the method",
        "tok/s", "TPOT P95", "requests that run",
    )  # fmt: skip
    return {"br-causes": markdown(header, lines), "br-looks": _looks(rows)}


def _looks(rows: Sequence[Row]) -> str:
    said, lines = PUBLISHED[br.PROPRIETARY], []
    oracle, zero = said["BR-H, oracle"][0], said["BR-0"][0]
    lines.append(["*published*", "BR-H, oracle", f"{oracle:,}", f"×{oracle / zero:.2f}", "+9.1 %"])
    base: Sequence[Row] = []
    for name, (looked_at, _, _) in LOOKS.items():
        each = pick(rows, condition=LOOKING, method=name)
        base = each if name.startswith("BR-0") else base
        lines.append(
            [
                looked_at,
                name.strip(),
                over(each, "avg_imbalance_range").text(),
                f"×{ratio(each, base, 'avg_imbalance_range').text('.2f')}",
                ratio(each, base, "throughput_tok_s").gain(),
            ]
        )
    return markdown(("looked at", "method", "imbalance", "over BR-0's", "tok/s over BR-0"), lines)


def _published(method: str) -> list[str]:
    said = PUBLISHED[br.PROPRIETARY]
    base = max((said[name] for name in br.BASELINES), key=lambda row: row[2])
    rate, tpot = said[method][2] / base[2], said[method][1] / base[1]
    # Little's law: what runs is tokens per second times seconds per token, P95 for the mean.
    texts = (f"{100 * value - 100:+.1f} %" for value in (rate, tpot, rate * tpot))
    return ["*published*", method, f"{base[0]:,}", f"{said[method][0]:,}", *texts]


def picture(rows: Sequence[Row]) -> Figure:
    """Draw throughput over the best baseline, step by step."""
    panels = {}
    for method in ROUTERS:
        said = gain_published(br.PROPRIETARY, method)
        assert said is not None  # noqa: S101 # both are in the table
        panels[method] = [
            Beside(
                label=condition.name,
                ours=_gain(rows, condition.name, method),
                published=100 * said - 100,
            )
            for condition in CONDITIONS
        ]
    return beside(panels, "tok/s over the best baseline, per cent")


def _gain(rows: Sequence[Row], condition: str, method: str) -> Interval:
    base = best_baseline(rows, condition=condition)
    each = ratio(pick(rows, condition=condition, method=method), base, "throughput_tok_s")
    return Interval(100 * each.mean - 100, 100 * each.half)


STUDY = Study(
    name="br-causes",
    title="[BR]: what the differences come from",
    source="[BR] arXiv:2605.06113v2, main table, proprietary trace",
    cells=cells,
    tables=tables,
    picture=picture,
)
