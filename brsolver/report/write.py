"""Write a report's files: everything or nothing."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from brsolver.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brsolver.report.html import Picture
    from brsolver.results.comparison import Comparison

PNG_DPI = 160
_STAGING = ".brsolver-report-"


def check_out_dir(out_dir: str | Path) -> Path:
    """Return `out_dir` as a path if a report can be written there; call it before long runs.

    Raises
    ------
    OutputError
        It is empty or a file, or nothing can be written there.
    """
    if not os.fspath(out_dir).strip():
        # Path would take it for the current folder.
        raise OutputError("the report's folder is an empty name; the current folder is named .")
    out = Path(out_dir)
    with refusals(out):
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out}: is a file, must be a folder or not exist yet")
        # An actual attempt: permission bits say nothing of read-only file systems.
        Path(tempfile.mkdtemp(prefix=_STAGING, dir=_staging_parent(out))).rmdir()
    return out


def write_report(
    comparison: Comparison,
    out_dir: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``report.html``, ``results.parquet``, ``results.csv`` and ``figures/``.

    Everything is written to a temporary folder beside its destination first and moved into
    place when it is complete. Files of these names in `out_dir` are replaced; all others there,
    in ``figures/`` too, stay.

    Parameters
    ----------
    comparison : Comparison
    out_dir : str or Path
    progress : callable, optional
        Called with (figures written, all figures).

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
        _write_all(comparison, staging, progress or _silent)
        move_into_place(staging, out)
    return out


def _write_all(comparison: Comparison, folder: Path, progress: Callable[[int, int], None]) -> None:
    from brsolver.report.html import draw_pictures, render_html

    write_rows(comparison, folder)
    (folder / "figures").mkdir()
    pictures = []
    for done, total, picture in draw_pictures(comparison, dpi=PNG_DPI):
        write_picture(picture, folder / "figures")
        pictures.append(picture)
        progress(done, total)
    page = render_html(comparison, pictures)
    (folder / "report.html").write_text(page, encoding="utf-8")


def write_rows(comparison: Comparison, folder: Path) -> None:
    """Write one row per run as ``results.parquet`` and ``results.csv``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from brsolver.report.tables import flat_rows

    rows = flat_rows(comparison)
    pq.write_table(pa.Table.from_pylist(rows), folder / "results.parquet")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_picture(picture: Picture, folder: Path) -> None:
    """Write a picture in both formats."""
    (folder / f"{picture.name}.png").write_bytes(picture.png)
    (folder / f"{picture.name}.svg").write_bytes(picture.svg)


@contextmanager
def refusals(out: Path) -> Iterator[None]:
    """Turn failures of the file system into one line that names the report's folder."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{out}: cannot be written: {reason}") from error


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """Make a folder on the file system of `out`, and remove it afterwards if it is still there."""
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=_staging_parent(out)))
    # mkdtemp makes it private; reports are as readable as their surroundings.
    staging.chmod(0o755)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _staging_parent(out: Path) -> Path:
    return next(p for p in (out, *out.absolute().parents) if p.exists())


def move_into_place(staging: Path, out: Path) -> None:
    """Move a complete report to where it was asked for, file by file if there is a folder.

    A folder in it is filled, never replaced: it may hold files of the user's own.

    Raises
    ------
    OutputError
        A file of the report would replace a folder, or the other way round; nothing was moved.
    """
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(out)
        return
    entries = [(path, out / path.relative_to(staging)) for path in sorted(staging.rglob("*"))]
    for path, target in entries:
        if target.exists() and target.is_dir() != path.is_dir():
            kind = "folder" if target.is_dir() else "file"
            raise OutputError(f"{target}: is a {kind}, which the report would replace; move it")
    for path, target in entries:
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            # Not rename, which stops where a link leads to another file system.
            shutil.move(path, target)


def _silent(done: int, total: int) -> None:
    del done, total
