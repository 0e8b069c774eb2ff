"""Whatever shape a file has: its requests, or one line that says what it is and what helps."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brsolver.errors import BrsolverError
from brsolver.traces import load_trace
from brsolver.traces import source as source_module

if TYPE_CHECKING:
    from pathlib import Path

    from brsolver.traces.trace import Trace

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
ROWS = HEADER + "0,20,25\n1,30,5\n"
MOONCAKE = '{"timestamp": 0, "input_length": 6, "output_length": 5}'
SECOND = '{"timestamp": 2000, "input_length": 7, "output_length": 4}'
RESULT = (
    '{"model_id": "m", "input_lens": [10, 20], "output_lens": [5, 6], "start_times": [1.0, 2.0]}'
)
BLOCKS = pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])


def save(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pairs(trace: Trace) -> list[tuple[int, int]]:
    return list(zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(BrsolverError) as caught:
        load_trace(path, **options)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@BLOCKS
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_breaks_within_quotes_end_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, end: str, *, skip: bool
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", block)
    header = "arrival_s,prompt,prompt_tokens,output_tokens\n"
    text = header + '0,"hello\n9,a,8,7\nworld",20,25\n1,"o""",30,5\n'
    trace = load_trace(save(tmp_path / "t.csv", text.replace("\n", end)), skip_bad_rows=skip)
    assert pairs(trace) == [(20, 25), (30, 5)]
    assert (trace.skipped_rows, trace.place(1)) == (0, "row 5 (line of the file)")


@BLOCKS
def test_rows_are_counted_by_line_where_records_span_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", block)
    rows = '"a\nb",5,6\n\n"c\n\nd",7,8\ne,0,1\n"f\ng",1\n'
    path = save(tmp_path / "t.csv", "prompt,prompt_tokens,output_tokens\n" + rows)
    assert refusal(path).startswith("row 8 (line of the file): prompt_tokens is '0', must be")
    trace = load_trace(path, skip_bad_rows=True)
    assert (pairs(trace), trace.skipped_rows) == ([(5, 6), (7, 8)], 2)
    assert [trace.place(each) for each in (0, 1)] == [
        "row 2 (line of the file)",
        "row 5 (line of the file)",
    ]


@BLOCKS
@pytest.mark.parametrize("skip", [False, True])
def test_a_quote_that_never_closes_hides_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, *, skip: bool
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", block)
    path = save(tmp_path / "t.csv", ROWS + '2,"30,5\n3,40,6\n')
    text = refusal(path, skip_bad_rows=skip)
    assert text.startswith("row 4 (line of the file): record is '2,\"30,5 3,40,6', must close")
    assert pairs(load_trace(path, limit=2)) == [(20, 25), (30, 5)]


@BLOCKS
def test_quotes_within_cells_are_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", block)
    rows = '5" disk,1,2\n"a\nb",3,4\nthe "end",5,6\n7" disk,7,8\n'
    text = f"prompt,prompt_tokens,output_tokens\n{rows}"
    assert pairs(load_trace(save(tmp_path / "t.csv", text))) == [(1, 2), (3, 4), (5, 6), (7, 8)]


def test_a_bad_row_that_encloses_lines_says_so(tmp_path: Path) -> None:
    path = save(tmp_path / "t.csv", ROWS + '2,"30,5\n3,40,6\n4,50,7\n",5,6\n5,60,8\n')
    trace = load_trace(path, skip_bad_rows=True)
    assert (pairs(trace), trace.skipped_rows) == ([(20, 25), (30, 5), (60, 8)], 1)
    assert trace.notes == ("t.csv: row 4 is bad, and its quotes enclose 3 more lines",)


def test_a_record_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(source_module, "_LONGEST_RECORD", 256)
    path = save(tmp_path / "t.csv", ROWS + '2,"' + "30,5\n" * 200)
    assert refusal(path).startswith("row 4 (line of the file): the record is longer than 256 bytes")


def test_cells_longer_than_the_csv_module_takes(tmp_path: Path) -> None:
    cell = "word, " * 40_000
    text = f'prompt,prompt_tokens,output_tokens\n"{cell}",5,6\n\n"{cell}\n{cell}",7,8\n'
    assert pairs(load_trace(save(tmp_path / "t.csv", text))) == [(5, 6), (7, 8)]


# The csv module writes a lone carriage return without quotes, which it does not read then.
CELLS = st.text(alphabet='ab0,;"\n \té', max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, st.integers(1, 999), CELLS), min_size=1, max_size=12),
    block=st.sampled_from([1, 5, 33, 1 << 20]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, int, str]],
    block: int,
    delimiter: str,
    quoting: Any,
    end: str,
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerow(("before", "prompt_tokens", "output_tokens", "after"))
    for before, length, after in rows:
        writer.writerow((before, length, length + 1, after))
    path = save(tmp_path_factory.mktemp("csv") / "t.csv", text.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "_BLOCK_BYTES", block)
        trace = load_trace(path)
    assert pairs(trace) == [(length, length + 1) for _, length, _ in rows]
    lines = text.getvalue().split("\n")
    assert trace.rows is not None
    for row, (_, length, _) in zip(trace.rows, rows, strict=True):
        rest = "\n".join(lines[row - 1 :])
        assert next(csv.reader(io.StringIO(rest, newline=""), delimiter=delimiter))[1] == str(
            length
        )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoted", [False, True])
def test_separators(tmp_path: Path, delimiter: str, *, quoted: bool) -> None:
    text = (ROWS.replace("20", '"20"') if quoted else ROWS).replace(",", delimiter)
    trace = load_trace(save(tmp_path / "t.csv", text))
    assert (pairs(trace), trace.notes) == ([(20, 25), (30, 5)], ())
    path = save(tmp_path / "u.csv", text + f"2{delimiter}4\n")
    words = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
    assert refusal(path).endswith(f"must be 3 fields separated by {words[delimiter]}")


def test_decimal_commas_are_times_only(tmp_path: Path) -> None:
    text = "arrived_at;num_prefill_tokens;num_decode_tokens\n0,0;20;25\n1,75;21;26\n"
    trace = load_trace(save(tmp_path / "vidur_semi.csv", text))
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [0.0, 1.75]
    assert trace.notes == ("vidur_semi.csv: times read with decimal commas: 0,5 is 0.5",)
    path = save(tmp_path / "t.csv", text + "2,5;1,000;3\n")
    assert "row 4 (line of the file): num_prefill_tokens is '1,000', must be a whole" in refusal(
        path
    )


@pytest.mark.parametrize("content", [ROWS, MOONCAKE + "\n" + SECOND + "\n"])
def test_lines_that_end_with_carriage_returns(tmp_path: Path, content: str) -> None:
    trace = load_trace(save(tmp_path / "lf", content))
    for end in ("\r", "\r\n"):
        other = load_trace(save(tmp_path / "other", content.replace("\n", end)))
        assert other.fingerprint() == trace.fingerprint()
        assert other.rows is not None
        assert trace.rows is not None
        assert other.rows.tolist() == trace.rows.tolist()


@pytest.mark.parametrize(
    "text",
    [
        f"{MOONCAKE}\n{SECOND}\n",
        f"\n\n{MOONCAKE}\n\n   \n{SECOND}",
        f"\ufeff{MOONCAKE}\r\n{SECOND}\r\n",
        f"{MOONCAKE},\n{SECOND},\n",
        f"{MOONCAKE}{SECOND}\n",
        f"{MOONCAKE}\n{SECOND}\n".replace("\n", "\r"),
        f"[{MOONCAKE},\n{SECOND}]",
        json.dumps([json.loads(MOONCAKE), json.loads(SECOND)], indent=2),
        "\n".join(json.dumps(json.loads(each), indent=2) for each in (MOONCAKE, SECOND)),
        f'{{"model": "m", "requests": [{MOONCAKE}, {SECOND}]}}',
        f'{{\n"object": "list", "requests": [{MOONCAKE},\n{SECOND}]}}',
        '{"timestamp": [0, 2000], "input_length": [6, 7], "output_length": [5, 4]}',
        '{\n"timestamp": {"0": 0, "1": 2000}, "input_length": {"0": 6, "1": 7}, '
        '"output_length": {"0": 5, "1": 4}}',
    ],
)
def test_json_in_all_its_shapes(tmp_path: Path, text: str) -> None:
    trace = load_trace(save(tmp_path / "t", text))
    assert (pairs(trace), trace.source_format) == ([(6, 5), (7, 4)], "mooncake")
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [0.0, 2.0]


def test_two_records_share_a_line_where_one_was_appended(tmp_path: Path) -> None:
    path = save(tmp_path / "t", f"{MOONCAKE}\n{MOONCAKE}{SECOND}\n")
    trace = load_trace(path)
    assert pairs(trace) == [(6, 5), (6, 5), (7, 4)]
    assert [trace.place(each) for each in range(3)] == [
        f"row {row} (line of the file)" for row in (1, 2, 2)
    ]


@pytest.mark.parametrize(
    "line",
    [
        MOONCAKE[:30],
        MOONCAKE.replace(": 5", ":2748 610"),
        MOONCAKE[:20] + SECOND,
        "INFO: request served",
    ],
)
def test_json_lines_with_one_that_is_broken(tmp_path: Path, line: str) -> None:
    path = save(tmp_path / "t", f"{MOONCAKE}\n{line}\n{SECOND}\n")
    assert refusal(path).startswith("row 2 (line of the file): record is ")
    trace = load_trace(path, skip_bad_rows=True)
    assert (pairs(trace), trace.skipped_rows) == ([(6, 5), (7, 4)], 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "the file holds no requests, only a header or nothing"),
        (HEADER.replace(",", ";"), "the file holds no requests, only a header or nothing"),
        (ROWS + "2,40", "row 4 (line of the file): record is '2,40', must be 3 fields separated"),
        (
            "prompt_tokens,output_tokens,prompt_tokens\n1,2,3\n",
            "column 'prompt_tokens' appears more than once",
        ),
        ("# exported 2026\n" + ROWS, "the first line is '# exported 2026', must be the column"),
        ("sep=;\n" + ROWS.replace(",", ";"), "the first line is 'sep=;', must be the column names"),
        (f"[{MOONCAKE},\n{SECOND[:20]}", "not valid JSON at line 2 column"),
        (f"[{MOONCAKE},\n]", "not valid JSON at line 2 column 1"),
        ("{'prompt_tokens': 5, 'output_tokens': 6}\n", "not valid JSON at line 1 column 2"),
    ],
)
def test_text_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(save(tmp_path / "t", text)).startswith(message)


def test_a_header_that_comes_again_is_left_out(tmp_path: Path) -> None:
    text = ROWS + HEADER + "2,40,6\n"
    trace = load_trace(save(tmp_path / "t.csv", text))
    assert (pairs(trace), trace.skipped_rows) == ([(20, 25), (30, 5), (40, 6)], 0)
    assert trace.notes == (
        "t.csv: the header comes again between rows, as in files that were joined; left out there",
    )
    assert "row 5 (line of the file): prompt_tokens is '0'" in refusal(
        save(tmp_path / "u.csv", ROWS + HEADER + "2,0,6\n")
    )


def archive(**kwargs: Any) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, **kwargs) as tar:
        entry = tarfile.TarInfo("t.csv")
        entry.size = len(ROWS)
        tar.addfile(entry, io.BytesIO(ROWS.encode()))
    return packed.getvalue()


def zipped(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as together:
        for name in names:
            together.writestr(name, ROWS)
    return packed.getvalue()


def feather() -> bytes:
    packed = io.BytesIO()
    pyarrow.feather.write_feather(pa.table({"prompt_tokens": [1]}), packed)
    return packed.getvalue()


FOREIGN = {
    "bz2": (bz2.compress(ROWS.encode()), "is compressed with bzip2; unpack it with bunzip2 first"),
    "xz": (lzma.compress(ROWS.encode()), "is compressed with xz; unpack it with unxz first"),
    "zip": (zipped("t.csv"), "is a zip archive; unpack it with unzip first"),
    "xlsx": (zipped("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook; save the"),
    "tar": (archive(mode="w"), "is a tar archive; unpack it with tar -xf first"),
    "tar.gz": (archive(mode="w:gz"), "is a tar archive; unpack it with tar -xf first"),
    "feather": (feather(), "is an Arrow (Feather) file; write it as Parquet first"),
    "sqlite": (b"SQLite format 3\0" + bytes(84), "is an SQLite database; export the table as CSV"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 12345\n",
        "is a Git LFS pointer, not the file; fetch the file with git lfs pull first",
    ),
    "page": (b"\n<!DOCTYPE html>\n<html lang=en>", "is a web page, not the file behind it"),
    "utf-16": (ROWS.encode("utf-16"), "is UTF-16 text, must be UTF-8; iconv -f UTF-16 -t UTF-8 t"),
    "utf-16-le": (ROWS.encode("utf-16-le"), "is UTF-16LE text, must be UTF-8; iconv -f UTF-16LE"),
    "utf-16-be": (ROWS.encode("utf-16-be"), "is UTF-16BE text, must be UTF-8; iconv -f UTF-16BE"),
    "utf-32": (ROWS.encode("utf-32"), "is UTF-32 text, must be UTF-8; iconv -f UTF-32 -t UTF-8 t"),
    "gzip, cut": (gzip.compress(ROWS.encode() * 999)[:-30], "cannot be read: Truncated compressed"),
    "header": (
        "zeit,größe\n1,2\n".encode("cp1252"),
        "the first line is not UTF-8 text; if the file is cp1252 (Windows), iconv -f cp1252",
    ),
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.values(), ids=FOREIGN)
def test_other_files_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, message: str
) -> None:
    assert refusal(save(tmp_path / "t", content)).startswith(message)


def test_letters_of_another_encoding(tmp_path: Path) -> None:
    text = HEADER.strip() + ",tenant\n0,20,25,Müller\n1,30,5,x\n"
    path = save(tmp_path / "t.csv", text.encode("cp1252"))
    assert refusal(path).endswith(
        "is not UTF-8 text; if the file is cp1252 (Windows), "
        "iconv -f cp1252 -t UTF-8 t.csv > new-t.csv converts it"
    )
    assert load_trace(path, skip_bad_rows=True).skipped_rows == 1
    # Nobody reads this column, and all separators are as they are.
    assert pairs(
        load_trace(save(tmp_path / "u.csv", text.replace("tenant", "text").encode("cp1252")))
    ) == [(20, 25), (30, 5)]


@pytest.mark.parametrize(
    "text",
    [
        f"{RESULT}\n{RESULT.replace('10', '99')}\n",
        f"{RESULT}{RESULT.replace('10', '99')}",
        f"[{RESULT},\n{RESULT.replace('10', '99')}]",
        "\n".join(json.dumps(json.loads(RESULT.replace("10", n)), indent=4) for n in ("10", "99")),
    ],
)
def test_several_results(tmp_path: Path, text: str) -> None:
    path = save(tmp_path / "r.json", text)
    assert refusal(path) == "holds 2 results, choose with --result N (1 to 2)"
    assert pairs(load_trace(path, result=1)) == [(10, 5), (20, 6)]
    assert pairs(load_trace(path, result=2)) == [(99, 5), (20, 6)]
    assert refusal(path, result=3) == "result is 3, must be at most 2"


def test_a_list_of_one_result_is_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "r.json", f"[{RESULT}]")
    assert pairs(load_trace(path)) == [(10, 5), (20, 6)]
    assert pairs(load_trace(path, result=1)) == [(10, 5), (20, 6)]
    bfio = '{"data": [{"input_length": 1, "output_length": 2}]}'
    path = save(tmp_path / "b.json", f"{bfio}\n{bfio.replace('1', '3')}")
    assert pairs(load_trace(path, result=2)) == [(3, 2)]


def test_tables_hold_no_results(tmp_path: Path) -> None:
    path = save(tmp_path / "t.csv", ROWS)
    assert refusal(path, result=1) == "holds rows, no results, so --result 1 cannot be"
