"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from brsolver.report import figures, throughput, time_figures, wave_figures
from brsolver.report.metric_tables import metric_tables, rank_tables
from brsolver.report.parameters import label_of, parameter_rows
from brsolver.report.style import styled
from brsolver.report.tables import interval_note
from brsolver.report.templating import fill
from brsolver.results.notes import failures_told
from brsolver.results.verdict import identical, paragraphs, summaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.figure import Figure

    from brsolver.results.comparison import Comparison, Run
    from brsolver.results.curves import Curves

_PER_WORKERS: tuple[tuple[str, str, str, Callable[[Mapping[str, Curves]], Figure]], ...] = (
    (
        "time_by_policy",
        "Where the time of a step went",
        "The mean step over the steps that averages cover. Grey is what it would take if every "
        "worker had the mean load, which balance does not change; colour is what was lost to "
        "waiting for the slowest worker, by the load that it had more of, and to padding.",
        time_figures.time_by_policy,
    ),
    (
        "time",
        "Where each millisecond went over time",
        "Each column is the mean of consecutive steps and its height their duration, split as "
        "above. Where the slowest worker had less of a load than the mean, so much is taken off "
        "the other parts in proportion, so that the colours add up to what was lost. Averages "
        "cover the time up to the dotted line, or between two, where there are any.",
        time_figures.time_over_time,
    ),
    (
        "load",
        "Load per worker over time",
        "Each thin line is one worker and the dark line the heaviest, which every other worker "
        "waits for: the closer the lines run together, the less time is lost at the barrier.",
        figures.load_over_time,
    ),
    (
        "heatmap",
        "Load per worker as a heat map",
        "One row per worker, brighter means more KV tokens: a column of one colour is a balanced "
        "moment, a lasting bright row is a worker that holds the others up.",
        figures.worker_heat_map,
    ),
    (
        "imbalance",
        "Imbalance over time",
        "G times the heaviest load minus the sum of all loads; lower is better. The axis is "
        "logarithmic and long runs are averaged over consecutive steps.",
        figures.imbalance_over_time,
    ),
    (
        "imbalance_ecdf",
        "Distribution of the imbalance",
        "The height of a curve is the share of steps with at most that imbalance, over the steps "
        "that averages cover: further left is better.",
        figures.imbalance_distribution,
    ),
    (
        "tpot_ecdf",
        "Time per output token (TPOT)",
        "The share of requests with at most that TPOT, from admission to the last token, or from "
        "the first one where prompts are prefilled on the decode workers: further "
        "left is better, and the dotted line marks the 95th percentile.",
        figures.tpot_distribution,
    ),
    (
        "ttft_ecdf",
        "Time to first token (TTFT)",
        "The share of requests whose first token came at most that long after they "
        "arrived: further left is better.",
        figures.ttft_distribution,
    ),
    (
        "dispatch_ecdf",
        "Dispatch latency",
        "The share of routing calls that took at most that long on the machine that ran the "
        "simulation, without the slowest 0.1 %; it must stay well below the duration of a step.",
        figures.dispatch_latency,
    ),
)
_THROUGHPUT_HELP = (
    "Left, tokens per second over all workers; right, the same divided by the baseline's, paired "
    "by seed, where above 1 is faster. Whiskers are 95 % confidence intervals over the seeds."
)
_ONE_NUMBER, _SEVERAL = "Throughput by policy", "Throughput against the number of workers"
_WAVES_HELP = (
    "A stretch from the middle of the run, one row per worker, brighter where it has more "
    "prompt tokens to prefill: in such a step all workers wait for the brightest. Marks one above "
    "the other are workers that prefill together; marks scattered over time make everybody wait "
    "for one after the other. Above, how many requests waited although slots were free: held by "
    "the router, or, where there is a KV capacity, for want of room."
)
_GANTT_HELP = (
    "Each bar is a request on one slot of its worker, darker means a shorter prompt. White gaps "
    "are empty slots. The window is cut from the middle of the run; requests that were preempted "
    "or lost their worker are left out."
)
_TOLD = "time"
"""The figure that has its findings under it."""
_IN_FACTS = ("workers", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One figure in both formats.

    Attributes
    ----------
    name : str
        Name of its files.
    title, reading : str
        What it shows, and how to read it.
    workers : int or None
        Number of workers it is about; None if about all.
    png, svg : bytes
    findings : tuple of str
        What it shows, in words that stand under it.
    """

    name: str
    title: str
    reading: str
    workers: int | None
    png: bytes
    svg: bytes
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    name: str
    title: str
    reading: str
    workers: int | None
    draw: Callable[[], Figure]
    findings: tuple[str, ...] = ()


def draw_pictures(comparison: Comparison, *, dpi: int) -> Iterator[tuple[int, int, Picture]]:
    """Draw every figure of the report; yields its number, how many there are, and itself."""
    plans = list(_plans(comparison))
    for done, plan in enumerate(plans, start=1):
        with styled():
            drawn = plan.draw()
            picture = Picture(
                name=plan.name,
                title=plan.title,
                reading=plan.reading,
                workers=plan.workers,
                png=save(drawn, "png", dpi),
                svg=save(drawn, "svg", dpi),
                findings=plan.findings,
            )
        yield done, len(plans), picture


def _plans(comparison: Comparison) -> Iterator[_Plan]:
    several = len(comparison.workers) > 1
    yield _Plan(
        name="throughput",
        title=_SEVERAL if several else _ONE_NUMBER,
        reading=_THROUGHPUT_HELP,
        workers=None,
        draw=partial(throughput.against_workers if several else throughput.by_policy, comparison),
    )
    for workers in comparison.workers:
        curves = comparison.pictured(workers)
        if curves:
            yield from _plans_for(workers, curves)


def _plans_for(workers: int, curves: Mapping[str, Curves]) -> Iterator[_Plan]:
    for name, title, reading, draw in _PER_WORKERS:
        yield _Plan(
            name=f"{name}_G{workers}",
            title=title,
            reading=reading,
            workers=workers,
            draw=partial(draw, curves),
            findings=time_figures.told(curves) if name == _TOLD else (),
        )
    if any(each.waves is not None for each in curves.values()):
        yield _Plan(
            name=f"waves_G{workers}",
            title="Prefill on the decode workers",
            reading=_WAVES_HELP,
            workers=workers,
            draw=partial(wave_figures.backlog_over_time, curves),
            findings=wave_figures.told(curves),
        )
    for number, (policy, kept) in enumerate(curves.items(), start=1):
        yield _Plan(
            name=f"gantt_G{workers}_{number:02d}_{slug(policy)}",
            title=f"Requests on workers: {policy}",
            reading=_GANTT_HELP,
            workers=workers,
            draw=partial(figures.gantt_chart, policy, kept.gantt),
        )


def slug(text: str) -> str:
    """Return `text` as a part of a file's name: letters, digits, dots and dashes, at most 60."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:60]


def save(drawn: Figure, kind: str, dpi: int) -> bytes:
    """Return a figure as the content of a file of that kind, ``png`` or ``svg``."""
    stream = io.BytesIO()
    # No date, so that the same results give the same files.
    metadata = {"Date": None} if kind == "svg" else None
    drawn.savefig(stream, format=kind, dpi=dpi, metadata=metadata)
    return stream.getvalue()


def render_html(comparison: Comparison, pictures: Sequence[Picture]) -> str:
    """Fill the page template; pictures are embedded, nothing is fetched when it is opened."""
    same = identical(comparison)
    return fill(
        "report.html.jinja",
        comparison=comparison,
        summary=paragraphs(summaries(comparison)),
        failures=failures_told(comparison),
        same=same,
        interval_note=interval_note(comparison),
        general=[embed(picture) for picture in pictures if picture.workers is None],
        sections=[_section(comparison, g, pictures, same) for g in comparison.workers],
        facts=_facts(comparison),
        parameters=list(parameter_rows(comparison.params, leave_out=_IN_FACTS)),
        policies=[_policy_row(comparison, policy) for policy in comparison.policies],
    )


def _section(
    comparison: Comparison, workers: int, pictures: Sequence[Picture], same: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "workers": workers,
        "tables": metric_tables(comparison, workers, same),
        "ranks": rank_tables(comparison, workers),
        "pictures": [embed(picture) for picture in pictures if picture.workers == workers],
    }


def embed(picture: Picture) -> dict[str, Any]:
    """Return what the page templates need of a picture, its content as a data URL."""
    # As an image of its own, so that identifiers of different figures cannot clash.
    data = base64.b64encode(picture.svg).decode("ascii")
    return {
        "name": picture.name,
        "title": picture.title,
        "reading": picture.reading,
        "source": f"data:image/svg+xml;base64,{data}",
        "findings": picture.findings,
    }


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    # Runs that start later have fewer requests and fingerprints of their own, of the same trace.
    runs = [run for run in comparison.runs if run.start == 0] or comparison.runs
    fingerprints = dict.fromkeys(run.trace_fingerprint for run in runs)
    return [
        ("trace", comparison.trace_name),
        ("trace fingerprint", ", ".join(fingerprints)),
        ("requests", ", ".join(dict.fromkeys(f"{r.metrics.requests:,}" for r in runs))),
        (label_of(type(comparison.params), "workers"), ", ".join(map(str, comparison.workers))),
        ("seeds", ", ".join(map(str, comparison.seeds))),
        ("predictor asked for", comparison.predictor or "each policy's default"),
        ("ratios refer to", comparison.baseline),
        ("brsolver version", comparison.version),
        ("time for all runs", f"{comparison.wall_s:.1f} s"),
    ]


def _policy_row(comparison: Comparison, policy: str) -> dict[str, str]:
    run: Run = comparison.cell(policy, comparison.workers[0])[0]
    params = ", ".join(f"{key} = {value}" for key, value in run.policy_params.items())
    future = " (oracle: sees the future)" if run.sees_future else ""
    return {"spec": policy, "params": params or "none", "predictor": f"{run.predictor}{future}"}
