"""How a CSV or TSV file is written: its delimiter and its encoding, told from its first bytes.

The defaults are what RFC 4180 says, in UTF-8. Another delimiter is taken only where the records of
the head, quoted as the file is, agree on it: the header and the rows have the same number of
fields. Another encoding is taken only where it is certain: a byte order mark, the zeros of UTF-16,
or bytes that are no UTF-8 and are what Windows-1252 has for letters and signs.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from typing import NamedTuple

HEAD_BYTES = 2**18
"""A file is judged by as much of its beginning."""

DELIMITERS = {"csv": ",", "tsv": "\t"}
CANDIDATES = (";", "\t", "|")
UTF8 = "utf-8"
AGREE_ALONE, AGREE_AGAINST = 0.5, 0.8
"""Which share of the records must have as many fields as the header: where the default delimiter
is not in the header at all, and where it is."""

BROKEN_MAX = 10
"""Behind so many broken records the head is not looked at any further."""

_NAMES = {
    "tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " ",
}  # fmt: skip
_SHOWN = {"\t": "tab", " ": "space"}
_SEP = re.compile(rb'"?sep=([^\r\n"])"?[ \t]*\r?', re.IGNORECASE)

BOMS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, which begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
WIDTHS = {"utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}
"""Bytes of a line end in encodings that have more than one."""

_MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x81\x8d\x8f\x90\x9d\xfe\xff]")
"""What Windows-1252 does not have, or what nobody writes: controls, and two letters that are rare
in text and common in bytes that are none."""


class Dialect(NamedTuple):
    """How one file is written."""

    delimiter: str = ","
    encoding: str = UTF8

    def odd(self, kind: str) -> str | None:
        """What of it is not what a file of this kind has, in words; None for nothing."""
        found = []
        if self.delimiter != DELIMITERS[kind]:
            found.append(f"delimiter {format_delimiter(self.delimiter)}")
        if self.encoding != UTF8:
            found.append(f"encoding {self.encoding}")
        return ", ".join(found) or None


def format_delimiter(delimiter: str) -> str:
    """A delimiter as it is spoken of: ``';'`` or ``tab``."""
    return _SHOWN.get(delimiter, repr(delimiter))


def delimiter_named(text: str) -> str | None:
    """The delimiter that a user means by a character or its name; None for none that can be one."""
    found = _NAMES.get(text.lower(), text)
    return found if len(found) == 1 and found not in '"\r\n\0' and ord(found) < 0xD800 else None


def encoding_named(name: str) -> str | None:
    """The encoding of this name as it is recorded; None for one that is not known, or that cannot
    be cut into lines before it is decoded (UTF-7, ISO-2022, EBCDIC).
    """
    try:
        found = codecs.lookup(name).name
        if found == "utf-8-sig":
            return UTF8
        if found in ("utf-16", "utf-32"):
            return found  # which of the two says the mark in the file
        if found in WIDTHS:
            return found
        ends, text = "\n".encode(found), "\r,;\t|\"'ab".encode(found)
    except (LookupError, UnicodeError, ValueError):
        return None
    # A line end is a line end in every state only where the decoder has none.
    stateful = found.startswith(("utf-7", "iso2022", "hz", "idna", "punycode", "unicode_escape"))
    plain = ends == b"\n" and text == b"\r,;\t|\"'ab"
    return found if plain and not stateful and "escape" not in found else None


def settled(encoding: str, head: bytes) -> str:
    """An encoding that was asked for, its byte order told from the mark; little without one."""
    if encoding not in ("utf-16", "utf-32"):
        return encoding
    there = next((name for mark, name in BOMS if head.startswith(mark)), "")
    return there if there.startswith(encoding) else f"{encoding}-le"


def encoding_of(head: bytes, *, whole: bool) -> str:
    """The encoding of a file with this beginning; ``whole`` if that is all of it."""
    for mark, name in BOMS:
        if head.startswith(mark):
            return name
    wide = _without_mark(head)
    if wide is not None:
        return wide
    try:
        codecs.getincrementaldecoder(UTF8)().decode(head, final=whole)
    except UnicodeDecodeError:
        return "cp1252" if _is_windows(head) else UTF8
    return UTF8


def _without_mark(head: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of most of it is zero, and the others never are."""
    head = head[: len(head) // 2 * 2]
    if len(head) < 4 or b"\0" not in head:
        return None
    first, second = head[::2].count(0), head[1::2].count(0)
    name = "utf-16-le" if second > first else "utf-16-be"
    if max(first, second) * 3 < len(head) // 2 or min(first, second) * 20 > max(first, second):
        return None
    try:
        text = codecs.getincrementaldecoder(name)().decode(head)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or "\n" not in text else name


def _is_windows(head: bytes) -> bool:
    """Whether bytes that are no UTF-8 are Windows-1252, and not UTF-8 with a few bytes broken."""
    rest, whole = _MULTIBYTE.subn(b"", head)
    return _NO_TEXT.search(head) is None and whole < len(rest) - len(rest.translate(None, _HIGH))


_HIGH = bytes(range(0x80, 0x100))


def sep_line(line: bytes) -> str | None:
    """The delimiter that a first line ``sep=;`` names, as spreadsheets write and read it."""
    found = _SEP.fullmatch(line)
    try:
        return None if found is None else delimiter_named(found[1].decode())
    except UnicodeDecodeError:
        return None


def delimiter_of(text: str, default: str, *, quoted: bool, whole: bool) -> str:
    """The delimiter of a file whose text begins so; ``whole`` if that is all of it.

    The default stays where the records agree on it, or on no other delimiter.
    """
    lines = text.split("\n")
    if not whole:
        lines.pop()  # it may go on
    found = {each: _agreement(lines, each, quoted=quoted) for each in (default, *CANDIDATES)}
    fields, share = found.pop(default)
    best, (more, agree) = max(found.items(), key=lambda item: (item[1][1], item[1][0]))
    if more < 2 or agree < (AGREE_ALONE if fields < 2 else AGREE_AGAINST):
        return default
    if fields < 2 or agree > share:
        return best
    return best if agree == share and more > max(fields, 2) else default


def _agreement(lines: list[str], delimiter: str, *, quoted: bool) -> tuple[int, float]:
    """The number of the header's fields, and which share of the records behind it has as many.

    A header alone agrees with itself.
    """
    counts = _counts(lines, delimiter, quoted=quoted)
    fields = next(counts, 1)
    if fields < 2:
        return fields, 0.0
    rows = list(counts)
    return fields, rows.count(fields) / len(rows) if rows else 1.0


def _counts(lines: list[str], delimiter: str, *, quoted: bool) -> Iterator[int]:
    """The numbers of fields of the records; of a broken one, 0."""
    if not quoted:
        yield from (line.count(delimiter) + 1 for line in lines if line.strip(" \r"))
        return
    place, broken = 0, 0
    while place < len(lines) and broken < BROKEN_MAX:
        begun = 0
        rest = (line + "\n" for line in lines[place:])
        parser = csv.reader(rest, delimiter=delimiter, strict=True)
        try:
            for record in parser:
                begun = parser.line_num
                if any(cell.strip() for cell in record) or len(record) > 1:
                    yield len(record)
        except csv.Error:
            yield 0
            place += begun + 1  # the line behind the first one of the broken record
            broken += 1
        else:
            return
