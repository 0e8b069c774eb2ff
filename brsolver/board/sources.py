"""The traces of a board: public files where they are given, stand-ins elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from brsolver.errors import TraceError, UnknownNameError
from brsolver.traces.load import is_random, read_trace
from brsolver.traces.read_options import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from brsolver.board.definition import BoardDefinition, BoardTrace
    from brsolver.traces.trace import Trace

Origin = Literal["published", "stand-in", "other file"]
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedTrace:
    """A trace of a board as it was read.

    Attributes
    ----------
    name : str
        What the board calls it.
    origin : {"published", "stand-in", "other file"}
        The public file itself, by its digest; a preset in its place; or a file that is not the one
        that the definition knows.
    source : str
        The preset, or the name of the file.
    by_seed : mapping of int to Trace
    notes : tuple of str
    """

    name: str
    origin: Origin
    source: str
    by_seed: Mapping[int, Trace]
    notes: tuple[str, ...] = field(default=())

    @property
    def has_prefixes(self) -> bool:
        """Whether it says which prompts begin alike."""
        return all("hash_offsets" in trace.columns for trace in self.by_seed.values())


def load_traces(
    definition: BoardDefinition, names: Iterable[str], files: Mapping[str, str]
) -> tuple[LoadedTrace, ...]:
    """Load traces by name.

    Parameters
    ----------
    definition : BoardDefinition
    names : iterable of str
        Of its traces.
    files : mapping of str to str
        Files in place of stand-ins, by name.

    Raises
    ------
    UnknownNameError
        A file is given for a trace that the board does not have.
    TraceError
        A file cannot be read.
    """
    for name in files:
        if name not in definition.traces:
            raise UnknownNameError.suggest("trace of the board", name, definition.traces)
    return tuple(_load(definition, name, files.get(name)) for name in names)


def _load(definition: BoardDefinition, name: str, file: str | None) -> LoadedTrace:
    known = definition.traces[name]
    source = known.stand_in if file is None else file
    origin, notes = _origin(name, known, file)
    if is_random(source):
        by_seed = {seed: _read(definition, source, seed) for seed in definition.seeds}
    else:
        whole = _read(definition, source, definition.seeds[0])
        # As `brsolver compare` has it: every further seed begins a request later.
        by_seed = {seed: whole.after(at) for at, seed in enumerate(definition.seeds)}
    first = next(iter(by_seed.values()))
    return LoadedTrace(
        name=name,
        origin=origin,
        source=known.stand_in if file is None else Path(file).name,
        by_seed=by_seed,
        notes=(*notes, *(f"{name}: {note}" for note in first.notes)),
    )


def _read(definition: BoardDefinition, source: str, seed: int) -> Trace:
    return read_trace(source, None, ReadOptions(limit=definition.limit, sort=True, seed=seed))


def _origin(name: str, known: BoardTrace, file: str | None) -> tuple[Origin, tuple[str, ...]]:
    if file is None:
        told = f"; {known.file} is at {known.fetch}" if known.fetch else ""
        return "stand-in", (f"{name}: {known.stand_in} stands in for it{told}",)
    if not known.sha256:
        return "other file", (f"{name}: the definition has no digest to check {file} against",)
    found = digest(file)
    if found == known.sha256:
        return "published", ()
    return "other file", (
        f"{name}: {file} has SHA-256 {found[:12]}…, {known.file or 'the published file'} has "
        f"{known.sha256[:12]}…: its rows are marked, and are no part of the published board",
    )


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises
    ------
    TraceError
        It cannot be read.
    """
    summed = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while part := stream.read(_CHUNK):
                summed.update(part)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    return summed.hexdigest()
