"""Load a trace from a file or a preset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsolver.errors import ParameterError
from brsolver.specs import parse_spec
from brsolver.traces.collector import ReadOptions
from brsolver.traces.presets import preset_trace
from brsolver.traces.readers import find_reader
from brsolver.traces.source import Source

if TYPE_CHECKING:
    from brsolver.traces.trace import Trace

_PRESET = "preset:"


def is_random(source: str | os.PathLike[str], reader: str | None = None) -> bool:
    """Tell whether requests are drawn, so that another seed gives another trace.

    Parameters
    ----------
    source : str or path
        As for `load_trace`.
    reader : str, optional
        Name of the format; without it the content decides.
    """
    text = os.fspath(source)
    if isinstance(text, str) and text.startswith(_PRESET):
        return True
    return find_reader(Source(path=Path(text)), reader).random


def load_trace(
    source: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 # the option's name
    limit: int | None = None,
    skip_bad_rows: bool = False,
    seed: int = 0,
) -> Trace:
    """Load a trace.

    Parameters
    ----------
    source : str or path
        A file in one of `FORMATS`, plain or compressed with gzip or zstd; a folder of ServeGen
        client files; or ``"preset:NAME"`` or ``"preset:NAME:key=value,key2=value2"``.
    format : str, optional
        Name of the format. Without it the content decides, never the file's extension.
    limit : int, optional
        Requests to load at most, the first ones in order of arrival; what follows them in the
        file is neither read nor checked.
    skip_bad_rows : bool
        Leave bad rows out and count them in `Trace.skipped_rows`. Bad are rows with a missing or
        malformed field, a length below one token, or a time before that of an earlier row.
    seed : int
        Seed for presets whose specification sets none, and for formats that hold distributions.

    Returns
    -------
    Trace
        With arrival times in seconds since its first request.

    Raises
    ------
    TraceError
        If the file cannot be read, or holds a bad row and `skip_bad_rows` is not set.
    UnknownNameError
        If there is no such format, preset or preset parameter.
    ParameterError
        If a preset parameter has a value it cannot have.
    """
    options = ReadOptions(limit=limit, skip_bad_rows=skip_bad_rows, seed=seed)
    text = os.fspath(source)
    if isinstance(text, str) and text.startswith(_PRESET):
        if format is not None:
            raise ParameterError(f"{text} is a preset, format {format!r} applies to files only")
        name, parameters = parse_spec(text.removeprefix(_PRESET))
        values: dict[str, Any] = {"seed": seed, **parameters}
        return preset_trace(name, **values).head(limit)
    file = Source(path=Path(text))
    return find_reader(file, format).read(file, options)
