"""A study as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from brsolver.errors import OutputError
from brsolver.report.html import Picture, embed, save
from brsolver.report.style import styled
from brsolver.report.write import (
    PNG_DPI,
    check_out_dir,
    move_into_place,
    refusals,
    staging_folder,
)
from brsolver.results.plain import finite_only
from brsolver.traces.atomic import replacing
from classifiers.report import cells, figures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.figure import Figure

    from classifiers.evaluation.study import Study

_CALIBRATION = (
    "Of the samples that were given a probability, the share that did end, in ten bins of equal "
    "mass: on the dotted diagonal forecasts mean what they say, below it they promise more ends "
    "than come. Underneath, how often each probability is given; a sharp forecaster gives few in "
    "the middle."
)
_ROC = (
    "How many of the requests that ended are found (hits) at how many false alarms, as the "
    "threshold on the probability falls: the further up and left, the better the ranking. The "
    "dotted diagonal is no ranking at all, which is what climatology can do."
)
_DECISION = (
    "How much of what perfect forecasts would save BR-H in imbalance over BR-0 each predictor "
    "saves. Bars to the left of zero are worse than routing without forecasts; where a bar is "
    "missing the oracle is not better than BR-0, so that there is nothing to share."
)


def json_text(facts: dict[str, Any]) -> str:
    """Write facts as one strict JSON object; NaN becomes null."""
    return json.dumps(finite_only(facts), indent=2, allow_nan=False)


def write_study(study: Study, out_dir: str | Path) -> Path:
    """Write ``report.html`` and ``results.json``; files of these names there are replaced.

    Raises
    ------
    OutputError
        The folder cannot be written; nothing is left behind then.
    """
    out = check_out_dir(out_dir)
    with refusals(out), staging_folder(out) as staging:
        (staging / "report.html").write_text(render(study), encoding="utf-8")
        (staging / "results.json").write_text(json_text(study.to_dict()) + "\n", encoding="utf-8")
        move_into_place(staging, out)
    return out


def write_page(study: Study, path: str | Path) -> None:
    """Write the page alone, to a file that is replaced.

    Raises
    ------
    OutputError
        It cannot be written; what was there before stays.
    """
    text = render(study)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def check_out_file(path: str | Path) -> None:
    """Refuse a file that could not be written; call it before long work.

    Raises
    ------
    OutputError
        It is a folder or has an empty name, or nothing can be written beside it.
    """
    if not str(path).strip():
        raise OutputError("the file to write to has an empty name")
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"{path}: is a folder, must be a file to write to")
    with refusals(target), TemporaryFile(dir=target.resolve().parent):
        pass


def render(study: Study) -> str:
    """Return the page; pictures are embedded, nothing is fetched when it is opened."""
    from jinja2 import Environment, StrictUndefined

    from brsolver._version import __version__

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = files("classifiers.report").joinpath("templates/study.html.jinja").read_text("utf-8")
    return environment.from_string(text).render(
        study=study,
        version=__version__,
        headline=cells.headline(study),
        reading=cells.reading() if study.params.replicates else "",
        columns=[_heading(column) for column in cells.COLUMNS],
        rows=[_row(study, at) for at in range(len(study.judgements))],
        parts=[column.label for column in cells.PARTS],
        decomposition=[
            (each.kind, [cells.score_text(each, column) for column in cells.PARTS])
            for each in study.judgements
        ],
        headings=cells.DECISION_HEADINGS,
        values=[cells.value_cells(value) for value in study.values],
        embedded=[embed(picture) for picture in draw_pictures(study)],
        parameters=list(_parameters(study)),
    )


def _heading(column: cells.Column) -> str:
    return f"{column.label} ({column.unit})" if column.unit else column.label


def _row(study: Study, at: int) -> dict[str, Any]:
    each = study.judgements[at]
    return {
        "kind": each.kind,
        "cells": [(cells.score_text(each, c), cells.interval_text(each, c)) for c in cells.COLUMNS],
        "against": cells.against_text(each),
    }


def draw_pictures(study: Study) -> Iterator[Picture]:
    """Draw every figure of the report."""
    plans: list[tuple[str, str, str, Callable[[Study], Figure]]] = [
        ("calibration", "Calibration", _CALIBRATION, figures.calibration),
        ("roc", "ROC", _ROC, figures.roc),
    ]
    if any(value.share_imbalance is not None and value.projection for value in study.values):
        plans.append(("decision", "Share of the gap", _DECISION, figures.decision))
    for name, title, reading, draw in plans:
        with styled():
            drawn = draw(study)
            svg = save(drawn, "svg", PNG_DPI)
        yield Picture(name=name, title=title, reading=reading, workers=None, png=b"", svg=svg)


def _parameters(study: Study) -> Iterator[tuple[str, str]]:
    params = study.params
    yield "trace", study.trace_name
    yield "trace fingerprint", study.trace_fingerprint
    yield "requests of training", f"{study.training_rows:,}"
    yield "requests judged on", f"{study.testing_rows:,}"
    yield "horizon H", str(params.horizon)
    yield "cluster that asks", f"G = {params.workers}, B = {params.slots}, pool 4·G, jsq-load"
    yield "steps between refreshes", str(params.refresh_steps)
    yield "samples", f"{len(study.samples):,}, {study.samples.unknown:,} left out"
    yield "bootstrap replicates", str(params.replicates)
    yield "seed", str(params.seed)
