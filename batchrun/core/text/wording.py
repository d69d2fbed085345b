"""Counts and paragraphs as people read them: ``1 row``, ``2 rows``, lines that end at words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

_INDENT_MORE = "  "


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: ``1 row``, ``2,000 rows``. ``many`` is a plural other than with s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def verb(number: int, one: str, many: str) -> str:
    """The verb form that goes with a number: ``1 row has``, ``2 rows have``."""
    return one if number == 1 else many


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
