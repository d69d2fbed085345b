"""Text in columns of a terminal: width as it is shown, lines that end at words."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from batchrun.views.text import safe

WIDTH_LEAST = 20
CUT_CHARS = 2000
"""Of a longer text this much is shown, unless all of it is asked for."""
CUT_LINES = 40
_ZERO = ("Mn", "Me", "Cf")
"""Categories of characters that take no column of their own."""
_WIDE = ("W", "F")
_CLOSING = "\u3001\u3002\uff0c\uff01\uff1f\uff1b\uff1a\uff09\u300d\u300f\u300b\u3011"
"""Punctuation that no line begins with."""


def columns_of(text: str) -> int:
    """The columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in _ZERO:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1


def wrap(text: str, width: int | None, indent: int = 0, hang: int = 0) -> Iterator[str]:
    """Text that is safe for a terminal, in indented lines of at most ``width`` columns (None: of
    any). Lines of the text stay lines. They end at words; scripts without spaces between words
    may end anywhere. A longer word stays whole. What is wrapped is indented by ``hang`` more.
    """
    margin = " " * indent
    for line in safe(text).expandtabs(4).split("\n"):
        if width is None or columns_of(line) + indent <= width:
            yield (margin + line).rstrip()
            continue
        room = max(WIDTH_LEAST, width - indent - hang)
        lead = line[: len(line) - len(line.lstrip(" "))][: room // 2]
        for number, piece in enumerate(_lines(line.strip(" "), room - len(lead))):
            yield f"{margin}{' ' * hang if number else ''}{lead}{piece}"


def _lines(line: str, room: int) -> Iterator[str]:
    held, taken = "", 0
    for piece in _pieces(line):
        size = columns_of(piece)
        if held and taken + columns_of(piece.rstrip(" ")) > room:
            yield held.rstrip(" ")
            held, taken = "", 0
        held += piece
        taken += size
    if held:
        yield held.rstrip(" ")


def _pieces(line: str) -> Iterator[str]:
    """What a line may be broken behind: words with the spaces that follow, and characters that
    are wide.
    """
    held = ""
    for character in line:
        wide = not character.isascii() and _columns(character) == 2
        if (wide and held and character not in _CLOSING) or (
            held.endswith(" ") and character != " "
        ):
            yield held
            held = ""
        held += character
    if held:
        yield held


def cut(text: str, *, full: bool) -> tuple[str, str | None]:
    """A text for the screen, and how long it is where some of it was left out."""
    lines = text.count("\n") + 1
    if full or (len(text) <= CUT_CHARS and lines <= CUT_LINES):
        return text, None
    shown = "\n".join(text[:CUT_CHARS].split("\n")[:CUT_LINES])
    if len(shown) < len(text) and not text[len(shown)].isspace():
        at = max(shown.rfind(" "), shown.rfind("\n"))
        shown = shown[:at] if at > CUT_CHARS // 2 else shown
    size = f"{len(text):,} characters"
    if lines > 1:
        size += f" in {lines:,} lines"
    return shown.rstrip(), f"[cut: {size} in all; --full shows them]"
