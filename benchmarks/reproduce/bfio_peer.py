"""[BFIO]'s public simulator: imbalance on traces that anyone can draw again.

Published by running it: mean imbalance after departures of its BF-IO with H = 0, 20 and 80, on
uniform lengths from ``numpy.random.default_rng(seed)``, C = 5 ms, t = 0.1 µs, a pool of 4·G. FCFS,
Round-Robin and JSQ are matched to the last digit by tests (test_parity.py) and not shown again.

Here: the same lengths for the first draw, beside its figures; other draws say how far one draw can
be trusted. Nothing differs but the heuristics inside BF-IO that its description leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.reproduce._cells import Asked
from benchmarks.reproduce._pictures import Beside, beside
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import markdown, over, pick, published
from brsolver import SimulationParams
from brsolver.hardware.model import step_time_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A cluster, a recipe of lengths, and what the public simulator printed, by horizon."""

    workers: int
    slots: int
    first: int
    requests: int
    lengths: str
    printed: dict[int, float]

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"G = {self.workers}, B = {self.slots}"


SETTINGS = (
    Setting(
        workers=8, slots=32, first=7, requests=2000, lengths="s_low=50,s_high=8000,o_high=900",
        printed={0: 20736.909923664123, 20: 11481.02438281012, 80: 35699.225875190255},
    ),
    Setting(
        workers=16, slots=72, first=11, requests=3000, lengths="s_low=50,s_high=4000,o_high=400",
        printed={0: 28082.928571428572, 20: 36819.67733990148, 80: 58480.078624078626},
    ),
)  # fmt: skip
METHODS: dict[str, tuple[str | None, int]] = {
    "bf-io:horizon=0": (None, 0),
    "br-0": (None, 0),
    "br-0:guard=false": (None, 0),
    "br-0:r_max=4": (None, 0),
    "bf-io:horizon=20": ("oracle", 20),
    "bf-io:horizon=80": ("oracle", 80),
    "br-h": ("oracle", 80),
    "br-h:guard=false": ("oracle", 80),
    "br-h:r_max=4": ("oracle", 80),
}
"""What each is told, and the horizon of the printed figure that had as much information."""


def cells(scope: Scope) -> list[Cell]:
    """Return both settings, the printed draw first."""
    return [
        Asked(
            trace=f"uniform:{setting.lengths},o_low=10",
            requests=scope.requests(setting.requests),
            policy=policy,
            predictor=predictor,
            params=SimulationParams(
                workers=setting.workers,
                slots=scope.slots(setting.slots),
                step_time=step_time_of("bfio"),
                seed=seed,
            ),
        ).cell(setting=setting.name, method=policy)
        for setting in SETTINGS
        for seed in range(setting.first, setting.first + scope.seeds)
        for policy, (predictor, _) in METHODS.items()
    ]


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return one table: the printed draw, and the mean over draws."""
    del scope
    header, lines = ["method", "told"], [[name, told or "–"] for name, (told, _) in METHODS.items()]
    for setting in SETTINGS:
        header += [f"{setting.name}: printed", "ours, same draw", "ours over draws"]
        for line, (name, (_, horizon)) in zip(lines, METHODS.items(), strict=True):
            each = pick(rows, setting=setting.name, method=name)
            first, printed = float(each[0]["avg_imbalance_sum_post"]), setting.printed[horizon]
            line += [
                f"H = {horizon}: {published(printed)}",
                f"{first:,.0f} (×{first / printed:.2f})",
                over(each, "avg_imbalance_sum_post").text(),
            ]
    return {"bfio-peer": markdown(header, lines)}


def picture(rows: Sequence[Row]) -> Figure:
    """Draw the printed draw's figures beside ours over draws."""
    panels = {}
    for setting in SETTINGS:
        panels[setting.name] = [
            Beside(
                label=name,
                ours=over(pick(rows, setting=setting.name, method=name), "avg_imbalance_sum_post"),
                published=setting.printed[horizon],
            )
            for name, (_, horizon) in METHODS.items()
        ]
    return beside(panels, "imbalance after departures, KV tokens")


STUDY = Study(
    name="bfio-peer",
    title="[BFIO]: the public simulator's own figures",
    source="Echoscd/Load-Balancing-Release, run on rebuildable traces",
    cells=cells,
    tables=tables,
    picture=picture,
)
