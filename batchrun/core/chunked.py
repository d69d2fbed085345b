"""The chunked transfer coding of HTTP/1.1 in bytes (RFC 9112, section 7.1)."""

from __future__ import annotations

import functools
import re
from operator import itemgetter

LINE_BYTES_MAX = 2**13
"""A size line or a trailer line may be so long; extensions and trailers are dropped."""

LAST = b"0\r\n\r\n"
"""What ends a body, as nearly all servers write it."""

BULK_BYTES = 2**10
"""Below, taking chunk by chunk is as quick."""

OTHERS_MAX = 8
"""A piece of a stream ends with so many chunks of other kinds at most, if all goes as usual."""

SIZE_LINE_BYTES = 20
"""Longer lines with a size have extensions, or zeros first: nobody sends them."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)


class ChunkedError(ValueError):
    """The coding is broken: what follows cannot be told. ``pieces`` is what stood before."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.pieces: list[bytes] = []


class Dechunker:
    """Takes a chunked body cut anywhere and gives what is in it.

    ``ended`` says that the body is over; ``surplus`` that something came behind it.
    """

    __slots__ = ("_held", "_in_trailer", "_left", "_past", "_without_cr", "ended", "surplus")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0
        self._past = False
        """Whether the line break behind a chunk's data is still to come."""
        self._in_trailer = False
        self._without_cr = True
        """Whether no chunk has held a CR yet, as far as anybody looked."""
        self.ended = False
        self.surplus = False

    @property
    def at_border(self) -> bool:
        """Whether the next bytes begin with the size of a chunk."""
        return not (self._held or self._left or self._past or self._in_trailer)

    def feed(self, data: bytes) -> list[bytes]:
        """What the next bytes hold of the body, chunk by chunk. Raises ``ChunkedError``."""
        pieces: list[bytes] = []
        if data == LAST and self.at_border:
            self._in_trailer = self.ended = True
            return pieces
        try:
            self._take(data, pieces)
        except ChunkedError as error:
            error.pieces = pieces
            raise
        return pieces

    def _take(self, data: bytes, pieces: list[bytes]) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        at, size = 0, len(data)
        if self._left or self._past:
            at = self._take_rest(data, pieces)
            if self._left or self._past:
                return
        if size - at > BULK_BYTES and self._without_cr and not self._in_trailer:
            at += self._take_bulk(data[at:] if at else data, pieces)
        while at < size and not self._in_trailer:
            end = data.find(b"\r\n", at)
            if end < 0:
                self._hold(data, at, whole_at=LINE_BYTES_MAX)
                return
            length = _size(data[at:end])
            at = end + 2
            end = at + length
            if data.startswith(b"\r\n", end) and length:
                pieces.append(data[at:end])
                at = end + 2
            elif length == 0:
                self._in_trailer = True
            else:
                self._left = length
                at = self._take_rest(data, pieces, at)
                if self._left or self._past:
                    return
        if self._in_trailer:
            self._take_trailer(data, at)

    def _take_bulk(self, data: bytes, pieces: list[bytes]) -> int:
        """Take the whole chunks at the start all at once; returns where they end.

        As long as no chunk holds a CR, splitting there gives sizes and data by turns, each but the
        first behind the LF of its line break.
        """
        parts = data.split(b"\r")
        count = (len(parts) - 1) // 2
        if count and parts[2 * count - 2] == b"\n0":
            count -= 1
        if not count:
            return 0
        found = parts[1 : 2 * count : 2]
        try:
            sizes = [_size(parts[0]), *map(_next_size, parts[2 : 2 * count : 2])]
        except ChunkedError:
            self._without_cr = False
            return 0
        taken = [part[1:] for part in found]
        if (
            sizes != list(map(len, taken))
            or not all(sizes)
            or b"\n".join([b"", *taken]) != b"".join(found)
            or not parts[2 * count].startswith(b"\n")
        ):
            self._without_cr = False
            return 0
        pieces += taken
        return len(data) - len(b"\r".join(parts[2 * count :])) + 1

    def _take_rest(self, data: bytes, pieces: list[bytes], at: int = 0) -> int:
        """Go on with a chunk that does not arrive whole; returns where its part here ends."""
        if self._left:
            piece = data[at : at + self._left]
            if piece:
                pieces.append(piece)
            at += len(piece)
            self._left -= len(piece)
            self._past = self._left == 0
        if self._past:
            if data.startswith(b"\r\n", at):
                self._past = False
                return at + 2
            self._hold(data, at, whole_at=2)
        return at

    def _hold(self, data: bytes, at: int, *, whole_at: int) -> None:
        """Keep a line that has not arrived whole; at so many bytes it would have."""
        if len(data) - at >= whole_at:
            message = "no line break where a chunk of the body ends or its size stands"
            raise ChunkedError(message)
        self._held = data[at:]

    def _take_trailer(self, data: bytes, at: int) -> None:
        while not self.ended:
            end = data.find(b"\r\n", at)
            if end < 0:
                self._hold(data, at, whole_at=LINE_BYTES_MAX)
                return
            self.ended = end == at
            at = end + 2
        self.surplus = self.surplus or at < len(data)


def chunk_begins(data: bytes, at: int, start: bytes) -> bool:
    """Whether a chunk begins there that has this at its start. False too where its size cannot be
    seen in so many bytes. Raises ``ChunkedError``.
    """
    line = data.find(b"\n", at, at + SIZE_LINE_BYTES) + 1
    return line > 0 and _size_in(data[at:line]) > 0 and data.startswith(start, line)


def chunk_without(data: bytes, at: int, behind: bytes) -> tuple[bytes, int]:
    """What stands before ``behind`` in the chunk that begins there, and where the chunk ends: where
    it began, if it has nothing there, ends otherwise or has not arrived whole. Raises
    ``ChunkedError``.
    """
    start = data.find(b"\n", at, at + SIZE_LINE_BYTES) + 1
    if start:
        end = start + _size_in(data[at:start])
        stop = end - len(behind)
        if stop > start and data.startswith(behind + b"\r\n", stop):
            return data[start:stop], end + 2
    return b"", at


def alike(data: bytes, at: int, before: bytes, behind: bytes) -> tuple[list[bytes], int]:
    """What stands between ``before`` and ``behind`` in the chunks from there on, as long as all
    hold both, and where these chunks end.

    Nothing where chunks of another kind stand among them: only those behind the last are left out.
    """
    parts = data[at:].split(b"\r")
    chunks = parts[1:-1:2]  # behind the LF of the line with its size
    count = len(chunks) if parts[-1].startswith(b"\n") or len(parts) % 2 == 0 else len(chunks) - 1
    least = max(0, count - OTHERS_MAX)
    while count > least:
        chunk = chunks[count - 1]
        if chunk.endswith(behind) and chunk.startswith(before, 1):
            break
        count -= 1
    start, stop = 1 + len(before), -len(behind)
    texts = list(map(itemgetter(slice(start, stop)), chunks[:count]))
    lines = _Lines(before, len(before) + len(behind))
    # Put together again they must be what arrived: one comparison instead of five a chunk.
    wire = [behind + b"\r\n"] * (3 * count)
    wire[0::3] = map(lines.__getitem__, map(len, texts))
    wire[1::3] = texts
    whole = b"".join(wire)
    return (texts, at + len(whole)) if data.startswith(whole, at) else ([], at)


class _Lines(dict[int, bytes]):
    """How chunks of some text begin, by the length of that text: their size, then ``before``."""

    def __init__(self, before: bytes, others: int) -> None:
        """``others`` is the length of what stands around the text."""
        self._before, self._others = before, others

    def __missing__(self, length: int) -> bytes:
        line = self[length] = b"%x\r\n%b" % (length + self._others, self._before)
        return line


@functools.lru_cache(512)
def _next_size(line: bytes) -> int:
    if not line.startswith(b"\n"):
        message = f"{line[:20]!r} is no size of a chunk"
        raise ChunkedError(message)
    return _size(line[1:])


@functools.lru_cache(512)
def _size_in(line: bytes) -> int:
    """The size on a line up to its LF; 0 where that is not its end."""
    return _size(line[:-2]) if line.endswith(b"\r\n") else 0


@functools.lru_cache(512)
def _size(line: bytes) -> int:
    # Long extensions are refused however they arrive: sizes are remembered.
    found = _SIZE.fullmatch(line) if len(line) < LINE_BYTES_MAX else None
    if found is None:
        message = f"{line[:20]!r} is no size of a chunk"
        raise ChunkedError(message)
    return int(found[1], 16)
