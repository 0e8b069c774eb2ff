"""One module per trace format, behind one seam: `TraceReader`."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from brsolver.errors import ParameterError, TraceError, UnknownNameError
from brsolver.traces.read_options import ReadOptions
from brsolver.traces.readers import (
    azure,
    bailian,
    bfio,
    burstgpt,
    gateway,
    lengths,
    mooncake,
    native,
    servegen,
    splitwise,
    vidur,
    vllm_bench,
)
from brsolver.traces.readers.nearest import unrecognised
from brsolver.traces.readers.turning import TurnReader

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
    gateway.READER,
    bfio.READER,
    vllm_bench.READER,
    lengths.READER,
)

FORMATS: Mapping[str, TraceReader] = MappingProxyType({r.name: r for r in _READERS})
"""Every format that can be read, by name, in the order in which they are tried."""


_FIXED = ("servegen", "bfio", "vllm-bench")
"""Formats that are no rows with named columns."""


def find_reader(
    source: Source,
    format: str | None = None,  # noqa: A002 # as in load_trace
    options: ReadOptions | None = None,
) -> TraceReader:
    """Return the reader called `format`, or the first one that recognises the content.

    Parameters
    ----------
    source : Source
    format : str, optional
    options : ReadOptions, optional
        With columns named and no format, the file is read by the names of its fields, unless its
        rows have delays.

    Raises
    ------
    UnknownNameError
        If no format has that name.
    TraceError
        If no format recognises the file.
    ParameterError
        If columns or a unit are given for a format that has no such thing.
    """
    if format is not None:
        if format not in FORMATS:
            raise UnknownNameError.suggest("trace format", format, FORMATS)
        return _allowed(FORMATS[format], options)
    if options is not None and options.columns:
        source.require_file()
        return _that_knows_turns(source, options) or gateway.READER
    for reader in _READERS:
        if reader.sniff(source):
            return _allowed(reader, options)
    if gateway.find(source, ReadOptions()) is not None:
        return gateway.READER
    raise TraceError(f"{source.label}: {unrecognised(source, _READERS)}")


def _that_knows_turns(source: Source, options: ReadOptions) -> TraceReader | None:
    """Return the reader of a file whose rows have delays, which logs know nothing of."""
    readers = (reader for reader in _READERS if isinstance(reader, TurnReader))
    return next(
        (r for r in readers if r.has_turns(source) and not r.missing(source, options.columns)),
        None,
    )


def _allowed(reader: TraceReader, options: ReadOptions | None) -> TraceReader:
    if options is None or reader.name not in _FIXED:
        return reader
    for name, value in (("columns", options.columns), ("time_unit", options.time_unit)):
        if value:
            raise ParameterError(f"{name} is given, must be left out for format {reader.name}")
    return reader
