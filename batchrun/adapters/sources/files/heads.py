"""Detects the format of a pipe, and the dialect of CSV and TSV, from the first bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from batchrun.adapters.sources.files import storage
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import ByteSource, FileBytes, Pipe
from batchrun.core.input import dialect
from batchrun.core.input.dialect import DELIMITERS, HEAD_BYTES, Dialect, sep_line
from batchrun.core.settings.reading import QUOTED_FORMATS, Reading, plain
from batchrun.errors import InputError, InputLostError, RunChangedError

PARQUET = b"PAR1"
WORKBOOKS = {b"PK\x03\x04": ".xlsx", b"\xd0\xcf\x11\xe0": ".xls"}
_PIPE_LINES = 2
"""For a pipe, only a header and a row are awaited, since the writer may be slow."""


def read(source: ByteSource, index: int, *, lines: int | None = None) -> tuple[bytes, bool]:
    """The first bytes of a file, up to a number of lines, and whether they are all of it. The
    source is closed. Raises ``InputError`` if the file cannot be read.
    """
    pieces: list[bytes] = []
    size = ends = 0
    try:
        for chunk in source.chunks(index, 0):
            pieces.append(chunk)
            size += len(chunk)
            ends += chunk.count(b"\n")
            if size == len(chunk) and sep_line(chunk.partition(b"\n")[0]):
                ends -= 1
            if size >= HEAD_BYTES or (lines is not None and ends >= lines):
                return b"".join(pieces)[:HEAD_BYTES], False
    except InputLostError as error:
        raise InputError(str(error)) from None
    finally:
        source.close()
    return b"".join(pieces), True


def format_piped(pipe: Pipe, path: str) -> str:
    """The format of data from a pipe without a telling name.

    JSON is recognised by its first character. Other text is CSV, or TSV if a tab is its delimiter;
    a line of JSON among the first makes it JSON lines with bad ones before it. Raises
    ``InputError`` for a format that cannot be read from a pipe.
    """
    head, _ = read(pipe, 0, lines=1)
    name = Stamp(path, -1, 0).name
    for magic, what in {PARQUET: "Parquet", **dict.fromkeys(WORKBOOKS, "a workbook")}.items():
        if head.startswith(magic):
            message = f"input {name}: {what} cannot be read from a pipe; save it to a file first"
            raise InputError(message)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text or head.startswith(tuple(storage.MAGIC)) or text.startswith(b"{"):
        return "jsonl"
    if text.startswith(b"["):
        return "json"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and text[2:].strip(b"\0 \r\n")[:1] in (
        b"{",
        b"[",
    ):
        return "jsonl"  # whose reader tells how to convert it
    head, whole = read(pipe, 0, lines=_PIPE_LINES)
    if any(map(_is_row, head.splitlines())):
        return "jsonl"
    found = _dialect(head, "csv", Reading(), whole=whole)
    return "tsv" if found.delimiter == "\t" else "csv"


def _is_row(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def holds_array(stamps: Sequence[Stamp]) -> bool:
    """Whether files of JSON lines are an array of rows: no line of JSON that is a row begins so.

    The first file decides. Raises ``InputError`` if it cannot be read.
    """
    head, _ = read(FileBytes(stamps[:1]), 0, lines=1)
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def with_dialects(
    reading: Reading, kind: str, stamps: Sequence[Stamp], pipe: Pipe | None
) -> Reading:
    """The rules with the dialect of each file: as requested, else as recorded, else as detected
    from its first bytes.

    Raises ``InputError`` for a file that cannot be read, or is a workbook.
    """
    if kind not in QUOTED_FORMATS:
        return reading
    source: ByteSource = pipe or FileBytes(stamps)
    asked = {"delimiter": reading.delimiter, "encoding": reading.encoding}
    given = {name: value for name, value in asked.items() if value is not None}
    found = []
    for index in range(len(stamps)):
        recorded = index < len(reading.dialects) or not reading.looks
        if recorded:
            known = (*reading.dialects, plain(kind))[min(index, len(reading.dialects))]
        elif len(given) == len(asked) and "utf-16" not in given.values():
            known = plain(kind)
        else:
            head, whole = read(source, index, lines=None if pipe is None else _PIPE_LINES)
            _refuse_workbook(stamps[index], head)
            known = _dialect(head, kind, reading, whole=whole)
        encoding = given.get("encoding", known.encoding)
        if encoding in ("utf-16", "utf-32"):
            encoding = dialect.settled(encoding, read(source, index, lines=1)[0])
        found.append(Dialect(given.get("delimiter", known.delimiter), encoding))
        if recorded and found[-1] != known:
            raise _changed(stamps[index], known, given)
    return replace(reading, dialects=tuple(found))


def _changed(stamp: Stamp, known: Dialect, asked: Mapping[str, str]) -> RunChangedError:
    was = {
        name: value for name, value in known._asdict().items() if asked.get(name, value) != value
    }
    what = ", ".join(f"{name}: was {was[name]!r}, is {asked[name]!r}" for name in was)
    message = (
        f"input {stamp.name} is not read as it was when the run was begun (input.{what}): other "
        "rows would have the numbers of those that are done. Leave it out to continue; --restart "
        "reads the input anew"
    )
    return RunChangedError(message)


def _refuse_workbook(stamp: Stamp, head: bytes) -> None:
    suffix = next((end for magic, end in WORKBOOKS.items() if head.startswith(magic)), None)
    if suffix is not None:
        message = (
            f"input {stamp.name} is a workbook, or another packed file, and no text; "
            f"give its name the suffix {suffix}, or name it with --format xlsx"
        )
        raise InputError(message)


def _dialect(head: bytes, kind: str, reading: Reading, *, whole: bool) -> Dialect:
    default = DELIMITERS[kind]
    if not head or head.startswith(tuple(storage.MAGIC)):
        return plain(kind)
    encoding = reading.encoding or dialect.encoding_of(head, whole=whole)
    encoding = dialect.settled(encoding, head)
    text = head.decode(encoding, "replace").removeprefix("\ufeff")
    first = text.partition("\n")[0]
    told = sep_line(first.encode(errors="replace"))
    if told is not None:
        return Dialect(told, encoding)
    if kind != "csv":
        return Dialect(default, encoding)
    quoted = reading.of(kind).quoting == "csv"
    return Dialect(dialect.delimiter_of(text, default, quoted=quoted, whole=whole), encoding)


def notices(reading: Reading, kind: str, stamps: Sequence[Stamp]) -> list[str]:
    """Notices about files in an unusual dialect of their format, unless it was requested."""
    found: dict[str, list[str]] = {}
    for stamp, known in zip(stamps, reading.dialects, strict=False):
        default = plain(kind)
        told = Dialect(
            default.delimiter if reading.delimiter else known.delimiter,
            default.encoding if reading.encoding else known.encoding,
        ).odd(kind)
        if told is not None:
            found.setdefault(told, []).append(stamp.name)
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more files' if len(names) > 1 else ''}: {told}"
        for told, names in found.items()
    ]
