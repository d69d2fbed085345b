"""Lines of text in other encodings, converted to UTF-8.

Files are cut into lines before they are decoded, so that offsets count the bytes of the file, and
reading can begin at any line. A line that is not valid in its encoding is passed on as invalid
UTF-8, broken at the fault.
"""

from __future__ import annotations

from collections.abc import Iterator

from batchrun.adapters.sources.files import lines
from batchrun.adapters.sources.files.lines import Line
from batchrun.adapters.sources.files.storage import Stamp
from batchrun.adapters.sources.files.streams import ByteSource
from batchrun.core.input.dialect import WIDTHS
from batchrun.records import Position

_FAULT = "\ufffd"


def split(
    source: ByteSource, stamp: Stamp, index: int, start: Position, *, encoding: str, bytes_max: int
) -> Iterator[Line | None]:
    """The lines of one file from a position on, including blank ones, in the form of
    ``lines.split``. Raises ``InputLostError`` if reading the file fails.
    """
    if encoding in WIDTHS:
        found = _wide(source, index, start, encoding, bytes_max)
    else:
        found = lines.split(source, stamp, index, start, bytes_max=bytes_max, blank=True)
    for line in found:
        if line is None or line.data is None:
            yield line
        else:
            yield line._replace(data=_as_utf8(line, encoding))


def _as_utf8(line: Line, encoding: str) -> bytes:
    data = line.data or b""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        broken = data.decode(encoding, "replace").replace(_FAULT, "\udcff")
        return broken.encode(errors="surrogateescape")
    if line.number == 1:
        text = text.removeprefix("\ufeff")
    return text.encode(errors="surrogatepass")


def _wide(
    source: ByteSource, index: int, start: Position, encoding: str, bytes_max: int
) -> Iterator[Line | None]:
    """The lines of text with characters of two or four bytes: a line end only counts at the start
    of a character.
    """
    newline, width = "\n".encode(encoding), WIDTHS[encoding]
    offset, number = start.offset, start.line
    held = bytearray()
    searched = dropped = 0  # of the line being read: bytes searched, bytes beyond the limit
    for chunk in source.chunks(index, offset):
        if not chunk:
            yield None
            continue
        held += chunk
        begin = 0
        while (end := _find(held, newline, searched, width)) >= 0:
            size = dropped + end - begin
            data = None if size > bytes_max else bytes(held[begin:end])
            begin = searched = end + width
            dropped = 0
            offset += size + width
            number += 1
            yield Line(data, size, number, index, offset)
        del held[:begin]
        searched = len(held) // width * width
        if dropped + len(held) > bytes_max:
            dropped += searched
            del held[:searched]
            searched = 0
    size = dropped + len(held)
    if size:
        data = None if size > bytes_max else bytes(held)
        yield Line(data, size, number + 1, index, offset + size)


def _find(data: bytearray, newline: bytes, start: int, width: int) -> int:
    place = data.find(newline, start)
    while place % width and place >= 0:
        place = data.find(newline, place + 1)
    return place
