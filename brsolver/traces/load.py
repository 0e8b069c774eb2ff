"""Load a trace from a file or a preset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from brsolver.errors import ParameterError
from brsolver.specs import parse_spec
from brsolver.traces.presets import preset_trace
from brsolver.traces.read_options import ReadOptions
from brsolver.traces.readers import find_reader
from brsolver.traces.selection import select
from brsolver.traces.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brsolver.traces.trace import Trace

_PRESET = "preset:"


def is_random(
    source: str | os.PathLike[str],
    reader: str | None = None,
    options: ReadOptions | None = None,
) -> bool:
    """Tell whether requests are drawn, so that another seed gives another trace.

    Parameters
    ----------
    source : str or path
        As for `load_trace`.
    reader : str, optional
        Name of the format; without it the content decides.
    options : ReadOptions, optional
        How it is read: files whose columns are named need not be recognised.
    """
    text = os.fspath(source)
    if isinstance(text, str) and text.startswith(_PRESET):
        return True
    return find_reader(Source(path=Path(text)), reader, options).random


def load_trace(
    source: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 # the option's name
    limit: int | None = None,
    skip: int = 0,
    since: float | str | None = None,
    until: float | str | None = None,
    sort: bool = False,
    skip_bad_rows: bool = False,
    drop_above: int | None = None,
    time_unit: Literal["s", "ms", "us", "ns"] | None = None,
    columns: Mapping[str, str] | None = None,
    result: int | None = None,
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
        Requests to load at most, the first ones in order of arrival that the other options
        leave; what follows them in the file is neither read nor checked.
    skip : int
        Requests at the start that are passed over.
    since, until : float or str, optional
        Take requests from `since` on and before `until`: seconds since the file's first request,
        or an ISO 8601 date (in UTC unless it names a zone) where the file has dates.
    sort : bool
        Sort the requests by time. Without it a row that is earlier than one before it is an
        error, whether or not bad rows are skipped.
    skip_bad_rows : bool
        Leave bad rows out and count them in `Trace.skipped_rows`. Bad are rows with a missing or
        malformed field, or a length below one token.
    drop_above : int, optional
        Leave out requests that grow beyond so many KV tokens, as a worker's capacity; a note of
        the trace says how many.
    time_unit : {"s", "ms", "us", "ns"}, optional
        Unit of the arrival times. Without it format and column name decide.
    columns : mapping of str to str, optional
        By what it holds, such as ``prompt_tokens``, ``output_tokens`` or ``arrival``, the name of
        the file's column.
    result : int, optional
        Which result, from 1, of a file that holds several.
    seed : int
        Seed for presets whose specification sets none, and for formats that hold distributions.

    Returns
    -------
    Trace
        With arrival times in seconds since its first request.

    Raises
    ------
    TraceError
        If the file cannot be read, holds a late row and `sort` is not set, or holds a bad row
        and `skip_bad_rows` is not set; or if nothing is left of it.
    UnknownNameError
        If there is no such format, preset or preset parameter.
    ParameterError
        If an option or a preset parameter has a value it cannot have.
    """
    options = ReadOptions(
        limit=limit,
        skip=skip,
        since=since,
        until=until,
        sort=sort,
        skip_bad_rows=skip_bad_rows,
        drop_above=drop_above,
        time_unit=time_unit,
        columns=columns or {},
        result=result,
        seed=seed,
    )
    return read_trace(source, format, options)


def read_trace(source: str | os.PathLike[str], reader: str | None, options: ReadOptions) -> Trace:
    """Load a trace as `load_trace` does, with its options in one object.

    Parameters
    ----------
    source : str or path
    reader : str or None
        Name of the format; None lets the content decide.
    options : ReadOptions
    """
    text = os.fspath(source)
    if isinstance(text, str) and text.startswith(_PRESET):
        return _preset(text, reader, options)
    file = Source(path=Path(text), result=options.result)
    return find_reader(file, reader, options).read(file, options)


def _preset(text: str, reader: str | None, options: ReadOptions) -> Trace:
    of_files = {
        "format": reader,
        "time_unit": options.time_unit,
        "columns": dict(options.columns) or None,
        "result": options.result,
    }
    for name, value in of_files.items():
        if value is not None:
            raise ParameterError(f"{text} is a preset, {name} {value!r} applies to files only")
    name, parameters = parse_spec(text.removeprefix(_PRESET))
    values: dict[str, Any] = {"seed": options.seed, **parameters}
    return select(preset_trace(name, **values), options)
