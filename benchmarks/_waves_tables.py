"""Markdown of the rows of `benchmarks.bench_waves`."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from benchmarks._waves_cells import BRT, VLLM
from benchmarks._waves_measures import FIGURES, SLOS, tuned

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks._waves_measures import Row

CELL = ("trace", "hardware", "workers", "slots", "budget", "bound", "context", "pool")
HEADINGS = ("trace", "hardware", "G", "B", "budget", "φ", "context", "pool")
TOLERANCE = 0.99
"""Below that part of the best interval, or of vLLM's rule, a cell is listed."""


def groups(rows: Iterable[Row], *more: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by cell, and by further columns."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in (*CELL, *more))].append(row)
    return found


def show_throughput(rows: Sequence[Row]) -> None:
    """Print every cell, what lies below, and geometric means."""
    cells = groups(rows)
    compared = {key: _compared(found) for key, found in cells.items()}
    print("\n### Throughput, pool filled\n")
    _head(
        *HEADINGS,
        *("`vllm` tok/s", "`jsq-load`", "`br-0`", "best interval", "it", "`br-t`"),
        *("over the best", "slots in use", "steps with prefill", "gap %", "steps", "prefill", "KV"),
    )
    for key, found in compared.items():
        by = {row["rule"]: row for row in cells[key]}
        own = by["br-t"]
        _line(
            *_named(key),
            f"{by['vllm']['tokens_s']:,.0f}",
            *(f"×{by[rule]['tokens_s'] / by['vllm']['tokens_s']:.3f}" for rule in ("jsq-load",)),
            f"×{by['br-0']['tokens_s'] / by['vllm']['tokens_s']:.3f}",
            f"×{found['best']:.3f}",
            str(found["interval"]),
            f"**×{found['own']:.3f}**",
            f"×{found['own'] / found['best']:.3f}",
            f"{own['in_use']:.2f}",
            f"{own['waves']:.2f}",
            *(f"{100 * own[name]:.1f}" for name in ("gap", "gap_steps", "gap_prefill", "gap_kv")),
        )
    _below(compared)
    _means(compared)


def _compared(rows: Sequence[Row]) -> dict[str, float]:
    by = {row["rule"]: float(row["tokens_s"]) for row in rows}
    best = tuned(rows, "tokens_s")
    return {
        "best": best["tokens_s"] / by[VLLM.label],
        "own": by[BRT.label] / by[VLLM.label],
        "interval": best["interval"],
    }


def _below(compared: dict[tuple[Any, ...], dict[str, float]]) -> None:
    print(f"\nBelow {TOLERANCE:g} of the best interval, or of `vllm`:\n")
    low = [
        (key, found)
        for key, found in compared.items()
        if found["own"] < TOLERANCE * max(found["best"], 1.0)
    ]
    for key, found in low:
        print(f"- {', '.join(_named(key))}: ×{found['own']:.3f}, best ×{found['best']:.3f}")
    print("" if low else "- no cell\n")


def _means(compared: dict[tuple[Any, ...], dict[str, float]]) -> None:
    print("Geometric means over traces and hardware, and the worst cell:\n")
    _head("G", "B", "budget", "φ", "pool", "cells", "best interval", "`br-t`", "over it", "worst")
    places = [HEADINGS.index(name) for name in ("G", "B", "budget", "φ", "pool")]
    found: dict[tuple[Any, ...], list[dict[str, float]]] = defaultdict(list)
    for key, each in compared.items():
        found[tuple(_named(key)[place] for place in places)].append(each)
    for name, cells in found.items():
        over = [each["own"] / each["best"] for each in cells]
        means = (mean([each["best"] for each in cells]), mean([each["own"] for each in cells]))
        columns = (*means, mean(over), min(over))
        _line(*name, str(len(cells)), *(f"×{value:.3f}" for value in columns))


def show_arrivals(rows: Sequence[Row]) -> None:
    """Print times over those of vLLM's rule."""
    print("\n### By arrivals: times over those of `vllm`\n")
    _head(*HEADINGS, "load", "rule", "TTFT P50", "P99", "TPOT P50", "P99", "E2E P50", "P99")
    every: dict[tuple[float, str], list[list[float]]] = defaultdict(list)
    for key, found in groups(rows, "share").items():
        base = [found[0][name] for name in FIGURES]
        shown = " s, ".join(f"{value:.3f}" for value in base)
        _line(*_named(key), f"{key[-1]:.0%}", "`vllm`", *(shown.split(", ")))
        for row in found[1:]:
            ratios = [row[name] / of for name, of in zip(FIGURES, base, strict=True)]
            every[key[-1], row["rule"]].append(ratios)
            _line(*_named(key), f"{key[-1]:.0%}", row["rule"], *(f"{r:.2f}" for r in ratios))
    print("\nGeometric means over cells, and the worst end-to-end times:\n")
    _head(
        *("load", "rule", "TTFT P50", "P99", "TPOT P50", "P99", "E2E P50", "P99"),
        *("worst E2E P50", "worst P99"),
    )
    for (share, rule), cells in sorted(every.items()):
        columns = list(zip(*cells, strict=True))
        means = [mean(column) for column in columns]
        worst = [max(column) for column in columns[-2:]]
        _line(f"{share:.0%}", rule, *(f"{value:.2f}" for value in (*means, *worst)))


def show_goodput(rows: Sequence[Row]) -> None:
    """Print which part of the requests meets what was promised, and by what it is met best."""
    print("\n### Requests that meet what is promised, %\n")
    titles = [f"{ttft / 1000:g} s, {tpot:g} ms" for ttft, tpot in SLOS]
    print(
        "`vllm` / best of interval, `jsq-load`, `br-0` / best of the engines' delayers / `br-t`\n"
    )
    _head(*HEADINGS, "load", *titles)
    low, cells = [], 0
    for key, found in groups(rows, "share").items():
        texts = []
        for title, promised in zip(titles, SLOS, strict=True):
            at = [r for r in found if (r["ttft_ms"], r["tpot_ms"]) == promised]
            own, best = at[-1]["met"], max(at[:-1], key=lambda row: float(row["met"]))
            texts.append(" / ".join(f"{100 * met:.1f}" for met in (*_best_met(at[:-1]), own)))
            cells += 1
            if own < best["met"]:
                name = f"{best['rule']} ({best['routing']}) {100 * best['met']:.1f}"
                low.append(f"{', '.join(_named(key))}, {key[-1]:.0%}, {title}: {name}, {texts[-1]}")
        _line(*_named(key), f"{key[-1]:.0%}", *texts)
    print(f"\nBelow the best: {len(low)} of {cells} cells\n")
    for text in low:
        print(f"- {text}")


def _best_met(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Return what vLLM's rule meets, and the best of what has no engine's rule and of what has."""
    engines = [row["met"] for row in rows if row["engine"]]
    others = [row["met"] for row in rows if not row["engine"] and row["rule"] != VLLM.label]
    return rows[0]["met"], max(others), max(engines)


def show_ablations(rows: Sequence[Row]) -> None:
    """Print variants over br-t as it is, in geometric mean."""
    print("\n### Ablations: over `br-t` as it is, geometric means\n")
    _head(
        *("variant", "tok/s, pool filled", "worst", "load"),
        *("TTFT P50", "P99", "TPOT P50", "P99", "E2E P50", "P99"),
    )
    base = {_place(row): row for row in rows if row["variant"] == "br-t"}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        filled = [r["tokens_s"] / base[_place(r)]["tokens_s"] for r in own if r["share"] is None]
        texts = [f"×{mean(filled):.3f}", f"×{min(filled):.3f}"] if filled else ["", ""]
        shares = sorted({row["share"] for row in own if row["share"] is not None}) or [None]
        for share in shares:
            at = [row for row in own if row["share"] == share and share is not None]
            ratios = [mean([r[f] / base[_place(r)][f] for r in at]) for f in FIGURES] if at else []
            load = f"{share:.0%}" if share is not None else ""
            _line(variant, *texts, load, *(f"×{ratio:.2f}" for ratio in ratios))
            texts = ["", ""]


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in (*CELL, "share"))


def mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _named(key: tuple[Any, ...]) -> list[str]:
    texts = [str(value) for value in key[: len(CELL)]]
    pool = key[CELL.index("pool")]
    texts[-1] = "all slots" if pool is None else str(pool)
    return texts


def _head(*names: str) -> None:
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")


def _line(*texts: str) -> None:
    print(f"| {' | '.join(texts)} |", flush=True)
