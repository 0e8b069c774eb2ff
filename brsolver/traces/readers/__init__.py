"""One module per trace format, behind one seam: `TraceReader`."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from brsolver.errors import TraceError, UnknownNameError
from brsolver.traces.readers import (
    azure,
    bailian,
    bfio,
    burstgpt,
    lengths,
    mooncake,
    native,
    servegen,
    splitwise,
    vidur,
    vllm_bench,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.traces.readers.seam import TraceReader
    from brsolver.traces.source import Source

# Where two could read a file, the one that sees more of it comes first.
_READERS: tuple[TraceReader, ...] = (
    native.READER,
    azure.READER,
    burstgpt.READER,
    bailian.READER,
    mooncake.READER,
    vidur.READER,
    splitwise.READER,
    servegen.READER,
    bfio.READER,
    vllm_bench.READER,
    lengths.READER,
)

FORMATS: Mapping[str, TraceReader] = MappingProxyType({r.name: r for r in _READERS})
"""Every format that can be read, by name, in the order in which they are tried."""


def find_reader(source: Source, format: str | None = None) -> TraceReader:  # noqa: A002 # as in load_trace
    """Return the reader called `format`, or the first one that recognises the content.

    Raises
    ------
    UnknownNameError
        If no format has that name.
    TraceError
        If no format recognises the file.
    """
    if format is not None:
        if format not in FORMATS:
            raise UnknownNameError.suggest("trace format", format, FORMATS)
        return FORMATS[format]
    for reader in _READERS:
        if reader.sniff(source):
            return reader
    raise TraceError(f"{source.label}: {_seen(source)}; known formats: {', '.join(FORMATS)}")


def _seen(source: Source) -> str:
    if source.container == "folder":
        return "is a folder without ServeGen client files, must be a trace file"
    names = ", ".join(source.names)
    shown = names if len(names) <= 100 else names[:97] + "..."
    return f"no known trace format has these columns: {shown or 'none'}"
