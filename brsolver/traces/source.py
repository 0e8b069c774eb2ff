"""A trace file as readers see it: what it contains, and its bytes in blocks of whole lines."""

from __future__ import annotations

import codecs
import csv
import json
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from brsolver.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Container = Literal["csv", "jsonl", "json", "parquet", "folder"]

_HEAD_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 23
_COMPRESSION = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One trace file, opened as often as needed and judged by its content only.

    Attributes
    ----------
    path : Path
        The file, plain or compressed with gzip or zstd; or a folder, which only formats that
        consist of several files accept.
    """

    path: Path

    @property
    def label(self) -> str:
        """What messages call the file."""
        return str(self.path)

    @cached_property
    def head(self) -> bytes:
        """The first bytes, decompressed, without a byte order mark."""
        with self.reading(), self._open() as stream:
            head: bytes = stream.read(_HEAD_BYTES)
            # A first record longer than the head still has to be seen whole.
            while b"\n" not in head and (more := stream.read(_BLOCK_BYTES)):
                head += more
        return head.removeprefix(_BOM)

    @cached_property
    def container(self) -> Container:
        """The kind of file, from its first bytes."""
        if self.path.is_dir():
            return "folder"
        if self.head.startswith(b"PAR1"):
            return "parquet"
        self._require_text()
        if self.head.lstrip()[:1] not in (b"{", b"["):
            return "csv"
        return "jsonl" if isinstance(self._first_line_json, dict) else "json"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Column names of the header, or field names of the first record."""
        if self.container == "folder":
            return ()
        if self.container == "parquet":
            return tuple(self.parquet().schema_arrow.names)
        if self.container == "csv":
            return self._csv_names
        record = self.first_value
        if isinstance(record, list) and record:
            record = record[0]
        return tuple(record) if isinstance(record, dict) else ()

    @property
    def first_value(self) -> Any:
        """The first JSON value; None if the file is not JSON."""
        if self.container == "jsonl":
            return self._first_line_json
        return self.document if self.container == "json" else None

    @cached_property
    def document(self) -> Any:
        """The whole file as one JSON value."""
        with self.reading(), self._open() as stream:
            content: bytes = stream.read()
        try:
            return json.loads(content.removeprefix(_BOM).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise TraceError(f"{self.label}: not UTF-8 text at byte {error.start}") from error
        except json.JSONDecodeError as error:
            place = f"line {error.lineno} column {error.colno}"
            raise TraceError(f"{self.label}: not valid JSON at {place}: {error.msg}") from error
        except RecursionError as error:
            raise TraceError(f"{self.label}: JSON is nested too deeply for a trace") from error

    @cached_property
    def header_lines(self) -> int:
        """Lines up to and including the CSV header: blank lines may precede it."""
        blank = self.head[: len(self.head) - len(self.head.lstrip())]
        return blank.count(b"\n") + 1

    def require_file(self) -> None:
        """Refuse folders."""
        if self.path.is_dir():
            raise TraceError(f"{self.label}: is a folder, must be a trace file")

    def parquet(self) -> pq.ParquetFile:
        """Open the file as Parquet."""
        try:
            with self.reading():
                return pq.ParquetFile(self.path)
        except pa.ArrowException as error:
            raise TraceError(f"{self.label}: damaged Parquet file: {_one_line(error)}") from error

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield ``(number of the first line, bytes)``; every block ends with a line's end."""
        line, rest = 1, b""
        with self.reading(), self._open() as stream:
            while chunk := stream.read(_BLOCK_BYTES):
                if line == 1 and not rest:
                    chunk = chunk.removeprefix(_BOM)
                cut = chunk.rfind(b"\n") + 1
                block, rest = (rest + chunk[:cut], chunk[cut:]) if cut else (b"", rest + chunk)
                if block:
                    yield line, block
                    line += block.count(b"\n")
        if rest:
            yield line, rest + b"\n"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn failures of the file system into one line that names the file."""
        try:
            yield
        except FileNotFoundError as error:
            raise TraceError(f"{self.label}: no such file") from error
        except OSError as error:
            reason = error.strerror or _one_line(error)
            raise TraceError(f"{self.label}: cannot be read: {reason}") from error

    def _open(self) -> Any:
        self.require_file()
        if self.path.exists() and not self.path.is_file():
            raise TraceError(f"{self.label}: is not a regular file; save the trace to a file first")
        with self.path.open("rb") as stream:
            magic = stream.read(4)
        for prefix, codec in _COMPRESSION.items():
            if magic.startswith(prefix):
                return pa.CompressedInputStream(pa.OSFile(str(self.path)), codec)
        return self.path.open("rb")

    def _require_text(self) -> None:
        if not self.head.strip():
            raise TraceError(f"{self.label}: the file is empty")
        # final=False: the head may end within a character.
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(self.head, final=False)
            valid = b"\0" not in self.head
        except UnicodeDecodeError:
            valid = False
        if not valid:
            raise TraceError(f"{self.label}: binary data, must be a text trace or a Parquet file")

    @cached_property
    def _first_line_json(self) -> Any:
        line = self.head.lstrip().split(b"\n", 1)[0]
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return None

    @cached_property
    def _csv_names(self) -> tuple[str, ...]:
        line = self.head.lstrip().split(b"\n", 1)[0].decode("utf-8", errors="replace")
        try:
            row = next(csv.reader([line.strip()]))
        except csv.Error as error:
            raise TraceError(f"{self.label}: the first line is no CSV header: {error}") from error
        return tuple(name.strip() for name in row)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
