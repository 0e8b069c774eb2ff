"""What a board says of each policy: means over its cells against the baseline, gaps, losses."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from brsolver.results.comparison import mean_and_half_width

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Kind = Literal["saturated", "by arrivals"]
Row = dict[str, Any]
KINDS: tuple[Kind, ...] = ("saturated", "by arrivals")
LOSS = 0.02
"""Share by which a cell's score is below 1 before it counts as lost: with one seed nothing is known
of noise (`brsolver.results.deciding.WITHOUT_INTERVALS`)."""
SCORED_BY: Mapping[Kind, tuple[str, str]] = {
    "saturated": ("throughput_tok_s", "throughput over the baseline's"),
    "by arrivals": ("e2e_p95_s", "the baseline's end-to-end P95 over its own"),
}
"""By which figure a cell is scored, and in words; above 1 is better than the baseline."""
_CELL = ("trace", "prefill", "regime", "hardware", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A policy's cells of one way of prefill and one kind of regime.

    Attributes
    ----------
    prefill : str
    kind : {"saturated", "by arrivals"}
    cells : int
        Of which there are figures for it and for the baseline.
    score : float
        Geometric mean of its cells' scores, see `SCORED_BY`.
    score_half_width : float
        Half its 95 % interval over seeds (Student's t); NaN with one.
    tpot, ttft : float
        Geometric means of its mean TPOT and its TTFT P99 over the baseline's; below 1 is better.
    gap : float
        Geometric mean of ``1 + gap``, less 1: seconds beyond the bound of all runs.
    routing_gap : float
        The same beyond the best assignment of what each run admitted, when it did.
    lost : float
        Mean share of time lost at the barrier.
    certified : bool
        Whether the bound holds for every run of it.
    """

    prefill: str
    kind: Kind
    cells: int
    score: float
    score_half_width: float
    tpot: float
    ttft: float
    gap: float
    routing_gap: float
    lost: float
    certified: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One policy's line.

    Attributes
    ----------
    policy, routing : str
    cells, failed : int
        Cells that there are for it, and those of which there are no figures.
    score, score_half_width : float
        Geometric mean of all its cells' scores, half its 95 % interval over seeds.
    parts : tuple of Part
    worst : float
        Least score of a cell, and in which: `worst_in`.
    worst_in : str
    losses : int
        Cells with a score of less than ``1 - LOSS``.
    loses_in : tuple of str
        Traces with prefill and regime in which it does, most cells first.
    decision_us : float
        Median over cells of the median latency of a decision, by this machine's clock.
    """

    policy: str
    routing: str
    cells: int
    failed: int
    score: float
    score_half_width: float
    parts: tuple[Part, ...]
    worst: float
    worst_in: str
    losses: int
    loses_in: tuple[str, ...]
    decision_us: float

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.policy}@{self.routing}"

    def part(self, prefill: str, kind: Kind) -> Part | None:
        """Return its part, if it has cells there."""
        return next((p for p in self.parts if (p.prefill, p.kind) == (prefill, kind)), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "parts": [part.to_dict() for part in self.parts]}


def kind_of(row: Mapping[str, Any]) -> Kind:
    """Return which kind of regime a row is of: its requests come at a rate, or from a pool."""
    return "saturated" if row.get("rate_req_s") is None else "by arrivals"


def standings(
    rows: Sequence[Mapping[str, Any]], baseline: tuple[str, str], failed: str
) -> tuple[Standing, ...]:
    """Make a line per policy, best first.

    Means over other cells cannot be compared: policies that run in fewer places come after the
    others, and those without figures for some of their cells after these.

    Parameters
    ----------
    rows : sequence of mapping
        Of the board's results.
    baseline : (str, str)
        Policy and routing.
    failed : str
        Column that says why a row has no figures.
    """
    scored = scored_rows(rows, baseline, failed)
    lines = []
    for policy, routing in dict.fromkeys(map(_who, rows)):
        own = [row for row in rows if _who(row) == (policy, routing)]
        known = [row for row in scored if _who(row) == (policy, routing)]
        lines.append(_standing(policy, routing, own, known, failed))
    most = max((one.cells for one in lines), default=0)
    return tuple(
        sorted(lines, key=lambda one: (one.failed > 0, one.cells < most, -_or_least(one.score)))
    )


def scored_rows(
    rows: Sequence[Mapping[str, Any]], baseline: tuple[str, str], failed: str
) -> list[Row]:
    """Return the rows with figures, with ``kind``, ``score`` and ratios to the baseline's cell."""
    whole = [row for row in rows if row.get(failed) is None]
    base = {_where(row): row for row in whole if _who(row) == baseline}
    return [{**row, **_against(row, base.get(_where(row)))} for row in whole]


def _against(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> Row:
    kind = kind_of(row)
    name, _ = SCORED_BY[kind]
    ratio = _ratio(row, base, name)
    return {
        "kind": kind,
        "score": ratio if kind == "saturated" else _inverse(ratio),
        "tpot_ratio": _ratio(row, base, "tpot_mean_s"),
        "ttft_ratio": _ratio(row, base, "ttft_p99_s"),
    }


def _standing(
    policy: str, routing: str, own: list[Mapping[str, Any]], known: list[Row], failed: str
) -> Standing:
    scores = [row for row in known if math.isfinite(row["score"])]
    worst = min(scores, key=lambda row: row["score"], default=None)
    lost = [row for row in scores if row["score"] < 1 - LOSS]
    return Standing(
        policy=policy,
        routing=routing,
        cells=len(own),
        failed=sum(row.get(failed) is not None for row in own),
        score=geometric(row["score"] for row in scores),
        score_half_width=over_seeds(scores),
        parts=tuple(_parts(known)),
        worst=math.nan if worst is None else worst["score"],
        worst_in="" if worst is None else cell_name(worst),
        losses=len(lost),
        loses_in=_most_frequent(lost),
        decision_us=_median(row["dispatch_us_p50"] for row in known),
    )


def _parts(known: list[Row]) -> Iterable[Part]:
    for prefill in dict.fromkeys(row["prefill"] for row in known):
        for kind in KINDS:
            rows = [row for row in known if (row["prefill"], row["kind"]) == (prefill, kind)]
            if rows:
                yield _part(prefill, kind, rows)


def _part(prefill: str, kind: Kind, rows: list[Row]) -> Part:
    beyond = [row["routing_gap"] for row in rows if row.get("routing_gap") is not None]
    return Part(
        prefill=prefill,
        kind=kind,
        cells=sum(math.isfinite(row["score"]) for row in rows),
        score=geometric(row["score"] for row in rows),
        score_half_width=over_seeds(rows),
        tpot=geometric(row["tpot_ratio"] for row in rows),
        ttft=geometric(row["ttft_ratio"] for row in rows),
        gap=geometric(1 + row["gap"] for row in rows) - 1,
        routing_gap=geometric(1 + value for value in beyond) - 1,
        lost=_mean(row["time_lost_share"] for row in rows),
        certified=all(row["certified"] for row in rows),
    )


def geometric(values: Iterable[float]) -> float:
    """Return the geometric mean of the positive, finite values; NaN if there is none."""
    known = [value for value in values if math.isfinite(value) and value > 0]
    return math.exp(statistics.fmean(map(math.log, known))) if known else math.nan


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return half the 95 % interval of the mean score over seeds; NaN with one.

    Seeds that have not all cells are left out: theirs are means of something else.
    """
    by_seed: dict[int, dict[str, float]] = {}
    for row in rows:
        if math.isfinite(row["score"]):
            by_seed.setdefault(row["seed"], {})[cell_name(row)] = row["score"]
    cells = set().union(*by_seed.values())
    means = [geometric(found.values()) for found in by_seed.values() if found.keys() == cells]
    return mean_and_half_width(means)[1]


def cell_name(row: Mapping[str, Any]) -> str:
    """Say which cell a row is of, its seed aside."""
    return ", ".join(str(row[name]) for name in _CELL if name != "seed")


def _most_frequent(rows: list[Row]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for row in rows:
        name = f"{row['trace']}, {row['prefill']}, {row['regime']}"
        counts[name] = counts.get(name, 0) + 1
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


def _who(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["policy"], row["routing"]


def _where(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _CELL)


def _ratio(row: Mapping[str, Any], base: Mapping[str, Any] | None, name: str) -> float:
    own, other = row.get(name), None if base is None else base.get(name)
    if own is None or other is None or not other > 0:
        return math.nan
    return float(own) / float(other)


def _inverse(value: float) -> float:
    return 1 / value if value > 0 else math.nan


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else math.nan


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(known) if known else math.nan


def _or_least(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
