"""A trace file as readers see it: what it contains, and its bytes in blocks of whole lines."""

from __future__ import annotations

import csv
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from brsolver.errors import TraceError
from brsolver.traces.fields import show
from brsolver.traces.kinds import foreign_kind, is_utf8, not_utf8
from brsolver.traces.quoting import Records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Container = Literal["csv", "jsonl", "json", "parquet", "folder"]

_HEAD_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 23
_LONGEST_RECORD = 1 << 26
_DELIMITERS = (",", ";", "\t", "|")
_PLAIN = bytes(range(32, 127))
_NO_CONTROL = bytes((9, 10, 13, *range(32, 127), *range(128, 256)))
_BETWEEN = re.compile(r"[\s,]*")
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
    result : int or None
        Which of several results is meant, from 1.
    """

    path: Path
    result: int | None = None

    @property
    def label(self) -> str:
        """What messages call the file."""
        return str(self.path)

    @cached_property
    def head(self) -> bytes:
        """The first bytes, decompressed, without a byte order mark; whole lines if it has any."""
        return self._lines(self._head)

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
        first = self._first_line_json
        if not isinstance(first, dict):
            return "json"
        whole = b"\n" not in self.head.strip()
        return "json" if whole and (_wrapped(first) or _is_columns(first)) else "jsonl"

    @cached_property
    def delimiter(self) -> str:
        """What separates the cells of a CSV file: of what is usual, what its header has most of."""
        return max(_DELIMITERS, key=lambda each: len(_cells(self._first_line, each) or ()))

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
        """The first JSON value; None if the file is not JSON.

        Of an object that holds nothing but a list of records, and facts about it, the records.
        """
        if self.container == "jsonl":
            return self._first_line_json
        if self.container != "json":
            return None
        first = self.values[0] if self.values else None
        return _wrapped(first) or first

    @cached_property
    def values(self) -> list[Any]:
        """All JSON values of the file: mostly one, but results may be appended to each other."""
        with self.reading(), self._open() as stream:
            content: bytes = stream.read()
        try:
            return json_values(content.removeprefix(_BOM).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise TraceError(
                f"{self.label}: byte {error.start} {not_utf8(self.path.name)}"
            ) from error
        except json.JSONDecodeError as error:
            place = f"line {error.lineno} column {error.colno}"
            raise TraceError(f"{self.label}: not valid JSON at {place}: {error.msg}") from error
        except RecursionError as error:
            raise TraceError(f"{self.label}: JSON is nested too deeply for a trace") from error

    @property
    def records(self) -> Any:
        """The file as one JSON value of records: what it holds, or all values one after another."""
        if len(self.values) == 1:
            return self.first_value
        return [record for value in self.values for record in _as_list(value)]

    @property
    def document(self) -> Any:
        """The JSON value that is one result: the only one, or the one that `result` names."""
        found = [each for value in self.values for each in _as_list(value)]
        if not found:
            return self.values[0] if self.values else None
        chosen = 1 if self.result is None and len(found) == 1 else self.result
        if chosen is None:
            raise TraceError(
                f"{self.label}: holds {len(found)} results, choose with --result N "
                f"(1 to {len(found)})"
            )
        if chosen > len(found):
            raise TraceError(f"{self.label}: result is {chosen}, must be at most {len(found)}")
        return found[chosen - 1]

    @cached_property
    def header_lines(self) -> int:
        """Lines up to and including the CSV header: blank lines may precede it."""
        blank = self.head[: len(self.head) - len(self.head.lstrip())]
        return blank.count(b"\n") + 1

    def require_file(self) -> None:
        """Refuse folders, and that one of several results is asked for: a table holds rows."""
        self._refuse_folder()
        if self.result is not None:
            raise TraceError(
                f"{self.label}: holds rows, no results, so --result {self.result} cannot be"
            )

    def parquet(self) -> pq.ParquetFile:
        """Open the file as Parquet."""
        try:
            with self.reading():
                return pq.ParquetFile(self.path)
        except pa.ArrowException as error:
            raise TraceError(f"{self.label}: damaged Parquet file: {_one_line(error)}") from error

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield ``(number of the first line, bytes)``; every block ends with a record's end."""
        line, rest = 1, b""
        with self.reading(), self._open() as stream:
            while chunk := stream.read(_BLOCK_BYTES):
                if line == 1 and not rest:
                    chunk = chunk.removeprefix(_BOM)
                block, rest = self._cut(rest, self._lines(chunk))
                if block:
                    yield line, block
                    line += block.count(b"\n")
                if self.container == "csv" and len(rest) > _LONGEST_RECORD:
                    raise TraceError(
                        f"{self.label}: row {line} (line of the file): the record is longer than "
                        f"{_LONGEST_RECORD:,} bytes, must close its quotes before"
                    )
        if rest:
            yield line, rest + b"\n"

    def _cut(self, rest: bytes, chunk: bytes) -> tuple[bytes, bytes]:
        """Return the records that end in `rest` and `chunk`, and what remains."""
        if self.container == "csv" and (b'"' in chunk or b'"' in rest):
            whole = rest + chunk
            cut = Records(whole, self.delimiter.encode()).end
            return whole[:cut], whole[cut:]
        cut = chunk.rfind(b"\n") + 1
        return (rest + chunk[:cut], chunk[cut:]) if cut else (b"", rest + chunk)

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
        self._refuse_folder()
        if self.path.exists() and not self.path.is_file():
            raise TraceError(f"{self.label}: is not a regular file; save the trace to a file first")
        with self.path.open("rb") as stream:
            magic = stream.read(4)
        for prefix, codec in _COMPRESSION.items():
            if magic.startswith(prefix):
                return pa.CompressedInputStream(pa.OSFile(str(self.path)), codec)
        return self.path.open("rb")

    @cached_property
    def _head(self) -> bytes:
        with self.reading(), self._open() as stream:
            head: bytes = stream.read(_HEAD_BYTES)
            # A first record longer than the head still has to be seen whole.
            while b"\n" not in head and b"\r" not in head[:-1]:
                more = stream.read(_BLOCK_BYTES)
                if not more:
                    break
                head += more
        return head.removeprefix(_BOM)

    def _lines(self, content: bytes) -> bytes:
        """Let lines end as they do elsewhere, where they end with a carriage return alone."""
        alone = b"\r" in self._head.rstrip() and b"\n" not in self._head
        return content.replace(b"\r", b"\n") if alone else content

    def _refuse_folder(self) -> None:
        if self.path.is_dir():
            raise TraceError(f"{self.label}: is a folder, must be a trace file")

    def _require_text(self) -> None:
        if not self.head.strip():
            raise TraceError(f"{self.label}: the file is empty")
        foreign = foreign_kind(self.head, self.path.name)
        if foreign is not None:
            raise TraceError(f"{self.label}: {foreign}")
        # Letters of another encoding can stand in columns that nobody reads.
        line = self._first_line
        mostly_plain = len(line.translate(None, _PLAIN)) <= len(line) / 2
        control = b"\0" in self.head or line.translate(None, _NO_CONTROL)
        if control or not (mostly_plain or is_utf8(line)):
            raise TraceError(f"{self.label}: binary data, must be a text trace or a Parquet file")
        if not is_utf8(line):
            raise TraceError(f"{self.label}: the first line {not_utf8(self.path.name)}")

    @property
    def header(self) -> bytes:
        """The first line that is not blank, as it is in the file."""
        return self._first_line

    @cached_property
    def _first_line(self) -> bytes:
        return self.head.lstrip().split(b"\n", 1)[0].strip()

    @cached_property
    def _first_line_json(self) -> Any:
        try:
            return json.loads(self._first_line.removesuffix(b","))
        except (ValueError, RecursionError):
            return None

    @cached_property
    def _csv_names(self) -> tuple[str, ...]:
        line = self._first_line
        if line.startswith((b"#", b"sep=")):
            raise TraceError(
                f"{self.label}: the first line is {show(line.decode())}, must be the column names; "
                f"sed 1d {self.path.name} > new-{self.path.name} takes it out"
            )
        row = _cells(line, self.delimiter)
        if row is None:
            raise TraceError(f"{self.label}: the first line is no CSV header")
        return tuple(name.strip() for name in row)


def json_values(text: str) -> list[Any]:
    """Read JSON values that stand one after another, with or without commas between.

    Raises
    ------
    json.JSONDecodeError
        At the place of the file where it is none.
    """
    decoder, values, at = json.JSONDecoder(), [], 0
    while (at := _BETWEEN.match(text, at).end()) < len(text):  # type: ignore[union-attr] # it matches nothing, too
        value, at = decoder.raw_decode(text, at)
        values.append(value)
    return values


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _wrapped(value: Any) -> list[Any] | None:
    """Return the records of an object that holds nothing else but facts about them.

    The files of the BF-IO simulator are such objects too, and have a reader of their own.
    """
    if not isinstance(value, dict):
        return None
    lists = [key for key, each in value.items() if isinstance(each, list) and each]
    if len(lists) != 1 or not isinstance(value[lists[0]][0], dict):
        return None
    records: list[Any] = value[lists[0]]
    return None if lists == ["data"] and "input_length" in records[0] else records


def _is_columns(value: dict[str, Any]) -> bool:
    """Tell whether an object holds columns: at least two lists of one length."""
    sizes = [len(each) for each in value.values() if isinstance(each, list | dict)]
    return len(sizes) > 1 and sizes[0] > 0 and len(set(sizes)) == 1


def _cells(line: bytes, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([line.decode("utf-8", errors="replace")], delimiter=delimiter), None)
    except csv.Error:
        return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
