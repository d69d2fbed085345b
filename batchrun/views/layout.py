"""Text in columns of a terminal: width as it is shown, lines that end at words."""

from __future__ import annotations

from collections.abc import Iterator

from batchrun.views.text import safe

WIDTH_LEAST = 20
CUT_CHARS = 2000
"""The length to which a text is cut, unless it is shown in full."""
CUT_LINES = 40
_CLOSING = "\u3001\u3002\uff0c\uff01\uff1f\uff1b\uff1a\uff09\u300d\u300f\u300b\u3011"
"""Punctuation that no line begins with."""
_JOINER = "\u200d"
"""Makes one sign of the emoji on its two sides."""
_SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
_DOTS = "..."


def columns_of(text: str) -> int:
    """The columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def padded(text: str, width: int, *, right: bool = False) -> str:
    """A text padded with spaces to ``width`` columns: after it or, with ``right``, before it."""
    spaces = " " * (width - columns_of(text))
    return spaces + text if right else text + spaces


def clipped(text: str, width: int) -> str:
    """A text of at most ``width`` columns; one that is longer is cut and ends with dots."""
    if columns_of(text) <= width:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, width - len(_DOTS)).rstrip() + _DOTS


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
        first = max(WIDTH_LEAST, width - indent) - len(lead)
        pieces = _lines(line.strip(" "), room - len(lead), first)
        for number, piece in enumerate(pieces):
            yield f"{margin}{' ' * hang if number else ''}{lead}{piece}"


def _lines(line: str, room: int, first: int) -> Iterator[str]:
    """A line in lines of at most ``room`` columns, the first one of ``first``."""
    held, taken, left = "", 0, first
    for piece in _pieces(line):
        size = columns_of(piece)
        if held and taken + columns_of(piece.rstrip(" ")) > left:
            yield held.rstrip(" ")
            held, taken, left = "", 0, room
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
        wide = (
            not character.isascii()
            and columns_of(character) == 2
            and character not in _CLOSING + _SKIN_TONES
            and not held.endswith(_JOINER)
        )
        if (wide and held) or (held.endswith(" ") and character != " "):
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
