"""What a file is, where it is not text that can be read: named, with the way to make it so."""

from __future__ import annotations

_MAGIC = (
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2 first"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it with unxz first"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it with unlz4 first"),
    (b"\x1f\x9d", "compressed with compress", "unpack it with uncompress first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with 7z x first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV first"),
    (b"\xd0\xcf\x11\xe0", "an old Office file", "save the sheet as CSV first"),
    (b"ARROW1", "an Arrow (Feather) file", "write it as Parquet first"),
    (b"ORC", "an ORC file", "write it as Parquet first"),
    (b"Obj\x01", "an Avro file", "write it as Parquet first"),
    (b"\x93NUMPY", "a NumPy array", "write it as CSV first"),
    (b"\x89HDF", "an HDF5 file", "write it as Parquet first"),
    (b"%PDF", "a PDF", "get the data it shows as CSV"),
    (
        b"version https://git-lfs.",
        "a Git LFS pointer, not the file",
        "fetch the file with git lfs pull first",
    ),
)
_PAGES = (b"<!doctype html", b"<html")
_TAR = slice(257, 262)
_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def foreign_kind(head: bytes, name: str) -> str | None:
    """Say what a file is and how it becomes readable; None if it may be read as it is.

    Parameters
    ----------
    head : bytes
        Its first bytes, some hundreds at least.
    name : str
        What the file is called, for the remedy.
    """
    if head.startswith(b"PK\x03\x04"):
        return _zip(head)
    for magic, what, remedy in _MAGIC:
        if head.startswith(magic):
            return f"is {what}; {remedy}"
    if head[_TAR] == b"ustar":
        return "is a tar archive; unpack it with tar -xf first"
    if head.lstrip()[:20].lower().startswith(_PAGES):
        return "is a web page, not the file behind it; download the raw file"
    encoding = _encoding(head)
    return encoding and f"is {encoding} text, must be UTF-8; {_conversion(encoding, name)}"


def is_utf8(text: bytes) -> bool:
    """Tell whether a text is UTF-8."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def not_utf8(name: str) -> str:
    """Say that something is not UTF-8, and what it may be."""
    return f"is not UTF-8 text; if the file is cp1252 (Windows), {_conversion('cp1252', name)}"


def _conversion(encoding: str, name: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {name} > new-{name} converts it"


def _zip(head: bytes) -> str:
    if b"[Content_Types].xml" in head or b"xl/" in head:
        return "is an Excel workbook; save the sheet as CSV first"
    return "is a zip archive; unpack it with unzip first"


def _encoding(head: bytes) -> str | None:
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark) and len(head) % 2 == 0:
            return encoding if _decodes(head, encoding) else None
    # Without a mark: every other byte of plain text is zero.
    for zeros, encoding in ((head[1::2], "UTF-16LE"), (head[::2], "UTF-16BE")):
        if len(zeros) > 3 and not zeros.strip(b"\x00"):
            return encoding
    return None


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        text = head[: len(head) // 4 * 4].decode(encoding)
    except UnicodeDecodeError:
        return False
    return text.isascii() or any(letter in text for letter in ",;\t{")
