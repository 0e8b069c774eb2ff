"""[BR], main table: imbalance, TPOT P95 and throughput of eight methods on two traces, G = 8.

Published: DeepSeek-V3 671B on Ascend 910C, 4 prefill nodes and 1 decode node, one replay per cell;
imbalance is the mean of ``max_g L_g - min_g L_g``.

Here: the simulator, a pool of 4·G that is kept filled, 8 draws. Matched: G, the number of requests,
mean lengths, H, R_max. Differs: traces (surrogates of the published means and, for the
proprietary one, of its predictors' accuracy), step time (50 ms + 0.1 µs per KV token of the
fullest worker), B, the pool, γ = 0.86 and β = α·G; all methods choose from a pool, where the
published baselines are those of a proxy that sends each request on as it comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reproduce import _br as br
from benchmarks.reproduce._pictures import Beside, beside
from benchmarks.reproduce._study import Scope, Study
from benchmarks.reproduce._tables import best, markdown, over, pick, published, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from benchmarks.reproduce._cells import Row
    from brsolver.campaign import Cell

METHODS = {**br.BASELINES, **br.BR0, **br.ORACLE, **br.FORECAST, **br.OURS}
PUBLISHED = {
    br.PROPRIETARY: {
        "Random": (438225, 85.2, 811),
        "Round-Robin": (254798, 83.2, 847),
        "P2C": (262940, 84.0, 836),
        "JSQ": (215110, 83.2, 843),
        "BR-0": (51927, 79.3, 943),
        "BR-H, oracle": (23577, 78.0, 1029),
        "BR-H, Survival": (40757, 78.7, 979),
        "BR-H, ExactMatch": (36277, 78.8, 977),
    },
    br.AZURE: {
        "Random": (146564, 90.3, 706),
        "Round-Robin": (110049, 89.1, 771),
        "P2C": (109033, 89.3, 794),
        "JSQ": (104737, 89.3, 785),
        "BR-0": (54051, 83.3, 854),
        "BR-H, oracle": (35301, 77.3, 957),
        "BR-H, Survival": (44010, 82.1, 893),
        "BR-H, ExactMatch": (38496, 82.3, 909),
    },
}
"""Imbalance in KV tokens, TPOT P95 in ms, tok/s."""
HEADER = (
    "method",
    "imbalance: published", "ours",
    "TPOT P95 ms: published", "ours",
    "tok/s over the best baseline: published", "ours",
)  # fmt: skip


def cells(scope: Scope) -> list[Cell]:
    """Return all methods on both workloads."""
    return [cell for name in br.PUBLISHED for cell in br.cells(scope, name, METHODS)]


def gain_published(workload: str, method: str) -> float | None:
    """Return the published throughput over that of the best published baseline."""
    said = PUBLISHED[workload]
    if method not in said:
        return None
    return said[method][2] / max(said[name][2] for name in br.BASELINES)


def tables(rows: Sequence[Row], scope: Scope) -> dict[str, str]:
    """Return a table per workload."""
    del scope
    return {f"br-table-{name.lower()}": _table(rows, name) for name in br.PUBLISHED}


def _table(rows: Sequence[Row], workload: str) -> str:
    base = best_baseline(rows, workload=workload)
    lines = []
    for method in METHODS:
        each = pick(rows, workload=workload, method=method)
        said = PUBLISHED[workload].get(method, (None, None, None))
        gain = gain_published(workload, method)
        lines.append(
            [
                method,
                published(said[0]),
                over(each, "avg_imbalance_range").text(),
                published(said[1], ".1f"),
                over(each, "tpot_p95_s").text(".1f", 1000),
                "–" if gain is None else f"{100 * gain - 100:+.1f} %",
                ratio(each, base, "throughput_tok_s").gain(),
            ]
        )
    return markdown(HEADER, lines)


def best_baseline(rows: Sequence[Row], **key: object) -> Sequence[Row]:
    """Return the rows of the baseline with the most throughput in the mean."""
    return best((pick(rows, method=name, **key) for name in br.BASELINES), "throughput_tok_s")


def picture(rows: Sequence[Row]) -> Figure:
    """Draw imbalances, published and ours."""
    panels = {}
    for workload in br.PUBLISHED:
        panels[workload] = [
            Beside(
                label=method,
                ours=over(pick(rows, workload=workload, method=method), "avg_imbalance_range"),
                published=PUBLISHED[workload].get(method, (None,))[0],
            )
            for method in METHODS
        ]
    return beside(panels, "imbalance, range form, KV tokens", log=True)


STUDY = Study(
    name="br-table",
    title="[BR]: main table",
    source="[BR] arXiv:2605.06113v2, main table, G = 8",
    cells=cells,
    tables=tables,
    picture=picture,
)
