"""Rows on disk, as they come."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from brsolver._version import __version__
from brsolver.campaign.tables import part_of, rows_of
from brsolver.errors import BrsolverError, OutputError, ParameterError
from brsolver.traces.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

    import pyarrow as pa

    from brsolver.campaign.cells import Described

FLUSH_S = 1.0
"""Seconds that a row may be in memory alone: rows that come fast go to disk together."""
MOST_PARTS = 100
"""Parts that are left as they are when a folder is opened; more become one."""
MANIFEST, PARTS, RESULTS, LOCK = "campaign.json", "parts", "results.parquet", ".lock"


class ResultStore:
    """A campaign's folder: ``campaign.json``, parts, and at the end ``results.parquet``.

    One process at a time: it is locked until `close`, or until the process ends.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.
    campaign : Campaign or Described

    Raises
    ------
    ParameterError
        It holds another campaign, or the same with other settings or by another version, or
        another process works on it.
    BrsolverError
        A part is damaged.
    OutputError
        It cannot be written.
    """

    def __init__(self, folder: str | Path, campaign: Described) -> None:
        self.folder = Path(folder)
        self._keys = campaign.key_names
        self._fresh: dict[str, Mapping[str, Any]] = {}
        self._writing = threading.RLock()
        self._due: threading.Timer | None = None
        self._broken: Exception | None = None
        self._lock = _locked(self.folder)
        try:
            self._open(campaign)
            self._rows = self._read()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """All rows, by identity of their cells."""
        return self._rows

    def add(self, identity: str, row: Mapping[str, Any]) -> None:
        """Keep a row; it is on disk within `FLUSH_S`.

        Raises
        ------
        OutputError
            An earlier one could not be written.
        """
        with self._writing:
            if self._broken is not None:
                raise self._broken
            self._rows[identity] = dict(row)
            self._fresh[identity] = self._rows[identity]
            if self._due is None:
                self._due = threading.Timer(FLUSH_S, self._flush_late)
                self._due.daemon = True
                self._due.start()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        with self._writing:
            if self._due is not None:
                self._due.cancel()
                self._due = None
            if self._fresh:
                self._write(self._fresh)
                self._fresh = {}

    def finish(self, table: pa.Table) -> Path:
        """Write ``results.parquet``: all rows, in the order of the cells."""
        import pyarrow.parquet as pq

        self.flush()
        path = self.folder / RESULTS
        with replacing(path) as part:
            pq.write_table(table, part)
        return path

    def close(self) -> None:
        """Write what is not on disk yet, and let others work on the folder."""
        try:
            self.flush()
        finally:
            self._lock.close()

    def _flush_late(self) -> None:
        # In a thread of its own, where nobody would hear: the next row says it.
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 # raised again by `add`
            self._broken = error

    def _open(self, campaign: Described) -> None:
        facts = {
            "campaign": campaign.name,
            "version": __version__,
            "settings": json.loads(json.dumps(dict(campaign.settings), default=str)),
        }
        path = self.folder / MANIFEST
        if path.exists():
            _require_same(path, facts)
            return
        if self._parts():
            raise ParameterError(
                f"{self.folder}: has rows and no {MANIFEST}, which says what they are of: give "
                "another folder, or remove this one"
            )
        with replacing(path) as part:
            part.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, Mapping[str, Any]]:
        import pyarrow.parquet as pq

        for debris in (self.folder / PARTS).glob(".*.part"):  # of a process that was killed
            debris.unlink(missing_ok=True)
        rows: dict[str, Mapping[str, Any]] = {}
        parts = self._parts()
        for path in parts:
            try:
                rows.update(rows_of(pq.read_table(path, page_checksum_verification=True)))
            except (OSError, ValueError, KeyError) as error:
                raise BrsolverError(
                    f"{path}: cannot be read: {' '.join(str(error).split())[:200]}; remove it, "
                    "and what it held is computed again"
                ) from error
        if len(parts) > MOST_PARTS:
            self._write(rows)
            for path in parts:
                path.unlink()
        return rows

    def _parts(self) -> list[Path]:
        found = (self.folder / PARTS).glob("*.parquet")
        return sorted(path for path in found if path.stem.isdecimal())

    def _write(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        import pyarrow.parquet as pq

        parts = self._parts()
        number = 1 + int(parts[-1].stem) if parts else 0
        with replacing(self.folder / PARTS / f"{number:08d}.parquet") as part:
            # Else a bit that flips is another figure.
            pq.write_table(part_of(rows, self._keys), part, write_page_checksum=True)


def _locked(folder: Path) -> IO[str]:
    """Return an open file, by which no other process can open the folder meanwhile."""
    try:
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("a", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        import fcntl
    except ImportError:  # Windows has none, and gets no protection
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise ParameterError(
            f"{folder}: another process works on it, must have ended: wait, or give another folder"
        ) from error
    return stream


def _require_same(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        theirs = dict(found["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{path}: cannot be read: {' '.join(str(error).split())[:200]}; give another folder, "
            "or remove this one"
        ) from error
    for name in ("campaign", "version"):
        if found.get(name) != facts[name]:
            raise _other(path, name, found.get(name), facts[name])
    ours = facts["settings"]
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise _other(path, name, theirs.get(name), ours.get(name))


def _other(path: Path, name: str, theirs: object, ours: object) -> ParameterError:
    return ParameterError(
        f"{path}: {name} is {theirs!r} there and {ours!r} here, must be the same to go on: give "
        "another folder, or remove this one"
    )
