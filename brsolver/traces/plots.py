"""Histograms of a trace, as a picture or in the terminal."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import UnknownNameError
from brsolver.traces.atomic import replacing

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from brsolver.traces.trace import Trace

_SUFFIXES = (".png", ".svg", ".pdf")
_BINS = 60
_BLOCKS = " ▏▎▍▌▋▊▉█"


def plot_trace(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Draw `trace_figure` to a file.

    Parameters
    ----------
    trace : Trace
        What to draw.
    path : str or path
        Picture to write; the extension says how: ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    UnknownNameError
        If the extension is none of these.
    OutputError
        If the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise UnknownNameError.suggest("picture file extension", suffix, _SUFFIXES)
    figure = trace_figure(trace)
    with replacing(path) as part, part.open("wb") as stream:
        figure.savefig(stream, format=suffix[1:], dpi=120)


def trace_figure(trace: Trace) -> Figure:
    """Return a figure with histograms of lengths and, if there are times, of arrivals."""
    from matplotlib.figure import Figure

    arrival = trace.arrival_s
    panels = 2 if arrival is None else 3
    figure = Figure(figsize=(5 * panels, 3.6), layout="constrained")
    axes = figure.subplots(1, panels)
    _histogram(axes[0], trace.prompt_tokens, "prompt length (tokens)", "requests")
    _histogram(axes[1], trace.output_tokens, "output length (tokens)", "requests")
    if arrival is not None:
        _histogram(axes[2], arrival[~np.isnan(arrival)], "arrival time (s)", "arrivals")
    figure.suptitle(trace.name)
    return figure


def _histogram(axes: Any, values: NDArray[Any], label: str, counted: str) -> None:
    axes.hist(values, bins=_BINS, color="#3b6ea5")
    axes.set_xlabel(label)
    axes.set_ylabel(counted)
    axes.grid(axis="y", alpha=0.3)


def text_histogram(values: NDArray[Any], *, bins: int = 12, width: int = 40) -> list[str]:
    """Return a histogram as lines of text.

    Parameters
    ----------
    values : ndarray, shape (n,)
        What to count, n at least 1.
    bins : int
        Lines.
    width : int
        Characters of the longest bar.

    Returns
    -------
    list of str
        One line per bin: its range, its bar, its count.
    """
    counts, edges = np.histogram(values, bins=bins)
    names = [f"{low:,.0f} to {high:,.0f}" for low, high in pairwise(edges)]
    margin = max(len(name) for name in names)
    most = int(counts.max())
    return [
        f"{name:>{margin}}  {_bar(count / most * width)} {count:,}"
        for name, count in zip(names, counts.tolist(), strict=True)
    ]


def _bar(length: float) -> str:
    eighths = round(length * 8)
    return _BLOCKS[-1] * (eighths // 8) + _BLOCKS[eighths % 8].strip()
