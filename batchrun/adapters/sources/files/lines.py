"""Splits chunks of bytes into lines, with at most one of them in memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import NamedTuple

from batchrun.adapters.sources.files import storage
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import ByteSource
from batchrun.errors import InputLostError
from batchrun.records import Position

BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""No text in UTF-8 begins with one of these."""


class Line(NamedTuple):
    """One record of the input: a line, or the several lines of a CSV record.

    ``data`` is None if it is over the limit; ``number`` is its (first) line number in its file,
    from 1; ``end`` is the byte offset after it, ``lines`` its number of lines. ``cells`` are the
    fields of a CSV record, ``problem`` is why it could not be parsed.
    """

    data: bytes | None
    size: int
    number: int
    file: int
    end: int
    lines: int = 1
    cells: list[str] | None = None
    problem: str | None = None


_new = tuple.__new__  # half the time of calling the named tuple


def split(  # noqa: PLR0912 - one loop, its cases in order
    source: ByteSource, stamp: Stamp, index: int, start: Position, *, bytes_max: int, blank: bool
) -> Iterator[Line | None]:
    """The lines of one file from a position on; blank ones only if asked for.

    None means that more may come, but not at once. A line ends at LF; a CR before it stays with it.
    Raises ``InputLostError`` if reading the file fails.
    """
    offset, number = start.offset, start.line
    rest: list[bytes] = []  # pieces of a line longer than one chunk
    held = 0  # its bytes so far, those beyond the limit included
    for chunk in source.chunks(index, offset):
        if not chunk:
            yield None
            continue
        if offset == 0 and held == 0:
            _refuse_packed(stamp, chunk)
        pieces = chunk.split(b"\n")
        tail = pieces.pop()
        for piece in pieces:
            size = held + len(piece)
            data: bytes | None = piece
            if rest or held:
                data = None if size > bytes_max else b"".join((*rest, piece))
                rest, held = [], 0
            elif size > bytes_max:
                data = None
            offset += size + 1
            number += 1
            if number == 1 and data is not None:
                data = data.removeprefix(BOM)
            if blank or data is None or data.strip():
                yield _new(Line, (data, size, number, index, offset, 1, None, None))
        if tail:
            held += len(tail)
            if held > bytes_max:
                rest = []
            else:
                rest.append(tail)
    if held:
        data = None if held > bytes_max else b"".join(rest)
        if number == 0 and data is not None:
            data = data.removeprefix(BOM)
        if blank or data is None or data.strip():
            yield Line(data, held, number + 1, index, offset + held)


def _refuse_packed(stamp: Stamp, chunk: bytes) -> None:
    if chunk.startswith(UTF16_BOMS):
        message = (
            f"input {stamp.name} is UTF-16; write it as UTF-8: iconv -f UTF-16 -t UTF-8 OLD > NEW"
        )
        raise InputLostError(message)
    codec = next((codec for magic, codec in storage.MAGIC.items() if chunk.startswith(magic)), None)
    if codec is None:
        return
    tool, suffix = ("zcat", ".gz") if codec == "gzip" else ("zstdcat", ".zst")
    remedy = f"pipe it through {tool}"
    if not stamp.passes:
        remedy = f"give its name the suffix {suffix}"
    message = f"input {stamp.name} is compressed with {codec}; {remedy}"
    raise InputLostError(message)
