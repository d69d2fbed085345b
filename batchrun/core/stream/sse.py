"""Server-sent events in bytes: telling a stream from a plain body, cutting it into events, reading
one event's fields.

Bytes are split, never decoded text: Unicode knows more line ends (U+2028, U+0085) than the format,
and they may stand inside a JSON string. Pieces may be cut anywhere, within a character or between
CR and LF too. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, and what
servers do beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

EVENT_STREAM = "text/event-stream"
BLANK = b"\n\n"
"""The blank line behind an event, once line ends are LF."""
CR = 0x0D
"""As numbers: looking for bytes in bytes by ``in``, Python makes and drops an error first."""

_BOM = b"\xef\xbb\xbf"
_SKIPPED = _BOM + b" \t\0"
_FIELDS = (b"data", b"event", b"id", b"retry", b"error")
"""Fields that a stream begins with. Builds of llama.cpp sent errors as ``error: {...}``."""
_FIELD_BYTES_MAX = max(map(len, _FIELDS))
EVENT_BYTES_MAX = 2**18
"""An event of several lines is handed on in parts beyond this: there are servers that leave out the
blank lines, and their replies would be one event, read only at its end. One line may be longer.
"""


class Event(NamedTuple):
    """One event. ``data`` holds its data lines; lines of bare JSON in a row are one of them.
    ``unknown`` is the last line that is no field of the format.
    """

    name: str
    data: list[bytes]
    unknown: bytes = b""


def is_stream(start: bytes, content_type: str, *, whole: bool = False) -> bool | None:
    """Whether a body that starts like this is a stream of events; None: more of it must be seen.

    The body decides before its header: servers label plain JSON as a stream, and the other way
    round. ``whole`` says that nothing follows.
    """
    labelled = content_type.lower().startswith(EVENT_STREAM)
    text = start.removeprefix(_BOM)
    text = text.lstrip()
    if not text or (_BOM.startswith(text) and text != _BOM):
        return labelled if whole else None
    if text[:1] in (b"{", b"[", b"<"):
        return False
    if labelled or text.startswith(b":"):
        return True
    name, colon, _ = text[: _FIELD_BYTES_MAX + 1].partition(b":")
    if colon:
        return name in _FIELDS
    if whole or len(text) > _FIELD_BYTES_MAX:
        return False
    return None if any(field.startswith(name) for field in _FIELDS) else False


class Splitter:
    """Pieces of a stream become its events."""

    __slots__ = ("_after_cr", "_held")

    def __init__(self) -> None:
        self._held = bytearray()
        self._after_cr = False

    @property
    def idle(self) -> bool:
        """Whether the next piece begins a new event."""
        return not (self._held or self._after_cr)

    def feed(self, piece: bytes) -> bytes:
        """The lines of the events that are whole now, ended by LF, with a blank line between two
        events and none behind the last. Empty where none is whole.
        """
        if not piece:
            return b""
        if self._after_cr or CR in piece:
            piece = self._unified(piece)
        held = self._held
        if not held:
            end = piece.rfind(BLANK)
            if end < 0:
                held += piece
                return b""
            held += piece[end + 2 :]
            return piece[:end]
        start = len(held) - 1
        held += piece
        end = held.rfind(BLANK, start)
        if end < 0 and len(held) > EVENT_BYTES_MAX:
            end = held.rfind(b"\n", start)
        if end < 0:
            return b""
        whole = bytes(held[:end])
        del held[: end + 2 if held.startswith(BLANK, end) else end + 1]
        return whole

    def rest(self) -> bytes:
        """What came after the last blank line: an event that its server did not end."""
        return bytes(self._held)

    def _unified(self, piece: bytes) -> bytes:
        """CRLF and lone CR as LF. A CR at the very end is one already; its LF may yet come."""
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._after_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def read_event(lines: Sequence[bytes]) -> Event:
    """The fields of one event, given by its lines. Comments, ``id``, ``retry`` and unknown fields
    are left out.

    ``error: ...`` is read as an event of that name, and lines from one that begins with a brace as
    data whose field name was forgotten.
    """
    name, unknown = "", b""
    data: list[bytes] = []
    bare: list[bytes] = []
    for line in lines:
        # Marks, blanks and zero bytes where nothing needs them.
        field, _, value = line.lstrip(_SKIPPED).partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        match field:
            case b"data":
                if bare:
                    data.append(b"\n".join(bare))
                    bare = []
                data.append(value)
            case b"event":
                name = value.decode("ascii", errors="replace").strip().lower()
            case b"error":
                name = "error"
                data.append(value)
            case b"" | b"id" | b"retry":
                pass
            case _ if bare or line.lstrip(_SKIPPED)[:1] in (b"{", b"["):
                bare.append(line.lstrip(_BOM + b"\0"))
            case _:
                unknown = line
    if bare:
        data.append(b"\n".join(bare))
    return Event(name, data, unknown)
