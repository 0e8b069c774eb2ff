"""How figures look: one typeface, few lines, colours that colour-blind readers can tell apart."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

# Okabe and Ito's palette without its yellow, which is too faint for lines on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#1f2933"
FAINT = "#9aa5b1"
SEQUENTIAL = "viridis"
WIDTH_IN = 9.0

# Any: matplotlib's own types list every key in this release, and no other's.
_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    # Ticks as 1.001 and 1.002, never 0.001 and 0.002 with a +1 at the axis' end.
    "axes.formatter.useoffset": False,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "brsolver",
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style to figures made and saved inside."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def figure(height_in: float) -> Figure:
    """Return an empty figure of the common width."""
    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def line_style(index: int) -> tuple[str, str]:
    """Return colour and dash of the policy at `index`; they repeat after 28 policies."""
    return PALETTE[index % len(PALETTE)], DASHES[(index // len(PALETTE)) % len(DASHES)]


def legend_beside(axes: Axes, policies: Sequence[str]) -> None:
    """Put the legend where it covers no data: right of the axes."""
    size = 8.5 if len(policies) <= 12 else 7.0
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=size, handlelength=2.4)


def token_axis(axes: Axes, *, which: str = "y") -> None:
    """Write token counts as 10 k or 2 M."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(EngFormatter(sep=" "))
