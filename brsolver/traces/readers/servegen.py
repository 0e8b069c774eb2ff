"""ServeGen client files: distributions from which requests are drawn.

A client is a pair of files. ``chunk-N-trace.csv`` has no header; each line is a window:
``start_s,rate,cv,pattern,shape,scale`` with the rate in requests per second and the pattern
``Gamma``, ``Weibull``, ``Exponential`` or empty for an idle window. ``chunk-N-dataset.json`` maps
the start of a (longer) window, in seconds, to the probabilities of ``input_tokens`` and
``output_tokens``, each the text ``"{length: probability, ...}"``. The source is either file of a
pair, or a folder with many pairs.

A window lasts until the client's next line, be that an idle one; the last window of a client
lasts as long as the one before it. Requests are drawn window by window with one generator. A
client sends ``rate * width`` requests in a window, which is the number that was observed; the
gaps between them have the window's pattern and shape, scaled to fill the window, so that the rate
holds whatever the fitted scale is. Where the windows of several clients do not line up, they are
drawn in pieces. Their lengths come from the latest dataset window that has begun, prompt and output
independently, as the files hold no joint distribution. Probability on zero tokens is left out.
``tenant`` is the client's number.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from brsolver.errors import TraceError
from brsolver.traces.selection import select
from brsolver.traces.source import Source
from brsolver.traces.trace import MAX_LENGTH, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from brsolver.traces.read_options import ReadOptions

_TRACE_NAME = re.compile(r"(.*?)(\d+)-trace\.csv")
_LENGTHS = ("input_tokens", "output_tokens")
_PATTERNS = ("Exponential", "Gamma", "Weibull")
_DEFAULT_WINDOW_S = 600.0
_MIN_SHAPE = 0.01
_MAX_DRAWN = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    start_s: float
    rate: float
    pattern: str
    shape: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pdf:
    lengths: NDArray[np.int64]
    weights: NDArray[np.float64]

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        return rng.choice(self.lengths, size=size, p=self.weights)


@dataclass(frozen=True, kw_only=True)
class _Client:
    number: int
    windows: dict[float, _Window]
    datasets: dict[float, tuple[_Pdf, _Pdf]]

    @cached_property
    def edges(self) -> list[float]:
        """Where windows begin, in ascending order, and where the last one ends."""
        starts = sorted(self.windows)
        width = starts[-1] - starts[-2] if len(starts) > 1 else _DEFAULT_WINDOW_S
        return [*starts, starts[-1] + width] if starts else []

    def window_at(self, time_s: float) -> _Window | None:
        """Return the window that has begun and not ended."""
        place = bisect_right(self.edges, time_s)
        return self.windows[self.edges[place - 1]] if 0 < place < len(self.edges) else None

    def dataset_at(self, start_s: float) -> tuple[_Pdf, _Pdf] | None:
        begun = [begin for begin in self.datasets if begin <= start_s]
        return self.datasets[max(begun)] if begun else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeGenReader:
    """Reader that draws a trace from ServeGen's client files."""

    name: str = "servegen"
    summary: str = "ServeGen client files, from which requests are drawn (CSV + JSON pairs)"
    random: bool = True

    def sniff(self, source: Source) -> bool:
        """Tell whether the source is a window table, a dataset or a folder of pairs."""
        if source.container == "folder":
            return any(_TRACE_NAME.fullmatch(path.name) for path in source.path.iterdir())
        if source.container == "csv":
            return _is_window(source.names)
        return _is_dataset(source.first_value)

    def read(self, source: Source, options: ReadOptions) -> Trace:
        """Draw requests, all windows or until the limit, with ``options.seed``."""
        clients = [_read_client(path, options) for path in _trace_paths(source)]
        rng = np.random.default_rng(options.seed)
        parts: list[NDArray[np.float64]] = []
        size = 0
        for part in _draw_windows(clients, rng):
            parts.append(part)
            size += part.shape[1]
            if options.enough(size):
                break
        if not size:
            raise TraceError(f"{source.label}: no window has a rate above 0 and length data")
        drawn = np.concatenate(parts, axis=1)
        trace = Trace(
            prompt_tokens=drawn[1].astype(np.int64),
            output_tokens=drawn[2].astype(np.int64),
            arrival_s=drawn[0] - drawn[0, 0],
            name=source.path.name,
            source_format=self.name,
            columns={"tenant": drawn[3].astype(np.int64)},
            origin_s=float(drawn[0, 0]),
        )
        return select(trace, options)


def _draw_windows(
    clients: list[_Client], rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield, window by window, rows of time, prompt, output and client, sorted by time."""
    edges = sorted({edge for client in clients for edge in client.edges})
    for start, end in pairwise(edges):
        drawn = [_draw_client(client, start, end - start, rng) for client in clients]
        window = np.concatenate(drawn, axis=1)
        yield window[:, np.argsort(window[0], kind="stable")]


def _draw_client(
    client: _Client, start: float, width: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    window = client.window_at(start)
    dataset = client.dataset_at(start)
    if window is None or window.rate <= 0 or dataset is None:
        return np.empty((4, 0))
    times = start + _arrivals(window, width, rng)
    prompt, output = (pdf.draw(rng, times.size) for pdf in dataset)
    return np.stack((times, prompt, output, np.full(times.size, float(client.number))))


def _arrivals(window: _Window, width: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw ``rate * width`` times whose gaps have the window's pattern and fill the window."""
    expected = window.rate * width
    if expected > _MAX_DRAWN:
        raise TraceError(
            f"the window at {window.start_s:g} s sends {expected:g} requests, must be at most "
            f"{_MAX_DRAWN:,}"
        )
    count = int(expected) + int(rng.random() < expected % 1.0)
    gaps = _gaps(window, rng, count + 1)
    total = float(gaps.sum())
    # Shapes near 0 can underflow to no gap at all.
    return width * np.cumsum(gaps)[:-1] / total if total > 0 else np.zeros(count)


def _gaps(window: _Window, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    if window.pattern == "Gamma":
        return rng.standard_gamma(window.shape, size)
    if window.pattern == "Weibull":
        return rng.weibull(window.shape, size)
    return rng.standard_exponential(size)


def _trace_paths(source: Source) -> list[Path]:
    path = source.path
    if source.container == "folder":
        found = [(_TRACE_NAME.fullmatch(item.name), item) for item in path.iterdir()]
        numbered = sorted((int(match[2]), item) for match, item in found if match)
        if not numbered:
            raise TraceError(f"{source.label}: no files named chunk-N-trace.csv in this folder")
        return [item for _, item in numbered]
    if path.name.endswith("-dataset.json"):
        return [path.with_name(path.name.replace("-dataset.json", "-trace.csv"))]
    return [path]


def _read_client(path: Path, options: ReadOptions) -> _Client:
    match = _TRACE_NAME.fullmatch(path.name)
    if match is None:
        raise TraceError(f"{path}: a ServeGen client file must be named chunk-N-trace.csv")
    dataset = Source(path=path.with_name(path.name.replace("-trace.csv", "-dataset.json")))
    return _Client(
        number=int(match[2]),
        windows=_read_windows(Source(path=path), options),
        datasets=_read_datasets(dataset),
    )


def _read_windows(source: Source, options: ReadOptions) -> dict[float, _Window]:
    windows: dict[float, _Window] = {}
    for line, block in source.blocks():
        for row, text in enumerate(block.decode("utf-8", errors="replace").splitlines(), line):
            window = _window(text.strip().split(",")) if text.strip() else None
            if text.strip() and window is None and not options.skip_bad_rows:
                raise TraceError(
                    f"{source.label}: row {row} (line of the file): record is {text.strip()!r}, "
                    f"must be start_s,rate,cv,pattern,shape,scale with pattern empty or one of "
                    f"{', '.join(_PATTERNS)}"
                )
            window = window or _unknown(text)
            if window is not None:
                windows[window.start_s] = window
    return windows


def _unknown(text: str) -> _Window | None:
    """Return an idle window for a line that is left out: the one before it still ends there."""
    try:
        start = float(text.split(",", 1)[0])
    except ValueError:
        return None
    return _Window(start_s=start, rate=0.0, pattern="", shape=1.0) if math.isfinite(start) else None


def _window(cells: list[str]) -> _Window | None:
    if not _is_window(cells):
        return None
    start, rate, _, pattern, shape, _ = cells
    window = _Window(start_s=float(start), rate=float(rate), pattern=pattern, shape=float(shape))
    if not pattern:
        return _Window(start_s=window.start_s, rate=0.0, pattern="", shape=1.0)
    return window if window.rate > 0 and window.shape >= _MIN_SHAPE else None


def _is_window(cells: list[str] | tuple[str, ...]) -> bool:
    if len(cells) != 6 or cells[3] not in ("", *_PATTERNS):
        return False
    try:
        numbers = np.array([cells[0], cells[1], cells[2], cells[4], cells[5]], dtype=np.float64)
    except ValueError:
        return False
    return bool(np.isfinite(numbers).all() and (numbers >= 0).all())


def _is_dataset(document: Any) -> bool:
    if not isinstance(document, dict) or not document:
        return False
    start, fields = next(iter(document.items()))
    return start.isdigit() and isinstance(fields, dict) and set(_LENGTHS) <= set(fields)


def _read_datasets(source: Source) -> dict[float, tuple[_Pdf, _Pdf]]:
    document = source.document
    if not _is_dataset(document):
        raise TraceError(f"{source.label}: is no ServeGen dataset of input_tokens, output_tokens")
    datasets: dict[float, tuple[_Pdf, _Pdf]] = {}
    for start, fields in document.items():
        pair = tuple(_pdf(source, start, name, fields) for name in _LENGTHS)
        if pair[0] is not None and pair[1] is not None:
            datasets[float(start)] = (pair[0], pair[1])
    return datasets


def _pdf(source: Source, start: str, name: str, fields: Any) -> _Pdf | None:
    """Read ``"{490: 0.25, 491: 0.75}"``; None if it is empty, as in windows without requests."""
    text = fields.get(name) if isinstance(fields, dict) else None
    body = text.strip().strip("{}").strip() if isinstance(text, str) else None
    if body == "":
        return None
    try:
        # The text is a Python dict of numbers, which is JSON but for its unquoted keys.
        pairs = json.loads("[" + str(body).replace(":", ",") + "]")
        table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        float(start)
    except (ValueError, RecursionError) as error:
        raise TraceError(
            f"{source.label}: window {start!r}: {name} must be a text {{length: probability, ...}}"
        ) from error
    table = table[table[:, 0] >= 1]
    weight = table[:, 1].sum() if table.size else 0.0
    if not np.isfinite(table).all() or (table < 0).any() or weight <= 0:
        raise TraceError(
            f"{source.label}: window {start!r}: {name} must have positive probabilities of "
            "lengths of at least 1 token"
        )
    if (longest := table[:, 0].max()) > MAX_LENGTH:
        raise TraceError(
            f"{source.label}: window {start!r}: {name} has the length {longest:g}, must be at "
            f"most {MAX_LENGTH:,} tokens"
        )
    return _Pdf(lengths=table[:, 0].astype(np.int64), weights=table[:, 1] / weight)


READER = ServeGenReader()
