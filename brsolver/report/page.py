"""What pages that need nothing else share: pictures by plan, a filled template, their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from brsolver.report.html import Picture, save
from brsolver.report.parameters import parameter_rows
from brsolver.report.style import styled
from brsolver.report.templating import fill
from brsolver.report.write import (
    check_out_dir,
    move_into_place,
    refusals,
    staging_folder,
    write_picture,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from brsolver.oracles.gap import GapReport
    from brsolver.oracles.gap_time import TimeGapReport

Subject = TypeVar("Subject")
Drawn = tuple[int, int, Picture]
"""Number of a picture, how many there are, and itself."""


def draw_plans(
    subject: Subject,
    plans: Sequence[tuple[str, str, str, Callable[[Subject], Figure]]],
    *,
    dpi: int,
) -> Iterator[Drawn]:
    """Draw pictures of a subject, each by its name, title, reading and what draws it."""
    for done, (name, title, reading, draw) in enumerate(plans, start=1):
        with styled():
            drawn = draw(subject)
            picture = Picture(
                name=name,
                title=title,
                reading=reading,
                workers=None,
                png=save(drawn, "png", dpi),
                svg=save(drawn, "svg", dpi),
            )
        yield done, len(plans), picture


def write_page(
    out_dir: str | Path,
    figures: str,
    pictures: Iterable[Drawn],
    texts: Callable[[list[Picture]], Mapping[str, str]],
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write pictures and texts into a folder: everything or nothing.

    Parameters
    ----------
    out_dir : str or Path
        Files of the same names in it are replaced, all others stay.
    figures : str
        Folder in it for the pictures.
    pictures : iterable
        Drawn one by one, once the folder is known to be good.
    texts : callable
        Given the pictures, returns what to write by the name of its file; a line end is added.
    progress : callable, optional
        Called with (figures drawn, all figures).

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        The folder cannot be written; nothing is left behind then.
    """
    out = check_out_dir(out_dir)
    with refusals(out), staging_folder(out) as staging:
        (staging / figures).mkdir()
        drawn = []
        for done, total, picture in pictures:
            write_picture(picture, staging / figures)
            drawn.append(picture)
            if progress is not None:
                progress(done, total)
        for name, text in texts(drawn).items():
            (staging / name).write_text(text + "\n", encoding="utf-8")
        move_into_place(staging, out)
    return out


def render_page(
    template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any
) -> str:
    """Fill a page's template; pictures are embedded, nothing is fetched when it is opened."""
    from brsolver._version import __version__

    return fill(template, filters, version=__version__, **values)


def gap_parameters(report: GapReport | TimeGapReport, vouched: str) -> Iterator[tuple[str, str]]:
    """Return what a gap report holds for, by label; `vouched` labels where its bound is from."""
    yield "trace", report.trace_name
    yield "requests", f"{report.requests:,}"
    for run in report.results[:1]:
        yield "trace fingerprint", run.trace_fingerprint
        for row in parameter_rows(run.params):
            if row.says is not None and row.says.bounded:
                yield row.label, row.value
    yield "oracle", report.oracle
    yield vouched, report.origin
    yield "time, simulations included", f"{report.wall_s:.1f} s"


def percent(value: float | None) -> str:
    """Write a share as per cent; unknown is a dash."""
    return "–" if value is None else f"{100 * value:.2f} %"
