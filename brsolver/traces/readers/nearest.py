"""What to say of a file that no reader recognises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brsolver.traces.paths import dotted, simple
from brsolver.traces.readers.seam import TableReader
from brsolver.traces.sample import sample_of
from brsolver.traces.vocabulary import LENGTH_PAIRS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from brsolver.traces.readers.seam import TraceReader
    from brsolver.traces.source import Source

_LONGEST = 200
_NAME_THEM = "--columns prompt_tokens=NAME,output_tokens=NAME,arrival=NAME says which holds what"


def unrecognised(source: Source, readers: Sequence[TraceReader]) -> str:
    """Say which format comes nearest, what it lacks, and what the file has.

    Parameters
    ----------
    source : Source
    readers : sequence of TraceReader
        Those that were tried.
    """
    if source.container == "folder":
        return "is a folder without ServeGen client files, must be a trace file"
    names = list(map(dotted, sample_of(source).columns)) or list(source.names)
    nearest = _nearest(names, readers)
    told = f"no known trace format has these columns: {_listed(names)}"
    return f"{told}; {nearest or 'none is the length of a prompt or an output'}; {_NAME_THEM}"


def _nearest(names: Sequence[str], readers: Sequence[TraceReader]) -> str | None:
    here = {simple(name) for name in names} | {simple(name.split(".")[-1]) for name in names}
    best: tuple[float, str] | None = None
    for name, needed in _needs(readers):
        has = [column for column in needed if simple(column) in here]
        lacks = [column for column in needed if simple(column) not in here]
        share = len(has) / len(needed)
        if has and (best is None or share > best[0]):
            best = share, f"nearest is {name}, which lacks {_listed(lacks)} and has {_listed(has)}"
    return best[1] if best else None


def _needs(readers: Sequence[TraceReader]) -> Iterable[tuple[str, Sequence[str]]]:
    """Yield formats with the columns they cannot do without."""
    for reader in readers:
        if isinstance(reader, TableReader):
            yield reader.name, [field.source for field in reader.fields if field.required]
    for pair in LENGTH_PAIRS:
        yield "gateway", pair


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names) or "none"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
