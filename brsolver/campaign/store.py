"""Rows on disk, as they come."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver._version import __version__
from brsolver.errors import BrsolverError, OutputError, ParameterError
from brsolver.traces.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

    from brsolver.campaign.cells import Campaign

FLUSH_S = 1.0
"""Seconds of rows that an end without warning may cost."""
MANIFEST, PARTS, RESULTS = "campaign.json", "parts", "results.parquet"
IDENTITY = "cell"
"""Column of a cell's identity, in parts."""


class ResultStore:
    """A campaign's folder: ``campaign.json``, parts, and at the end ``results.parquet``.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.
    campaign : Campaign

    Raises
    ------
    ParameterError
        It holds another campaign, or the same with other settings or by another version.
    OutputError
        It cannot be written.
    """

    def __init__(self, folder: str | Path, campaign: Campaign) -> None:
        self.folder = Path(folder)
        self._fresh: list[dict[str, Any]] = []
        self._flushed = time.monotonic()
        self._open(campaign)
        self._rows = self._read()

    def _open(self, campaign: Campaign) -> None:
        facts = {
            "campaign": campaign.name,
            "version": __version__,
            "settings": json.loads(json.dumps(dict(campaign.settings), default=str)),
        }
        try:
            (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"{self.folder}: cannot be written: {reason}") from error
        path = self.folder / MANIFEST
        if path.exists():
            _require_same(path, facts)
            return
        with replacing(path) as part:
            part.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, dict[str, Any]]:
        import pyarrow.parquet as pq

        rows: dict[str, dict[str, Any]] = {}
        for path in self._parts():
            try:
                found = pq.read_table(path).to_pylist()
            except (OSError, ValueError) as error:
                raise BrsolverError(
                    f"{path}: cannot be read: {' '.join(str(error).split())}; remove it, and what "
                    "it held is computed again"
                ) from error
            for row in found:
                rows[row.pop(IDENTITY)] = {k: v for k, v in row.items() if k is not None}
        return rows

    def _parts(self) -> list[Path]:
        return sorted((self.folder / PARTS).glob("*.parquet"))

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """All rows, by identity of their cells."""
        return self._rows

    def add(self, identity: str, row: Mapping[str, Any]) -> None:
        """Keep a row; it is on disk within `FLUSH_S` of the next, or at `flush`."""
        self._rows[identity] = dict(row)
        self._fresh.append({IDENTITY: identity, **row})
        if time.monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        self._flushed = time.monotonic()
        if not self._fresh:
            return
        import pyarrow.parquet as pq

        parts = self._parts()
        number = 1 + int(parts[-1].stem) if parts else 0
        with replacing(self.folder / PARTS / f"{number:08d}.parquet") as part:
            pq.write_table(as_table(self._fresh), part)
        self._fresh.clear()

    def finish(self, table: pa.Table) -> Path:
        """Write ``results.parquet``: all rows, in the order of the cells."""
        import pyarrow.parquet as pq

        self.flush()
        path = self.folder / RESULTS
        with replacing(path) as part:
            pq.write_table(table, part)
        return path


def as_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Make a table of rows, whose columns are all that any row has, in order of appearance."""
    import pyarrow as pa

    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _require_same(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    for name in ("campaign", "version"):
        if found.get(name) != facts[name]:
            raise _other(path, name, found.get(name), facts[name])
    ours, theirs = facts["settings"], found.get("settings", {})
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise _other(path, name, theirs.get(name), ours.get(name))


def _other(path: Path, name: str, theirs: object, ours: object) -> ParameterError:
    return ParameterError(
        f"{path}: {name} is {theirs!r} there and {ours!r} here, must be the same to go on: give "
        "another folder, or remove this one"
    )
