"""Counts and paragraphs as people read them: ``1 row``, ``2 rows``, lines that end at words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

_INDENT_MORE = "  "
_CUT = " ..."


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: ``1 row``, ``2,000 rows``. ``many`` is a plural other than with s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def verb(number: int, one: str, many: str) -> str:
    """The verb form that goes with a number: ``1 row has``, ``2 rows have``."""
    return one if number == 1 else many


def shortened(text: str, most: int) -> str:
    """A text on one line of at most ``most`` characters. One that is longer is cut between words,
    or within one where there is no space near the end, and ends with dots.
    """
    line = " ".join(text[: most * 20].split())
    if len(line) <= most:
        return line
    end = line.rfind(" ", most // 2, most - len(_CUT) + 1)
    return line[: end if end > 0 else most - len(_CUT)] + _CUT


def wrapped(text: str, width: int) -> Iterator[str]:
    """Text in lines of at most ``width`` columns that end at words; a longer word stays whole.

    Lines of the text stay lines, and keep their indent; what is wrapped is indented by two more.
    """
    for line in text.split("\n"):
        if len(line) <= width:
            yield line
            continue
        indent = line[: len(line) - len(line.lstrip())]
        yield from textwrap.wrap(
            line.strip(),
            width,
            initial_indent=indent,
            subsequent_indent=indent + _INDENT_MORE,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        ) or [""]
